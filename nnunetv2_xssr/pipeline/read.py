"""From pools to views: everything is compared before an image is read, and read before anything is trained."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nnunetv2_xssr.errors import UserError, first_few, one_of
from nnunetv2_xssr.images.channels import common_channels
from nnunetv2_xssr.images.extract import check_axis
from nnunetv2_xssr.images.normalise import check_window, parse_window
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.images.regions import Regions
from nnunetv2_xssr.images.views import Views, candidates_look, common_look, prepare_views
from nnunetv2_xssr.pretrain.embedding import Encoder, check_channels, check_look, load_encoder
from nnunetv2_xssr.records.files import sha256_json
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.workspace import encoder_folder


@dataclass(frozen=True, kw_only=True)
class Seeing:
    """What the user chose about what is seen of the images.

    Attributes
    ----------
    encoder : Path or None
        A checkpoint; None for the one of the sources, or of the target where there are none.
    embedding : {"auto", "grid", "average", "gap"}
    dim : {2, 3}
    axis : str or None
        Along which slices are taken: see `nnunetv2_xssr.images.extract.Look`; None for what the encoder learned.
    window : str or None
        Of CT, as ``40/400``; None for what the encoder learned.
    slice_range : str or None
    roi : Path or None
        See `nnunetv2_xssr.images.regions.Regions`.
    """

    encoder: Path | None = None
    embedding: str = "auto"
    dim: int = 2
    axis: str | None = None
    window: str | None = None
    slice_range: str | None = None
    roi: Path | None = None

    def check(self, unit: str) -> None:
        """Raise `UserError` if something is no value, or nothing for cases, or slices, as unit."""
        if self.dim not in (2, 3):
            raise one_of("--dim", (2, 3), self.dim)
        if unit == "slice" and self.dim == 3:
            raise UserError("--unit slice needs slices, which --dim 3 does not see; leave --dim out")
        if unit == "case" and (self.slice_range or self.roi):
            option = "--roi" if self.roi else "--slice_range"
            raise UserError(f"{option} is about slices; give --unit slice with it")
        check_axis(self.axis, dim=self.dim, unit=unit)
        parse_window(self.window)

    def settings(self) -> dict:
        """Plain values, for the record."""
        paths = {name: str(path) if path else None for name, path in (("encoder", self.encoder), ("roi", self.roi))}
        return {**asdict(self), **paths}


@dataclass(frozen=True, kw_only=True)
class PoolViews:
    """The views of a target and its sources, and what embeds them.

    Attributes
    ----------
    target : Views
    sources : list of Views
    encoder : Encoder or None
        None where it is still to be trained.
    given : bool
        Whether the user named its file.
    provenance : dict
        Hashes of what the views were made from, and the keys of their caches.
    """

    target: Views
    sources: list[Views]
    encoder: Encoder | None
    given: bool
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
        """A sentence for every pool whose files differ in how they are stored."""
        return [views.mixture for views in self.all if views.mixture]


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
    channels = common_channels([target, *sources])
    learn_from = list(sources) or [target]
    known = _known_encoder(seeing.encoder, learn_from, dim=seeing.dim, device=device)
    window = parse_window(seeing.window)
    check_window(window, channels)
    axis = None if unit == "slice" else seeing.axis
    if known is None:
        look = common_look(learn_from, dim=seeing.dim, axis=axis, window=window)
    else:
        check_look(known, dim=seeing.dim, axis=axis, window=window)
        if channels:
            check_channels(known, channels, target.name)
        look = replace(known.look, axis=axis or known.look.axis)
    everything = [
        prepare_views(
            pool,
            channel_names=channels,
            skip_broken=skip_broken,
            dim=seeing.dim,
            look=candidates_look(pool, look) if unit == "slice" else look,
            regions=regions if pool is target else None,
        )
        for pool in [target, *sources]
    ]
    read = PoolViews(
        target=everything[0],
        sources=everything[1:],
        encoder=known,
        given=seeing.encoder is not None,
        provenance=_provenance(target, everything, regions),
    )
    for sentence in read.set_aside:
        logger.info("set aside: %s", sentence)
    if unit == "slice":
        _tell_of_candidates(read.target, regions)
    return read


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
    facts = [[case.identifier, case.domain, case.group, case.cost, case.slices] for case in target.cases]
    return {
        "pool": sha256_json(views.hashes),
        "source": {one.pool.name: sha256_json(one.hashes) for one in of_sources},
        "views_cache": {one.pool.name: one.cache for one in everything},
        "facts_cache": {one.pool.name: one.facts_cache for one in everything},
        "cases": sha256_json(facts),
        **({"roi": sha256_json(regions.hashes)} if regions.masks else {}),
    }


def _known_encoder(file: Path | None, learn_from: Sequence[ImagePool], *, dim: int, device: str) -> Encoder | None:
    """The encoder asked for, or that of these pools; None where it is still to be trained."""
    final = file or checkpoint_of(learn_from, dim)
    return load_encoder(final, device=device) if file or final.is_file() else None


def checkpoint_of(learn_from: Sequence[ImagePool], dim: int) -> Path:
    """Where the encoder lies that learns from these pools."""
    return encoder_folder([pool.name for pool in learn_from], dim=dim) / "checkpoint_final.pth"
