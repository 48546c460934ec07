"""Embeddings of cases: their features, kept on disk and computed only for cases that lack them."""

import numpy as np
from tqdm import tqdm

from nnunetv2_xssr.encoders.encoder import Encoder
from nnunetv2_xssr.images.case_rows import CaseRows
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.records.locks import caches_lock
from nnunetv2_xssr.records.workspace import Workspace


def embed(encoder: Encoder, views: Views) -> CaseRows:
    """Embed every case of a pool that is not embedded yet; float32 rows of shape (views, encoder.layout.size).

    Each case is embedded alone, so that its row depends neither on its neighbours nor on interruptions of a run.
    """
    embed_case = encoder.for_pool(views)
    settings = {"encoder": encoder.identity, "views": views.settings, "layout": list(encoder.layout)}
    shape = views.rows.shape[1], encoder.layout.size
    pool = views.pool.name
    with caches_lock(pool):
        store = CaseRows.open(Workspace(pool).caches / "embeddings", views.hashes, settings, shape, np.float32)
        for i in tqdm(store.missing(), desc=f"embedding {pool}", unit="case", disable=None):
            store.write(i, embed_case(views.rows[i]))
    return store
