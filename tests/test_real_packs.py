"""Real images, where they are at hand: XSSR_PACKS or ../shared/data beside the checkout."""

import os
from pathlib import Path

import numpy as np
import pytest
from making import CHECKOUT

from nnunetv2_xssr.images.extract import LEAST_VIEWS, VIEW_SIZE
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.images.reading import read_case
from nnunetv2_xssr.images.views import prepare_views

PACKS = Path(os.environ.get("XSSR_PACKS") or CHECKOUT.parent / "shared" / "data")


@pytest.mark.parametrize(
    ("pack", "n_cases", "n_views", "channels"),
    [("CXRLung", 650, 1, 1), ("NucleiDSB", 437, 1, 3), ("Hippocampus3D", 255, LEAST_VIEWS, 1)],
)
def test_pack(empty, pack, n_cases, n_views, channels):
    if not (PACKS / pack / "dataset.json").is_file():
        pytest.skip(f"no {pack} in {PACKS}; set XSSR_PACKS to the folder that holds it")
    name = f"Dataset100_{pack}"
    (empty.raw / name).symlink_to((PACKS / pack).resolve())
    pool = dataset_pool(name)
    assert len(pool) == n_cases
    assert all(case.labelled and case.domain for case in pool.cases)
    few = pool.only(pool.identifiers[:: len(pool) // 3])
    views = prepare_views(few)
    assert views.rows.shape == (len(few), n_views, channels, VIEW_SIZE, VIEW_SIZE)
    assert np.isfinite(np.asarray(views.rows)).all()
    assert (np.asarray(views.rows, np.float32).std(axis=(3, 4)) > 0.01).all()
    image = read_case(few.cases[0], few.reader())
    assert image.ndim == 4 and len(image) == channels
