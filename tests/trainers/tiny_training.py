"""Tiny datasets and networks for nnU-Net, a trainer of two iterations, and nnU-Net's commands."""

import json

import numpy as np
import pytest
import torch
from making import volume, write_dataset_json, write_pictures, write_volume

from nnunetv2_xssr.trainers import XSSRTrainer

STUDY, VOLUMES = "Dataset011_Study", "Dataset012_Volumes"
CPU = torch.device("cpu")
TINY = {
    "2d_tiny": {"inherits_from": "2d", "batch_size": 2, "patch_size": [32, 32]},
    "3d_tiny": {"inherits_from": "3d_fullres", "batch_size": 2, "patch_size": [16, 16, 16]},
}


class XSSRTrainerTiny(XSSRTrainer):
    epochs = 1
    iterations_per_epoch = 2


def write_study(folder):
    write_pictures(folder, 8, first_seed=300, labelled=8, prefix="p", size=(48, 48))
    write_dataset_json(folder)


def write_volumes(folder):
    """Regions (whole and core) and an ignore label."""
    for i in range(4):
        image, distance = volume(i)
        label = (distance < 7).astype(np.uint8)
        label[distance < 4] = 2
        label[:2] = 3
        write_volume(folder / "imagesTr" / f"v_{i}_0000.nii.gz", image)
        write_volume(folder / "labelsTr" / f"v_{i}.nii.gz", label)
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    channels = {"0": "MRI"}
    write_dataset_json(folder, ".nii.gz", channels, labels=labels, regions_class_order=[1, 2])


def start(shell, argv, workspace, site=None, **env):
    """Start one of nnU-Net's commands, with the nnU-Net of ``site`` or of the shell."""
    settings = {"OMP_WAIT_POLICY": "PASSIVE", "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1"}
    python_path = {"PYTHONPATH": str(site)} if site else {}
    return shell.start(argv, workspace.root, {**workspace.environment(), **settings, **python_path, **env})


def finish(process, code=0):
    out, _ = process.communicate(timeout=280)
    assert process.returncode == code, out
    return out


def make_trainer(workspace, fold, cls=XSSRTrainerTiny, name=STUDY, configuration="2d_tiny"):
    folder = workspace.preprocessed / name
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False  # as nnUNetv2_train does
    return cls(plans, configuration, fold, json.loads((folder / "dataset.json").read_text()), device=CPU)


def refuses(workspace, capsys, fold, *parts, **kwargs):
    """The trainer must stop with exit code 2 and one sentence, before it makes a folder."""
    before = sorted(workspace.results.rglob("*"))
    ends_in_a_sentence(capsys, lambda: make_trainer(workspace, fold, **kwargs), *parts)
    assert sorted(workspace.results.rglob("*")) == before


def ends_in_a_sentence(capsys, call, *parts):
    """A call must end the process with exit code 2 and one sentence that holds all parts."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        call()
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1, err
    for part in parts:
        assert str(part) in err, err
