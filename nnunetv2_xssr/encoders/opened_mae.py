"""The autoencoder that select asks for: it is there, or it is pretrained first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunetv2_xssr.encoders.encoder import Opened, Request
from nnunetv2_xssr.encoders.mae import Autoencoder, check_channels, check_look, load_encoder
from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.extract import Look
from nnunetv2_xssr.images.normalise import Window
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.pretrain.engine import FINAL, LATEST, remove_ended
from nnunetv2_xssr.pretrain.processes import start
from nnunetv2_xssr.pretrain.rehearsal import rehearse
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.pretrain.training import VIEW_RULES, pretrain
from nnunetv2_xssr.records.files import is_there, sha256_json
from nnunetv2_xssr.records.locks import weights_lock
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.workspace import encoder_folder


@dataclass(frozen=True, kw_only=True)
class OpenedAutoencoder(Opened):
    """An autoencoder that is there, or is still to be trained.

    Attributes
    ----------
    path : Path
        The checkpoint.
    given : bool
        Whether the user named it.
    known : Autoencoder or None
        None where it is still to be trained.
    learn_from : tuple of str
        Names of the pools that it is trained on.
    epochs : int or None
        As asked for.
    device : {"cpu", "cuda", "mps"}
    """

    path: Path
    given: bool
    known: Autoencoder | None
    learn_from: tuple[str, ...]
    epochs: int | None
    device: str

    def look(self, pools: Sequence[ImagePool], *, dim: int, axis: str | None, window: Window | None) -> Look:
        """As it has learned, if it has: see `Opened`."""
        if self.known is None:
            return super().look(pools, dim=dim, axis=axis, window=window)
        check_look(self.known, dim=dim, axis=axis, window=window)
        return replace(self.known.look, axis=axis or self.known.look.axis)

    def check_channels(self, channel_names: Sequence[str], pool_name: str) -> None:
        """Compare them with those that it learned: see `Opened`."""
        if self.known is not None:
            check_channels(self.known, channel_names, pool_name)

    def describe(self) -> str:
        """Whether there is one: see `Opened`."""
        if self.known is not None:
            return f"{self.path} is there and is reused"
        goes_on = self.path.with_name(LATEST).is_file()
        return (
            f"{self.path} is {'unfinished' if goes_on else 'missing'}: pretraining on {first_few(self.learn_from)} for "
            f"{_epochs(self._settings(seed=0).epochs)} {'goes on' if goes_on else 'makes it'}"
        )

    def writes(self) -> list[Path]:
        """The checkpoint and the pictures beside it: see `Opened`."""
        names = ("progress.png", "reconstructions.png")
        return [] if self.known else [self.path, *map(self.path.with_name, names)]

    def rehearse(self, sources: Sequence[Views], *, seed: int) -> tuple[Autoencoder, float]:
        """The same network after a few batches: see `Opened`."""
        if self.known is not None:
            return self.known, 0.0
        settings, folder = self._settings(seed=seed), self.path.parent
        content, seconds = rehearse(sources, settings=settings, fabric=start(self.device), folder=folder)
        return Autoencoder.of(content, name="mae", where=str(self.path), device=self.device), seconds

    def _settings(self, *, seed: int) -> Settings:
        return Settings(seed=seed) if self.epochs is None else Settings(seed=seed, epochs=self.epochs)

    def ready(self, sources: Sequence[Views], *, seed: int) -> Autoencoder:
        """Pretrain it where there is none: see `Opened`."""
        encoder = self.known
        if encoder is None:
            with weights_lock(self.path.parent):
                if not self.path.is_file():  # else another command has made it since
                    self._pretrain(sources, seed=seed)
            encoder = load_encoder(self.path, device=self.device)
            if any(encoder.views[rule] != sources[0].settings[rule] for rule in VIEW_RULES):
                raise UserError(f"{self.path} was made meanwhile, from other views; run the same command again")
            check_epochs(encoder, self.epochs)
        elif not self.given:
            remove_ended(self.path.parent)
        now = {views.pool.name: sha256_json(views.hashes) for views in sources}
        if not self.given and encoder.sources != now:
            logger.info("the images have changed since %s learned from them; delete it to pretrain anew", self.path)
        return encoder

    def _pretrain(self, sources: Sequence[Views], *, seed: int) -> None:
        names = ", ".join(views.pool.name for views in sources)
        logger.info("no encoder %s yet: pretraining on %s", self.path, names)
        pretrain(list(sources), settings=self._settings(seed=seed), fabric=start(self.device), resume=True)
        logger.info("wrote %s", self.path)


def open_mae(request: Request) -> OpenedAutoencoder:
    """Open the checkpoint that is named, or that of the pools: see `nnunetv2_xssr.encoders.registry`."""
    given = bool(request.argument)
    folder = encoder_folder(request.learn_from, dim=request.dim)
    path = Path(request.argument) if given else folder / FINAL
    known = load_encoder(path, device=request.device) if given or is_there(path) else None
    if known:
        check_epochs(known, request.epochs)
    return OpenedAutoencoder(
        path=path,
        given=given,
        known=known,
        learn_from=request.learn_from,
        epochs=request.epochs,
        device=request.device,
    )


def check_epochs(encoder: Autoencoder, epochs: int | None) -> None:
    """Raise `UserError` if an encoder is there already that was pretrained for other epochs than are asked for."""
    if epochs not in (None, encoder.epochs):
        raise UserError(
            f"{encoder.where} was pretrained for {_epochs(encoder.epochs)}, not for --pretrain_epochs {epochs}; leave "
            f"it out to reuse that encoder, or delete the file to pretrain anew"
        )


def _epochs(number: int | str | None) -> str:
    return f"{number} epoch{'s' * (number != 1)}"
