"""The judge fast: the small U-Net, with the cases that it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_xssr.benchmark.fast_judge import SETTINGS, judge
from nnunetv2_xssr.benchmark.hold_out import data_hash
from nnunetv2_xssr.benchmark.jobs import DICE, Job, Measures
from nnunetv2_xssr.benchmark.small_cases import SmallCases
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.records.files import sha256_json


def fast_identity(target: ImagePool, test: Sequence[str]) -> str:
    """What the fast judge's results on these test cases are known by."""
    return sha256_json({"judge": "fast", **SETTINGS, "data": data_hash(target), "test": list(test)})


@dataclass(frozen=True, kw_only=True)
class FastJudge:
    """The judge of `nnunetv2_xssr.benchmark.fast_judge`.

    Attributes
    ----------
    cases : SmallCases
    test : tuple of str
    """

    cases: SmallCases
    test: tuple[str, ...]

    def __call__(self, job: Job) -> Measures:
        """The Dice of every test case."""
        of_train, of_test = self.cases.rows(job.cases), self.cases.rows(self.test)
        dice = judge(*of_train, *of_test, n_labels=self.cases.n_labels, seed=job.seed)
        return {DICE: dict(zip(self.test, np.round(dice, 5).tolist(), strict=True))}
