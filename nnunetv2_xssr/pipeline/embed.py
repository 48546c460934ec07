"""From pools to features that cases are compared by: views, encoder, embedding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_rows import CaseRows
from nnunetv2_xssr.images.channels import common_channels
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.images.slices import row_per_slice, slice_names
from nnunetv2_xssr.images.views import Views, common_look, prepare_views
from nnunetv2_xssr.pipeline.slice_plan import unlike_slices
from nnunetv2_xssr.pretrain.embedding import Encoder, check_channels, embed, load_encoder
from nnunetv2_xssr.pretrain.pooling import COMPONENTS, choose_embedding, features
from nnunetv2_xssr.pretrain.processes import start
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.pretrain.training import pretrain
from nnunetv2_xssr.records.files import sha256, sha256_json
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.workspace import encoder_folder
from nnunetv2_xssr.selection.standardise import blocks


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The target's cases, or slices, and the sources in one feature space, and what they were made from.

    Attributes
    ----------
    identifiers : list of str
        Of the rows of ``pool``.
    pool : array of shape (n, d)
    source : array of shape (m, d) or None
    provenance : dict
        Hashes of everything that decides the features.
    set_aside : list of str
        A sentence for every broken case.
    left_out : set of str
        Cases or slices without a row, or with that of another slice of their volume.
    """

    identifiers: list[str]
    pool: np.ndarray
    source: np.ndarray | None
    provenance: dict
    set_aside: list[str]
    left_out: set[str]


def embed_pools(
    target: ImagePool,
    sources: Sequence[ImagePool],
    *,
    encoder: Path | None,
    embedding: str,
    dim: int,
    unit: str,
    seed: int,
    skip_broken: bool,
    device: str,
) -> Embedded:
    """Read, and embed, a target and its sources; pretrain the encoder where there is none.

    Parameters
    ----------
    target : ImagePool
    sources : sequence of ImagePool
    encoder : Path or None
        A checkpoint; by default the one of the sources, or of the target where there are none.
    embedding : {"auto", "grid", "average", "gap"}
    dim : {2, 3}
    unit : {"case", "slice"}
    seed : int
        Of a pretraining.
    skip_broken : bool
        Set broken cases aside instead of raising.
    device : {"cpu", "cuda", "mps"}

    Raises
    ------
    UserError
        If an image cannot be used, or pools and encoder do not fit together.
    """
    channels = common_channels([target, *sources])
    learn_from = list(sources) or [target]
    known = _known_encoder(encoder, learn_from, dim=dim, device=device)
    if known and channels:
        check_channels(known, channels, target.name)  # before anything is read
    look = known.look if known else common_look(learn_from, dim=dim)
    if unit == "slice":
        look = replace(look, as_stored=True)  # annotators draw on the slices of the file
    # All images are read before the encoder is trained: a broken one is found after minutes and not after hours.
    target_views, *source_views = (
        prepare_views(pool, channel_names=channels, skip_broken=skip_broken, dim=dim, look=look)
        for pool in [target, *sources]
    )
    everything = [target_views, *source_views]
    set_aside = [sentence for views in everything for sentence in views.broken]
    for sentence in set_aside:
        logger.info("set aside: %s", sentence)
    n_views = target_views.rows.shape[1]
    if unit == "slice" and n_views == 1:
        raise UserError(f"--unit slice needs volumes; the images of {target.name} are flat: leave it out")
    loaded = known or _new_encoder(source_views or [target_views], seed=seed, device=device)
    _check_sources(loaded, source_views or [target_views], given=encoder is not None)

    embedded = {views.pool.name: embed(loaded, views) for views in everything}
    kept = [embeddings.rows for embeddings in embedded.values()]
    if unit == "slice":
        kept = [row_per_slice(rows) for rows in kept]
    kind = choose_embedding(kept[0], loaded.layout, kind=embedding)
    pool, *source = [features(rows, loaded.layout, kind=kind) for rows in kept]
    identifiers, left_out = target_views.pool.identifiers, set(target.identifiers) - set(target_views.pool.identifiers)
    if unit == "slice":
        identifiers = [name for volume in identifiers for name in slice_names(volume)]
        copies = np.array(identifiers)[~unlike_slices(identifiers, pool, n_views)]
        left_out = {name for volume in left_out for name in slice_names(volume)} | set(copies.tolist())
    return Embedded(
        identifiers=identifiers,
        pool=pool,
        source=np.concatenate(source) if source else None,
        provenance={
            **_provenance(target, target_views, source_views, embedded),
            "encoder": loaded.identity,
            "embedding": kind,
            "components": COMPONENTS[kind],
            "embeddings": sha256(block.tobytes() for rows in [pool, *source] for block in blocks(rows)),
        },
        set_aside=set_aside,
        left_out=left_out,
    )


def _provenance(target: ImagePool, views: Views, source_views: list[Views], embedded: dict[str, CaseRows]) -> dict:
    """Hashes of what the features were made from, and the keys of the caches in which views and features lie."""
    everything = [views, *source_views]
    return {
        "pool": sha256_json(views.hashes),
        "source": {one.pool.name: sha256_json(one.hashes) for one in source_views},
        "views_cache": {one.pool.name: one.cache for one in everything},
        "embeddings_cache": {name: rows.key for name, rows in embedded.items()},
        "cases": sha256_json([[case.identifier, case.domain, case.group, case.cost] for case in target.cases]),
    }


def _known_encoder(file: Path | None, learn_from: Sequence[ImagePool], *, dim: int, device: str) -> Encoder | None:
    """The encoder asked for, or that of these pools; None where it is still to be trained."""
    final = file or _checkpoint(learn_from, dim)
    return load_encoder(final, device=device) if file or final.is_file() else None


def _new_encoder(learn_from: list[Views], *, seed: int, device: str) -> Encoder:
    final = _checkpoint([views.pool for views in learn_from], learn_from[0].dim)
    names = ", ".join(views.pool.name for views in learn_from)
    logger.info("no encoder %s yet: pretraining on %s", final, names)
    pretrain(learn_from, settings=Settings(seed=seed), fabric=start(device), resume=True)
    logger.info("wrote %s", final)
    return load_encoder(final, device=device)


def _checkpoint(learn_from: Sequence[ImagePool], dim: int) -> Path:
    return encoder_folder([pool.name for pool in learn_from], dim=dim) / "checkpoint_final.pth"


def _check_sources(encoder: Encoder, learn_from: list[Views], *, given: bool) -> None:
    now = {views.pool.name: sha256_json(views.hashes) for views in learn_from}
    if not given and encoder.sources != now:
        logger.info("the images have changed since %s learned from them; delete it to pretrain anew", encoder.path)
