"""All that commands need, loaded and compiled once before they are forked."""

import lightning_fabric  # noqa: F401
import nibabel  # noqa: F401
import numpy as np
import skimage.io  # noqa: F401

import nnunetv2_xssr.annotation.collecting
import nnunetv2_xssr.benchmark.run
import nnunetv2_xssr.commands.next_steps
import nnunetv2_xssr.pipeline.embed_cases
import nnunetv2_xssr.pipeline.foreign_weights
import nnunetv2_xssr.pipeline.pretraining
import nnunetv2_xssr.pipeline.select_cases  # noqa: F401
from nnunetv2_xssr.selection import select

_POINTS = np.random.default_rng(0).normal(size=(2, 12, 4))
for _strategy in ("xssr", "coreset"):
    select(_POINTS[0], 3, source=_POINTS[1], strategy=_strategy)
