"""Which images a pretraining does not learn from, so that its loss on them says something about other images."""

from collections.abc import Sequence

import numpy as np

from nnunetv2_xssr.records.folds import draw_groups

SHARE = 0.1  # of the patients
# A pool of fewer cases needs all of them for learning; of fewer patients a tenth is none, or far more than a tenth.
LEAST_CASES, LEAST_GROUPS = 20, 10


def held_out(groups: Sequence[str], *, seed: int) -> np.ndarray:
    """Draw the cases that are held out by patient, at random; none of few.

    Parameters
    ----------
    groups : sequence of str
        The group (patient) of every case, or the case itself.
    seed : int

    Returns
    -------
    bool array of shape (cases,)
    """
    if len(groups) < LEAST_CASES or len(set(groups)) < LEAST_GROUPS:
        return np.zeros(len(groups), bool)
    return draw_groups(groups, share=SHARE, seed=seed)
