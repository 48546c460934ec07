"""From views to features that cases are compared by: encoder, embedding."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nnunetv2_xssr.encoders.embedding import embed, kept_layout
from nnunetv2_xssr.encoders.pooling import check_embedding, compare
from nnunetv2_xssr.images.slices import candidate_rows, row_per_slice
from nnunetv2_xssr.pipeline.read import PoolViews
from nnunetv2_xssr.records.files import sha256
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
    encoder : dict
        For the record: ``name``, ``identity``, ``weights`` (hashes), ``transform`` and ``pooling``.
    provenance : dict
        Hashes of everything that decides the features.
    set_aside, mixtures : list of str
        See `PoolViews`.
    """

    identifiers: list[str]
    pool: np.ndarray
    source: np.ndarray | None
    encoder: dict
    provenance: dict
    set_aside: list[str] = field(default_factory=list)
    mixtures: list[str] = field(default_factory=list)


def embed_pools(read: PoolViews, *, embedding: str, unit: str, seed: int) -> Embedded:
    """Embed a target and its sources, from which an encoder that must learn learns first.

    Parameters
    ----------
    read : PoolViews
    embedding : {"auto", "grid+intensity", "grid", "average", "gap"}
    unit : {"case", "slice"}
    seed : int
        Of what is random in learning.

    Raises
    ------
    UserError
        If pools and encoder do not fit together.
    """
    encoder = read.encoder.ready(read.sources or [read.target], seed=seed)
    check_embedding(embedding, encoder.layout, encoder=encoder.name)
    embedded = {views.pool.name: embed(encoder, views) for views in read.all}
    kept = [embeddings.rows for embeddings in embedded.values()]
    identifiers = read.target.pool.identifiers
    if unit == "slice":
        identifiers = list(candidate_rows(read.target.facts))
        kept = [
            row_per_slice(rows, candidate_rows(views.facts).values())
            for rows, views in zip(kept, read.all, strict=True)
        ]
    compared = compare(kept, kept_layout(encoder, read.target.rows.shape[2]), embedding=embedding, unit=unit)
    pool, *source = compared.features
    if len(set(read.target.hashes.values())) > 1 and all((block == pool[0]).all() for block in blocks(pool)):
        logger.warning(
            f"all {len(pool)} {unit}s of {read.target.pool.name} look the same to --encoder {encoder.name}, so which "
            f"are picked says nothing: see what the normalisation, or --window, leaves of the images"
        )
    return Embedded(
        identifiers=identifiers,
        pool=pool,
        source=np.concatenate(source) if source else None,
        encoder={
            "name": encoder.name,
            "identity": encoder.identity,
            "weights": encoder.weights,
            "transform": encoder.transform,
            "pooling": compared.kind,
            "learned_on": getattr(encoder, "learned_on", None),
        },
        provenance={
            **read.provenance,
            "embeddings_cache": {name: rows.key for name, rows in embedded.items()},
            "encoder": encoder.identity,
            "embedding": compared.kind,
            **compared.how,
            "embeddings": features_hash([pool, *source]),
        },
        set_aside=read.set_aside,
        mixtures=read.mixtures,
    )


def features_hash(arrays: Sequence[np.ndarray]) -> str:
    """SHA-256 of features, which may be larger than the memory."""
    return sha256(block.tobytes() for rows in arrays for block in blocks(rows))
