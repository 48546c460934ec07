"""Which images a pretraining does not learn from, so that its loss on them says something about other images."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from nnunetv2_xssr.errors import UserError, first_few
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


def shared_images(hashes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A sentence for every two sources with some images in common: what one holds out, the other may learn from.

    Parameters
    ----------
    hashes : mapping
        Every source's name to the hashes of its cases' files, by the names of the cases.

    Raises
    ------
    UserError
        If two sources have the same images: they are one domain, given twice.
    """
    sentences = []
    for (name, cases), (other, others) in combinations(hashes.items(), 2):
        shared = set(cases.values()) & set(others.values())
        if not shared:
            continue
        named = first_few([case for case, digest in cases.items() if digest in shared])
        told = f"{len(shared)} images of {name} are in {other} too ({named})"
        if shared == set(cases.values()) == set(others.values()):
            raise UserError(f"{told}, which makes them one domain; give it once")
        sentences.append(f"{told}: held-out images may be learned from, and say less; take them out of one of the two")
    return sentences
