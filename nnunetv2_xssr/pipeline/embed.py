"""From views to features that cases are compared by: encoder, embedding."""

from dataclasses import dataclass

import numpy as np

from nnunetv2_xssr.images.slices import candidate_rows, row_per_slice
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.pipeline.read import PoolViews, checkpoint_of
from nnunetv2_xssr.pretrain.embedding import Encoder, embed, load_encoder
from nnunetv2_xssr.pretrain.pooling import COMPONENTS, choose_embedding, features
from nnunetv2_xssr.pretrain.processes import start
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.pretrain.training import pretrain
from nnunetv2_xssr.records.files import sha256, sha256_json
from nnunetv2_xssr.records.logs import logger
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
    """

    identifiers: list[str]
    pool: np.ndarray
    source: np.ndarray | None
    provenance: dict


def embed_pools(read: PoolViews, *, embedding: str, unit: str, seed: int, device: str) -> Embedded:
    """Embed a target and its sources; pretrain the encoder where there is none.

    Parameters
    ----------
    read : PoolViews
    embedding : {"auto", "grid", "average", "gap"}
    unit : {"case", "slice"}
    seed : int
        Of a pretraining.
    device : {"cpu", "cuda", "mps"}

    Raises
    ------
    UserError
        If pools and encoder do not fit together.
    """
    learn_from = read.sources or [read.target]
    encoder = read.encoder or _new_encoder(learn_from, seed=seed, device=device)
    _check_sources(encoder, learn_from, given=read.given)
    embedded = {views.pool.name: embed(encoder, views) for views in read.all}
    kept = [embeddings.rows for embeddings in embedded.values()]
    identifiers = read.target.pool.identifiers
    if unit == "slice":
        identifiers = list(candidate_rows(read.target.facts))
        kept = [
            row_per_slice(rows, candidate_rows(views.facts).values())
            for rows, views in zip(kept, read.all, strict=True)
        ]
    kind = choose_embedding(kept[0], encoder.layout, kind=embedding)
    pool, *source = [features(rows, encoder.layout, kind=kind) for rows in kept]
    return Embedded(
        identifiers=identifiers,
        pool=pool,
        source=np.concatenate(source) if source else None,
        provenance={
            **read.provenance,
            "embeddings_cache": {name: rows.key for name, rows in embedded.items()},
            "encoder": encoder.identity,
            "embedding": kind,
            "components": COMPONENTS[kind],
            "embeddings": sha256(block.tobytes() for rows in [pool, *source] for block in blocks(rows)),
        },
    )


def _new_encoder(learn_from: list[Views], *, seed: int, device: str) -> Encoder:
    final = checkpoint_of([views.pool for views in learn_from], learn_from[0].dim)
    names = ", ".join(views.pool.name for views in learn_from)
    logger.info("no encoder %s yet: pretraining on %s", final, names)
    pretrain(learn_from, settings=Settings(seed=seed), fabric=start(device), resume=True)
    logger.info("wrote %s", final)
    return load_encoder(final, device=device)


def _check_sources(encoder: Encoder, learn_from: list[Views], *, given: bool) -> None:
    now = {views.pool.name: sha256_json(views.hashes) for views in learn_from}
    if not given and encoder.sources != now:
        logger.info("the images have changed since %s learned from them; delete it to pretrain anew", encoder.path)
