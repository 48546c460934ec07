"""Plans and sources that do not fit end in one sentence, what fits in weights that nnU-Net takes."""

import json
import shlex
import shutil

import numpy as np
import pytest
import torch
from making import (
    SOURCE,
    TARGET,
    fails,
    picture,
    succeeds,
    volume,
    write_dataset_json,
    write_picture,
    write_volume,
)
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from plans import write_plans

from nnunetv2_xssr.commands import hssl_pretrain, pretrain
from nnunetv2_xssr.commands import weights as weights_command
from nnunetv2_xssr.pretrain import engine
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans

VOLUMES = "Dataset003_Volumes"
REST = ["--epochs", "1", "--batch_size", "4", "-device", "cpu"]
ARGV = ["-d", "2", "-c", "2d", *REST, "-s"]


@pytest.fixture
def planned(workspace, monkeypatch):
    monkeypatch.setattr(engine, "BATCHES_PER_EPOCH", 2)
    write_plans(workspace.preprocessed / TARGET)
    return workspace


def change_plans(workspace, change, name=TARGET):
    file = workspace.preprocessed / name / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    change(plans)
    file.write_text(json.dumps(plans))


def weights_file(workspace, name=TARGET, configuration="2d"):
    return workspace.results / name / f"XSSR_HSSL__nnUNetPlans__{configuration}" / "hssl_weights.pth"


def loaded_by_nnunet(file, name, configuration):
    """The network that nnU-Net builds, with the weights of a file."""
    plans = TargetPlans.load(name, configuration_name=configuration)
    channels = determine_num_input_channels(plans.manager, plans.configuration, plans.dataset_json)
    assert channels == len(plans.inputs)
    network = plans.build_network(channels)
    load_pretrained_weights(network, str(file))
    return network.state_dict()


# --------------------------------------------------------------------------------------------------------- the plans
@pytest.fixture
def cascade(workspace, monkeypatch):
    """Volumes with two labels, which the second stage of a cascade gets from the first."""
    monkeypatch.setattr(engine, "BATCHES_PER_EPOCH", 2)
    for i in range(4):
        write_volume(workspace.images(VOLUMES) / f"v_{i}_0000.nii.gz", volume(i)[0])
    write_dataset_json(workspace.raw / VOLUMES, ".nii.gz", {"0": "MRI"}, labels={"background": 0, "a": 1, "b": 2})
    write_plans(workspace.preprocessed / VOLUMES, "3d_fullres", reader="SimpleITKIO")

    def stages(plans):
        full = plans["configurations"]["3d_fullres"]
        low = {"spacing": [2.0] * 3, "data_identifier": "nnUNetPlans_3d_lowres", "next_stage": "3d_cascade_fullres"}
        plans["configurations"]["3d_lowres"] = {**full, **low}
        plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}

    change_plans(workspace, stages, VOLUMES)
    return workspace


STEM = "encoder.stages.0.0.convs.0.conv.weight"


@pytest.mark.parametrize("configuration", ["3d_lowres", "3d_cascade_fullres"])
def test_the_network_of_a_stage_takes_its_weights(cascade, capsys, configuration):
    argv = ["-d", VOLUMES, "-c", configuration, *REST, "-s", VOLUMES]
    if configuration == "3d_cascade_fullres":
        words = [
            f"the images have 1 channels but {VOLUMES} has 3",
            "MRI, label 1 of the stage before",
            "--like_channels 3",
        ]
        fails(capsys, hssl_pretrain.main, argv, *words)
        argv += ["--like_channels", "3"]
    out = succeeds(capsys, hssl_pretrain.main, argv)
    assert f"next: nnUNetv2_train {VOLUMES} {configuration} 0 " in out
    file = weights_file(cascade, VOLUMES, configuration)
    state = loaded_by_nnunet(file, VOLUMES, configuration)
    saved = torch.load(file, weights_only=True)["network_weights"]
    assert all(torch.equal(value, saved[key]) for key, value in state.items() if ".seg_layers." not in key)


def test_weights_of_others_for_the_second_stage_of_a_cascade(cascade, capsys, tmp_path):
    plans = TargetPlans.load(VOLUMES, configuration_name="3d_fullres")
    theirs, out = plans.build_network(1).state_dict(), tmp_path / "ours.pth"
    torch.save(theirs, tmp_path / "theirs.pth")
    argv = ["-i", tmp_path / "theirs.pth", "-d", VOLUMES, "-c", "3d_cascade_fullres", "-o", out]
    fails(capsys, weights_command.main, argv, f"takes 1 channels but {VOLUMES} has 3", "label 2 of the stage before")
    succeeds(capsys, weights_command.main, [*argv, "--stem", "mean"])
    state = loaded_by_nnunet(out, VOLUMES, "3d_cascade_fullres")
    torch.testing.assert_close(state[STEM], theirs[STEM].expand(-1, 3, -1, -1, -1) / 3)
    same = [torch.equal(value, theirs[key]) for key, value in state.items() if value.shape == theirs[key].shape]
    assert len(same) == len(state) - 4  # the stem and its aliases


def configured(**changes):
    return lambda plans: plans["configurations"]["2d"].update(changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plans: plans["configurations"]["2d"].pop("patch_size"), "patch_size is missing; plan again"),
        (configured(patch_size=[16, 16, 16]), "patch_size and spacing must have as many axes; plan again"),
        (configured(patch_size=[18, 16]), "takes patches of multiples of 4 x 4; got a patch_size of 18 x 16"),
        (configured(preprocessor_name="Gone"), "2d: nnU-Net has no preprocessor Gone; plan again"),
        (configured(resampling_fn_data="gone"), "nnUNetPlans.json (RuntimeError: Unable to find resampling function"),
        (configured(normalization_schemes=["Gone"]), "2d: nnU-Net has no normalisation Gone; plan again"),
        (
            lambda plans: plans.update(foreground_intensity_properties_per_channel={}) or configured(
                normalization_schemes=["CTNormalization"]
            )(plans),
            "foreground_intensity_properties_per_channel lacks channel 0; plan again",
        ),
    ],
)  # fmt: skip
def test_plans_that_cannot_be_used(planned, capsys, change, words):
    """Before anything is read."""
    change_plans(planned, change)
    fails(capsys, hssl_pretrain.main, [*ARGV, SOURCE], "nnUNetPlans", words)
    assert not list((planned.preprocessed / SOURCE / "xssr").rglob("hssl_*"))


# ------------------------------------------------------------------------------------------------------- the sources
@pytest.mark.parametrize("main", [pretrain.main, hssl_pretrain.main])
def test_images_in_two_sources(planned, capsys, main):
    """One domain given twice, under two names; or some images only."""
    images, some = planned.images(), planned.root / "some"
    argv = [*(ARGV if main is hssl_pretrain.main else [*REST, "-s"]), TARGET]
    fails(capsys, main, [*argv, images], f"10 images of {TARGET} are in imagesTr_", "one domain; give it once")
    shutil.copytree(images, some)
    for i in range(4):
        (some / f"t_{i:02d}_0000.png").unlink()
    out = succeeds(capsys, main, [*argv, some])
    assert f"6 images of {TARGET} are in some_" in out and "held-out images may be learned from" in out


def test_images_of_more_channels_than_they_have_names(planned, capsys):
    for i in range(2):
        write_picture(planned.root / "colours" / f"c_{i}.png", picture(i, channels=3))
    argv = [*ARGV, planned.root / "colours"]
    fails(capsys, hssl_pretrain.main, argv, "c_0.png has 3 channels, but 1 are named", "--channel_names")
    fails(capsys, hssl_pretrain.main, [*argv, "--channel_names", "R", "G", "B"], "--like_channels 1")


def test_values_beyond_half_precision_are_named(planned, capsys):
    write_volume(planned.images(VOLUMES) / "v_0_0000.nii.gz", 1e4 * volume(0)[0])
    write_dataset_json(planned.raw / VOLUMES, ".nii.gz", {"0": "noNorm"})
    fails(capsys, hssl_pretrain.main, [*ARGV, VOLUMES], "case v_0", "is not finite after preprocessing")


def test_a_single_image_has_nothing_to_be_contrasted_with(planned, capsys):
    write_picture(planned.root / "alone" / "a.png", picture(0))
    words = ["has one image that can be used", "give more with -s"]
    sentence = fails(capsys, hssl_pretrain.main, [*ARGV, planned.root / "alone"], "alone", *words)
    assert "-s" in sentence and not weights_file(planned).exists()
    out = succeeds(capsys, hssl_pretrain.main, [*ARGV, planned.root / "alone", SOURCE])
    assert "its task is that image" in out and out.count("has one image") == 1


def test_nothing_is_left_to_set_aside(planned, capsys):
    for file in planned.images(SOURCE).iterdir():
        file.write_bytes(file.read_bytes()[:60])
    for options in ([], ["--skip_broken"]):
        fails(
            capsys,
            hssl_pretrain.main,
            [*ARGV, SOURCE, *options],
            f"no case of {SOURCE} can be used; the first: case s_00",
            "; replace it",
            not_parts=["skip-broken"],
        )


# -------------------------------------------------------------------------------------------------------- continuing
def more_labels(workspace):
    write_dataset_json(workspace.raw / TARGET, labels={"background": 0, "a": 1, "b": 2})


@pytest.mark.parametrize(
    ("change", "argv", "words"),
    [
        (lambda ws: write_picture(ws.images(SOURCE) / "s_03_0000.png", picture(999)), [], "other sources"),
        (lambda ws: change_plans(ws, configured(patch_size=[32, 16])), [], "other plans"),
        (more_labels, [], "other plans"),
        (lambda ws: None, [SOURCE], "other tasks (['Dataset001_Source', 'Dataset002_Target']) than"),
        (lambda ws: None, [TARGET, SOURCE], "other tasks (['Dataset001_Source', 'Dataset002_Target']) than"),
    ],
)
def test_what_was_learned_is_not_taken_for_something_else(planned, capsys, change, argv, words):
    """Other images, another network, other tasks, or these in another order, in which they are numbered."""
    both = [SOURCE, TARGET]
    succeeds(capsys, hssl_pretrain.main, [*ARGV, *both])
    before = weights_file(planned).read_bytes()
    succeeds(capsys, hssl_pretrain.main, [*ARGV, *both, "--c"])
    change(planned)
    fails(capsys, hssl_pretrain.main, [*ARGV, *(argv or both), "--c"], f"was made with {words}")
    assert weights_file(planned).read_bytes() == before


def test_images_by_another_reader_are_preprocessed_anew(planned):
    from nnunetv2_xssr.images.pools import open_pool
    from nnunetv2_xssr.pretrain.hssl.sources import Source

    write_volume(planned.images(VOLUMES) / "v_0_0000.nii.gz", volume(0)[0])
    plans, keys = TargetPlans.load(TARGET, configuration_name="2d"), set()
    for reader in ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"):
        write_dataset_json(planned.raw / VOLUMES, ".nii.gz", {"0": "MRI"}, overwrite_image_reader_writer=reader)
        keys.add(Source.of(open_pool(VOLUMES), plans).key)
    assert len(keys) == 3


def test_next_names_another_dataset_only_for_another_number_of_channels(planned, capsys):
    for number, dataset in (("1", TARGET), ("2", "DATASET_WITH_2_CHANNELS")):
        out = succeeds(capsys, hssl_pretrain.main, [*ARGV, SOURCE, "--like_channels", number])
        (line,) = [line for line in out.splitlines() if line.startswith("next: ")]
        assert shlex.split(line)[2] == dataset
        stem = torch.load(weights_file(planned), weights_only=True)["network_weights"][STEM]
        assert stem.shape[1] == int(number) and np.isfinite(stem.numpy()).all()
