"""Embeddings of cases: their features, kept on disk and computed only for cases that lack them."""

from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from nnunetv2_xssr.encoders.encoder import Encoder
from nnunetv2_xssr.encoders.intensity import n_quantiles, quantiles
from nnunetv2_xssr.encoders.pooling import FeatureLayout
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_rows import CaseRows
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.records.locks import caches_lock
from nnunetv2_xssr.records.workspace import Workspace


def kept_layout(encoder: Encoder, channels: int) -> FeatureLayout:
    """What is kept of a view: the features of the encoder, and beside those with places its intensities."""
    return encoder.layout._replace(intensities=n_quantiles(channels)) if encoder.layout.cells else encoder.layout


def embedder(encoder: Encoder, views: Views) -> Callable[[np.ndarray], np.ndarray]:
    """What embeds the cases of a pool one by one: from the views of a case to float32 of shape (views, size).

    The order of the features is that of `kept_layout`.
    """
    embed_case, intensities = encoder.for_pool(views), intensities_of(views)
    if not encoder.layout.cells:
        return embed_case
    return lambda case: np.hstack([embed_case(case), intensities(case)])


def intensities_of(views: Views) -> Callable[[np.ndarray], np.ndarray]:
    """The `quantiles` of the cases of a pool, with channels in the order of their names, however a pool has them."""
    names = [name.casefold() for name in views.settings["view_channels"]]
    order = sorted(range(len(names)), key=names.__getitem__)
    return lambda case: quantiles(case[:, order])


def embed(encoder: Encoder, views: Views) -> CaseRows:
    """Embed every case of a pool that is not embedded yet; float32 rows in the order of `kept_layout`.

    Each case is embedded alone, so that its row depends neither on its neighbours nor on interruptions of a run.
    """
    embed_case, layout = embedder(encoder, views), kept_layout(encoder, views.rows.shape[2])
    settings = {"encoder": encoder.identity, "views": views.settings, "layout": list(layout)}
    shape = views.rows.shape[1], layout.size
    pool = views.pool.name
    with caches_lock(pool):
        store = CaseRows.open(Workspace(pool).caches / "embeddings", views.hashes, settings, shape, np.float32)
        for i in tqdm(store.missing(), desc=f"embedding {pool}", unit="case", disable=None):
            row = embed_case(views.rows[i])
            if not np.isfinite(row).all():
                raise UserError(
                    f"--encoder {encoder.name} makes NaN or infinity of {store.identifiers[i]} of {pool}, as a network "
                    f"does whose training has diverged; give another one"
                )
            store.write(i, row)
    return store
