"""Datasets that nnU-Net's own commands planned and preprocessed.

Nothing here imports nnU-Net before a test does: versions before 2.7 read their variables then, and pytest may read this
file before those are set.
"""

import itertools
import json

import pytest
from making import shorten_pretraining


@pytest.fixture(scope="session")
def planned(session_workspace, shell):
    """Both datasets, planned and preprocessed, with a configuration of a tiny network each."""
    from tiny_training import STUDY, TINY, VOLUMES, finish, start, write_study, write_volumes

    from nnunetv2_xssr.records.split import write_split

    ws = session_workspace
    write_study(ws.raw / STUDY)
    write_volumes(ws.raw / VOLUMES)
    plan = ["nnUNetv2_plan_and_preprocess", "-np", 1, "-npfp", 1]
    # Planning gives this number of workers to torch as its number of threads, which must not be 0.
    both = [
        start(shell, [*plan, "-d", number, "-c", c], ws, nnUNet_n_proc_DA="1")
        for number, c in ((11, "2d"), (12, "3d_fullres"))
    ]
    for process in both:
        finish(process)
    for name, tiny in ((STUDY, "2d_tiny"), (VOLUMES, "3d_tiny")):
        file = ws.preprocessed / name / "nnUNetPlans.json"
        plans = json.loads(file.read_text())
        architecture = plans["configurations"][TINY[tiny]["inherits_from"]]["architecture"]
        small = architecture["arch_kwargs"]
        n = 3
        for key in ("kernel_sizes", "strides"):
            small[key] = small[key][:n]
        small.update(n_stages=n, features_per_stage=[4, 8, 8], n_conv_per_stage=[1] * n)
        small["n_conv_per_stage_decoder"] = [1] * (n - 1)
        plans["configurations"][tiny] = {**TINY[tiny], "architecture": architecture}
        file.write_text(json.dumps(plans))
    write_split(ws.preprocessed / VOLUMES / "splits_xssr.json", [{"train": ["v_0", "v_2"], "val": ["v_1"]}])
    return ws


@pytest.fixture(scope="session")
def study(planned):
    """The labelled dataset after the real select: two cases in each of nnU-Net's five folds."""
    from nnunetv2_xssr.commands import select
    from nnunetv2_xssr.trainer_link import linking

    with pytest.MonkeyPatch.context() as patch:
        shorten_pretraining(patch)
        patch.setattr(linking, "ensure_linked", lambda: None)
        for name, value in planned.environment().items():
            patch.setenv(name, value)
        assert select.main(["-d", "11", "-b", "2", "-device", "cpu"]) == 0
    return planned


@pytest.fixture
def split_file(study):
    """The split of the study, put back after the test."""
    from tiny_training import STUDY

    path, manifest = study.split(STUDY), study.record(STUDY).with_name("manifest.json")
    content, aside = path.read_bytes(), manifest.rename(manifest.with_suffix(".aside"))  # which tells what was selected
    yield path
    path.write_bytes(content)
    aside.rename(manifest)


_numbers = itertools.count()


@pytest.fixture
def tiny():
    """A trainer of two iterations whose results lie in a folder of its own."""
    from tiny_training import XSSRTrainerTiny

    return type(f"XSSRTrainerTiny{next(_numbers)}", (XSSRTrainerTiny,), {})
