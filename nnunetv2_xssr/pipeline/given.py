"""Features that were made elsewhere, in the place of views and an encoder: no image is read for them."""

from collections.abc import Sequence

import numpy as np

from nnunetv2_xssr.encoders.feature_files import read_features
from nnunetv2_xssr.encoders.pooling import COMPONENTS, FeatureLayout
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_rows import CaseRows
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.pipeline.embed import Embedded, features_hash
from nnunetv2_xssr.pipeline.read import Seeing, facts_hash
from nnunetv2_xssr.records.files import sha256
from nnunetv2_xssr.records.locks import caches_lock, only_reads
from nnunetv2_xssr.records.workspace import Workspace

_KIND = "average"  # as our own features without places are compared


def given_features(target: ImagePool, sources: Sequence[ImagePool], seeing: Seeing) -> Embedded | None:
    """Read the files of features that the user named; None where none is named.

    Parameters
    ----------
    target : ImagePool
    sources : sequence of ImagePool
        Whose cases the file of the source must hold; without them it says itself which there are.
    seeing : Seeing

    Raises
    ------
    UserError
        If a file cannot be read, or does not hold every case exactly once.
    """
    if seeing.embeddings is None:
        return None
    if sources and seeing.source_embeddings is None:
        raise UserError("--embeddings says nothing of the sources; give --source_embeddings FILE, or leave -s out")
    identifiers, pool, widths = read_features(seeing.embeddings, option="--embeddings", cases=target.identifiers)
    if len(pool) > 2 and np.count_nonzero(np.ptp(pool.astype(np.float64), axis=0)) == 1:
        raise UserError(
            f"--embeddings {seeing.embeddings} has one feature that differs between cases, which tells only on which "
            f"side of the mean a case lies; give two or more"
        )
    keys, hashes, source = {target.name: _keep(target.name, identifiers, pool)}, {}, None
    if seeing.source_embeddings is not None:
        option, known = "--source_embeddings", source_names(sources) or None
        archive, source, of_source = read_features(seeing.source_embeddings, option=option, cases=known)
        if (source.shape[1], of_source) != (pool.shape[1], widths):
            raise UserError(
                f"{option} {seeing.source_embeddings} has {_described(source, of_source)} per case, but --embeddings "
                f"has {_described(pool, widths)}; give those of one encoder"
            )
        name = f"{seeing.source_embeddings.stem}_{features_hash([source])[:8]}"  # of this source among the pools
        keys[name], hashes[name] = _keep(name, archive, source), features_hash([source])
    both = features_hash([pool, *([] if source is None else [source])])
    return Embedded(
        identifiers=identifiers,
        pool=pool,
        source=source,
        encoder={
            "name": f"embeddings:{seeing.embeddings}",
            "identity": both,
            "weights": None,
            "transform": "none",
            "pooling": _KIND,
        },
        provenance={
            "pool": features_hash([pool]),
            "source": hashes,
            "views_cache": {},
            "embeddings_cache": keys,
            "cases": facts_hash(target),
            "encoder": both,
            "embedding": _KIND,
            "components": COMPONENTS[_KIND],
            "widths": widths,
            "embeddings": both,
        },
    )


def _described(features: np.ndarray, widths: Sequence[int] | None) -> str:
    """How many features there are, and of which sorts."""
    return f"{features.shape[1]} features" + (f" of {len(widths)} sorts {list(widths)}" if widths else "")


def source_names(sources: Sequence[ImagePool]) -> list[str]:
    """The cases of one source, and of several ``POOL:CASE``, because two may have a case of the same name."""
    if len(sources) == 1:
        return list(sources[0].identifiers)
    return [f"{pool.name}:{case}" for pool in sources for case in pool.identifiers]


def _keep(pool: str, cases: Sequence[str], features: np.ndarray) -> str:
    """Keep the rows where the report looks for those of an encoder, if anything may be written; returns their key."""
    if only_reads():
        return ""
    hashes = {case: sha256([row.tobytes()]) for case, row in zip(cases, features, strict=True)}
    layout = FeatureLayout(0, features.shape[1], 0)
    settings = {"encoder": "given", "layout": list(layout)}
    with caches_lock(pool):
        store = CaseRows.open(Workspace(pool).caches / "embeddings", hashes, settings, (1, layout.size), np.float32)
        for i in store.missing():
            store.write(i, features[i])
    return store.key
