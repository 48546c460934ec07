"""From pools to views: everything is compared before an image is read, and read before anything is trained."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nnunetv2_xssr.encoders.encoder import Opened
from nnunetv2_xssr.encoders.pooling import EMBEDDINGS
from nnunetv2_xssr.encoders.registry import DEFAULT, open_encoder
from nnunetv2_xssr.errors import UserError, first_few, one_of
from nnunetv2_xssr.images.channels import common_channels, with_channels
from nnunetv2_xssr.images.extract import check_axis, check_volumes
from nnunetv2_xssr.images.normalise import check_window, parse_window
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.images.regions import Regions
from nnunetv2_xssr.images.scale import candidates_look
from nnunetv2_xssr.images.views import HowSeen, Views, how_seen, read_views
from nnunetv2_xssr.records.files import sha256_json
from nnunetv2_xssr.records.logs import logger


@dataclass(frozen=True, kw_only=True)
class Seeing:
    """What the user chose about what is seen of the images.

    Attributes
    ----------
    encoder : str or Path
        See `nnunetv2_xssr.encoders.registry`.
    encoder_weights : Path or None
        Of a timm model.
    embeddings, source_embeddings : Path or None
        Features made elsewhere, in the place of an encoder: see `nnunetv2_xssr.pipeline.given`.
    embedding : {"auto", "grid+intensity", "grid", "average", "gap"}
    dim : {2, 3}
    axis : str or None
        Along which slices are taken: see `nnunetv2_xssr.images.extract.Look`; None for what the encoder learned.
    window : str or None
        Of CT, as ``40/400``; None for what the encoder learned.
    slice_range : str or None
    roi : Path or None
        See `nnunetv2_xssr.images.regions.Regions`.
    pretrain_epochs : int or None
        Of the pretraining, where an encoder must be pretrained; None for the default, or whatever the kept one had.
    """

    encoder: str | Path = DEFAULT
    encoder_weights: Path | None = None
    embeddings: Path | None = None
    source_embeddings: Path | None = None
    embedding: str = "auto"
    dim: int = 2
    axis: str | None = None
    window: str | None = None
    slice_range: str | None = None
    roi: Path | None = None
    pretrain_epochs: int | None = None

    def check(self, unit: str) -> None:
        """Raise `UserError` if something is no value, or nothing for cases, or slices, as unit."""
        if self.dim not in (2, 3):
            raise one_of("--dim", (2, 3), self.dim)
        if self.embedding not in EMBEDDINGS:
            raise one_of("--embedding", EMBEDDINGS, self.embedding)
        self._check_given(unit)
        if unit == "slice" and self.dim == 3:
            raise UserError("--unit slice needs slices, which --dim 3 does not see; leave --dim out")
        if unit == "case" and (self.slice_range or self.roi):
            option = "--roi" if self.roi else "--slice_range"
            raise UserError(f"{option} is about slices; give --unit slice with it")
        if self.pretrain_epochs is not None and self.pretrain_epochs < 1:
            raise UserError(f"--pretrain_epochs must be 1 or more; got {self.pretrain_epochs}")
        check_axis(self.axis, dim=self.dim, unit=unit)
        parse_window(self.window)

    def _check_given(self, unit: str) -> None:
        """Raise `UserError` if files of features are given, and something that would be ignored beside them."""
        if self.embeddings is None:
            if self.source_embeddings is not None:
                raise UserError("--source_embeddings are compared with those of the pool; give --embeddings FILE too")
            return
        beside = asdict(Seeing(embeddings=self.embeddings, source_embeddings=self.source_embeddings))
        for name, value in asdict(self).items():
            if value != beside[name]:
                raise UserError(f"--{name} is about images, which --embeddings does not look at; leave one of them out")
        if unit == "slice":
            raise UserError("--embeddings has one row per case, not per slice; leave --unit slice out")

    def settings(self) -> dict:
        """Plain values, for the record, which has the hash of the encoder and not how long it was pretrained."""
        values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        del values["pretrain_epochs"]
        return {**values, "encoder": None if self.encoder == DEFAULT else self.encoder}  # as older records have it


@dataclass(frozen=True, kw_only=True)
class PoolViews:
    """The views of a target and its sources, and what embeds them.

    Attributes
    ----------
    target : Views
    sources : list of Views
    encoder : Opened
        It may still have to learn from them.
    provenance : dict
        Hashes of what the views were made from, and the keys of their caches.
    """

    target: Views
    sources: list[Views]
    encoder: Opened
    provenance: dict

    @property
    def all(self) -> list[Views]:
        """The target's, then those of the sources."""
        return [self.target, *self.sources]

    @property
    def set_aside(self) -> list[str]:
        """A sentence for every broken case."""
        return [sentence for views in self.all for sentence in views.broken]

    @property
    def mixtures(self) -> list[str]:
        """Sentences about what differs between the cases of a pool, as in storage, and what pools share."""
        return [*(sentence for views in self.all for sentence in views.mixtures), *self.shared, *self.copies]

    @property
    def shared(self) -> list[str]:
        """A sentence about the images of the target that a source holds too."""
        return [
            f"{n} of {len(self.target.hashes)} images of {self.target.pool.name} are in the source {source.pool.name} "
            f"too, byte for byte; --exclude leaves out what need not be annotated"
            for source in self.sources
            if (n := sum(map(set(source.hashes.values()).__contains__, self.target.hashes.values())))
        ]

    @property
    def copies(self) -> list[str]:
        """A sentence about the images that the target holds several times."""
        hashes = self.target.hashes
        times = Counter(hashes.values())
        copies = [case for case, digest in hashes.items() if times[digest] > 1]
        if not copies:
            return []
        return [
            f"{len(copies)} of {len(hashes)} images of {self.target.pool.name} are copies of each other, byte for byte "
            f"({first_few(copies)}): a group in --cases keeps them in one fold, --exclude leaves some out"
        ]


def read_pools(
    target: ImagePool,
    sources: Sequence[ImagePool],
    *,
    seeing: Seeing,
    unit: str,
    skip_broken: bool,
    device: str,
    regions: Regions | None = None,
) -> PoolViews:
    """Make the views of a target and its sources, as the encoder knows them if there is one.

    All images are read before an encoder is trained: a broken one is found after minutes and not after hours.

    Parameters
    ----------
    target : ImagePool
    sources : sequence of ImagePool
    seeing : Seeing
    unit : {"case", "slice"}
    skip_broken : bool
        Set broken cases aside instead of raising.
    device : {"cpu", "cuda", "mps"}
    regions : Regions, optional
        In which the candidates among the target's slices lie.

    Raises
    ------
    UserError
        If an image cannot be used, or pools and encoder do not fit together.
    """
    regions = regions or Regions()
    encoder, seen = open_and_see(target, sources, seeing=seeing, unit=unit, device=device, regions=regions)
    everything = [read_views(one, skip_broken=skip_broken) for one in seen]
    read = PoolViews(
        target=everything[0],
        sources=everything[1:],
        encoder=encoder,
        provenance=_provenance(target, everything, regions),
    )
    for sentence in read.set_aside:
        logger.info("set aside: %s", sentence)
    for sentence in [*read.shared, *read.copies]:
        logger.info(sentence)
    if unit == "slice":
        _tell_of_candidates(read.target, regions)
    return read


def open_and_see(
    target: ImagePool, sources: Sequence[ImagePool], *, seeing: Seeing, unit: str, device: str, regions: Regions
) -> tuple[Opened, list[HowSeen]]:
    """Open the encoder, and decide how the target and the sources are seen: arguments and errors as of `read_pools`."""
    channels = common_channels([target, *sources])
    learn_from = list(sources) or [target]
    encoder = open_encoder(
        str(seeing.encoder),
        weights=seeing.encoder_weights,
        learn_from=[pool.name for pool in learn_from],
        dim=seeing.dim,
        device=device,
        epochs=seeing.pretrain_epochs,
    )
    window = parse_window(seeing.window)
    check_window(window, channels)
    axis = None if unit == "slice" else seeing.axis
    look = encoder.look(with_channels(learn_from, channels), dim=seeing.dim, axis=axis, window=window)
    if channels:
        encoder.check_channels(channels, target.name)
    seen = [
        how_seen(
            pool,
            channel_names=channels,
            dim=seeing.dim,
            look=candidates_look(pool, look) if unit == "slice" else look,
            regions=regions if pool is target else None,
        )
        for pool in [target, *sources]
    ]
    check_volumes(axis, (one.shape[0] for one in seen))
    return encoder, seen


def _tell_of_candidates(views: Views, regions: Regions) -> None:
    if views.rows.shape[1] == 1:
        raise UserError(f"--unit slice needs volumes; the images of {views.pool.name} are flat: leave it out")
    without = [volume for volume, facts in views.facts.items() if not facts.candidates]
    if without:
        counts = len(without), len(views.facts)
        logger.info("no slice of %d of %d volumes may be chosen: %s", *counts, first_few(without, 10))
    if len(without) == len(views.facts):
        raise UserError(f"no slice of {views.pool.name} lies where --slice_range, --cases and --roi allow; widen them")
    if regions.masks:
        of = [views.facts[volume] for volume in views.facts if volume in regions.masks]
        share = 100 * sum(facts.open for facts in of) / max(1, sum(facts.of for facts in of))
        logger.info(
            "%.0f %% of the slices lie in the region of interest; without --roi about %.0f %% of the slices to draw "
            "would be empty",
            share,
            100 - share,
        )


def _provenance(target: ImagePool, everything: list[Views], regions: Regions) -> dict:
    views, *of_sources = everything
    return {
        "pool": sha256_json(views.hashes),
        "source": {one.pool.name: sha256_json(one.hashes) for one in of_sources},
        "views_cache": {one.pool.name: one.cache for one in everything},
        "facts_cache": {one.pool.name: one.facts_cache for one in everything},
        "cases": facts_hash(target),
        **({"roi": sha256_json(regions.hashes)} if regions.masks else {}),
    }


def facts_hash(target: ImagePool) -> str:
    """SHA-256 of what is known of the cases besides their images."""
    return sha256_json([[case.identifier, case.domain, case.group, case.cost, case.slices] for case in target.cases])
