"""The benchmark of HSSL: what is finished is kept, and belongs to the test cases that it was measured on."""

import sys

import numpy as np
import pytest
from making import CHECKOUT

from nnunetv2_xssr.demo.study import Study
from nnunetv2_xssr.records.files import write_json

sys.path.append(str(CHECKOUT / "benchmarks"))
import fine_tuning
import hssl
import pretraining_length

CASES = [f"c_{i}" for i in range(20)]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A function that runs one of the benchmarks, where a training measures the number of test cases, and how often."""
    calls = []

    def train(study, *command, arm):
        calls.append(arm)
        name = f"{study.trainer}__nnUNetPlans__{study.configuration}"
        summary = tmp_path / "arms" / arm / study.target / name / "fold_0" / "validation" / "summary.json"
        write_json(summary, {"foreground_mean": {"Dice": train.n / 100}})

    def run(module, n, *options):
        study = Study(tmp_path, "Dataset001_A", "Dataset001_A", "2d_small", "XSSRTrainer_demo", "cpu")
        target = hssl.Target(study=study, pool=CASES[10:], test=CASES[:n], others=[], epochs=6)
        monkeypatch.setattr(module, "prepare", lambda pack, args: target)
        train.n, before = n, len(calls)
        monkeypatch.setattr(sys, "argv", ["benchmark", "--packs", "NucleiDSB", *options])
        assert module.main() == 0
        return len(calls) - before

    monkeypatch.setattr(Study, "run", train)
    for module in (hssl, fine_tuning, pretraining_length):
        monkeypatch.setattr(module, "pretrain", lambda *_: tmp_path / "own.pth")
    return run


@pytest.mark.parametrize(
    "module, options",
    [
        (hssl, ["--draws", "1", "--images", "own"]),
        (fine_tuning, ["--draws", "0"]),
        (pretraining_length, ["--draws", "0"]),
    ],
)
def test_other_test_cases_are_measured_anew(trained, capsys, module, options):
    n = trained(module, 4, *options)
    assert n and "4.00" in capsys.readouterr().out
    assert trained(module, 4, *options) == 0 and "4.00" in capsys.readouterr().out
    assert trained(module, 6, *options) == n
    out = capsys.readouterr().out
    assert "6.00" in out and "4.00" not in out


def test_the_difference_of_the_rule_is_that_of_all_numbers_of_own_images(capsys):
    def row(own, both):
        return "A, 5 % (4)", "8", {"scratch": np.zeros((2, 1)), "own": np.array(own), "own and others": np.array(both)}

    hssl.print_table([row([[1.0], [1.0]], [[3.0], [5.0]])])
    assert "numbers of own images" not in capsys.readouterr().out
    hssl.print_table([row([[1.0], [1.0]], [[3.0], [5.0]]), row([[0.0], [0.0]], [[0.0], [0.0]])])
    assert (
        "A, 5 % (4): own and others - own, the mean over the numbers of own images: +1.50 [" in capsys.readouterr().out
    )
