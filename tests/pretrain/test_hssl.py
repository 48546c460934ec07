"""HSSL: what it reads, what it trains, and that nnU-Net takes its weights."""

import json

import numpy as np
import pytest
import torch
from making import SOURCE, TARGET, fails, succeeds, volume, write_dataset_json, write_volume
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from plans import KINDS, write_plans

from nnunetv2_xssr.commands import hssl_pretrain
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.pretrain import engine
from nnunetv2_xssr.pretrain.hssl.network import HSSLNetwork
from nnunetv2_xssr.pretrain.hssl.patches import PatchPairs, PreprocessedPool, preprocess_pool
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
from nnunetv2_xssr.pretrain.hssl.task import HSSLTask
from nnunetv2_xssr.pretrain.hssl.weights import check_loadable, checkpoint_content, match_weights

VOLUMES = "Dataset003_Volumes"
ARGV = ["-d", "2", "-c", "2d", "-s", "1", "2", "--epochs", "1", "--batch_size", "4", "-device", "cpu"]


@pytest.fixture
def planned(workspace, monkeypatch):
    monkeypatch.setattr(engine, "BATCHES_PER_EPOCH", 2)
    write_plans(workspace.preprocessed / TARGET)
    return workspace


def write_volumes(workspace, n=4):
    for i in range(n):
        write_volume(workspace.images(VOLUMES) / f"v_{i}_0000.nii.gz", volume(i)[0])
    write_dataset_json(workspace.raw / VOLUMES, ".nii.gz", {"0": "MRI"})


def loaded_plans(workspace, configuration, network, channels=1):
    write_plans(workspace.preprocessed / TARGET, configuration, network, channels)
    return TargetPlans.load(TARGET, configuration)


def weights_file(workspace, configuration="2d"):
    return workspace.results / TARGET / f"XSSR_HSSL__nnUNetPlans__{configuration}" / "hssl_weights.pth"


# ------------------------------------------------------------------------------------------------------ the weights
def content_of(plans, channels=1, saved=1):
    configuration = {**plans.preprocessing(), "patch_size": list(plans.patch_size)}
    network = plans.build_network(channels)
    return network, checkpoint_content(network, plans.architecture, configuration, plans.configuration_name, saved)


@pytest.mark.parametrize(("configuration", "network"), KINDS)
def test_nnunet_takes_every_tensor_but_the_segmentation_layers(workspace, tmp_path, configuration, network):
    plans = loaded_plans(workspace, configuration, network)
    pretrained, content = content_of(plans)
    torch.save(content, tmp_path / "w.pth")
    fresh = plans.build_network(1)
    load_pretrained_weights(fresh, str(tmp_path / "w.pth"))
    for key, value in fresh.state_dict().items():
        same = torch.equal(value, pretrained.state_dict()[key])
        assert same or ".seg_layers." in key, key
    assert not check_loadable(content, fresh, "w.pth").missing


@pytest.mark.parametrize(("configuration", "network"), KINDS)
def test_a_stem_for_other_channels_keeps_every_alias_in_step(workspace, tmp_path, configuration, network):
    plans = loaded_plans(workspace, configuration, network)
    pretrained, content = content_of(plans, channels=1, saved=3)
    fresh = plans.build_network(3)
    assert content["nnssl_adaptation_plan"]["pretrain_num_input_channels"] == 3
    torch.save(content, tmp_path / "w.pth")
    load_pretrained_weights(fresh, str(tmp_path / "w.pth"))
    image = torch.randn(1, 1, *plans.patch_size)
    with torch.no_grad():
        expected = pretrained.eval().encoder(image)[-1]
        found = fresh.eval().encoder(image.repeat(1, 3, *[1] * len(plans.patch_size)))[-1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("configuration", "network"), KINDS)
def test_checkpoint_holds_tensors_and_plain_values_and_names_real_modules(workspace, tmp_path, configuration, network):
    plans = loaded_plans(workspace, configuration, network)
    pretrained, content = content_of(plans)
    torch.save(content, tmp_path / "w.pth")
    read = torch.load(tmp_path / "w.pth", weights_only=True)
    block = read["nnssl_adaptation_plan"]
    assert block["architecture_plans"]["arch_class_name"] == network
    assert block["recommended_downstream_patchsize"] == list(plans.patch_size)
    for key in (block["key_to_encoder"], block["key_to_stem"], *block["keys_to_in_proj"]):
        assert pretrained.get_submodule(key) is not None
    for key in block["keys_to_in_proj"]:
        assert read["network_weights"][f"{key}.weight"].shape[1] == 1


def test_match_names_what_does_not_fit(workspace):
    plain, residual = (loaded_plans(workspace, "2d", network) for network in ("PlainConvUNet", "ResidualEncoderUNet"))
    match = match_weights(plain.build_network(1).state_dict(), residual.build_network(1))
    assert match.missing and match.dropped
    match = match_weights(plain.build_network(3).state_dict(), plain.build_network(1))
    assert match.adapted and not match.missing


@pytest.mark.parametrize(("configuration", "network"), KINDS)
def test_every_weight_but_the_segmentation_layers_is_trained(workspace, configuration, network):
    plans = loaded_plans(workspace, configuration, network)
    model = HSSLNetwork(plans.build_network(1), n_tasks=2, n_groups=2)
    found = model(torch.randn(2, 1, *plans.patch_size))
    assert [one.shape[1] for one in found["restored"]] == [1, 1]
    assert found["restored"][0].shape[2:] == plans.patch_size
    heads = sum(found[name].sum() for name in ("of_image", "of_task", "task", "group"))
    (heads + sum(restored.square().sum() for restored in found["restored"])).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without and all(".seg_layers." in name for name in without)


# ------------------------------------------------------------------------------------------------------- the patches
def pools_of(workspace, configuration, names):
    plans = loaded_plans(workspace, configuration, "PlainConvUNet")
    return [preprocess_pool(open_pool(name), plans, 1) for name in names], plans


def test_preprocessed_images_are_what_nnunet_makes_of_labelled_ones(workspace):
    (pool,), plans = pools_of(workspace, "2d", [SOURCE])
    case = open_pool(SOURCE).cases[2]
    preprocessor = plans.configuration.preprocessor_class(verbose=False)
    files = [str(file) for file in case.files]
    expected, _, _ = preprocessor.run_case(files, None, plans.manager, plans.configuration, plans.dataset_json)
    np.testing.assert_array_equal(np.load(pool.files[2]), expected.astype(np.float16))


def test_an_interrupted_preprocessing_goes_on_and_a_changed_image_is_read_again(workspace, monkeypatch):
    pools_of(workspace, "2d", [SOURCE])
    files = sorted((workspace.preprocessed / SOURCE / "xssr" / "caches").glob("hssl_*/*.npy"))
    files[1].unlink()
    done = []
    original = TargetPlans.preprocess
    monkeypatch.setattr(TargetPlans, "preprocess", lambda *a: done.append(1) or original(*a))
    pools_of(workspace, "2d", [SOURCE])
    assert len(done) == 1


def test_datasets_take_turns_and_a_sample_does_not_depend_on_others(workspace):
    pools, plans = pools_of(workspace, "2d", [SOURCE, TARGET])
    pairs = PatchPairs(pools, plans.patch_size, seed=3)
    assert [pairs.task(i) for i in range(6)] == [0, 1] * 3
    noisy, clean = pairs.pair(5)
    assert noisy.shape == clean.shape == (2, 1, *plans.patch_size)
    torch.manual_seed(99)
    np.random.seed(99)
    again = PatchPairs(pools, plans.patch_size, seed=3)
    again.pair(0)
    assert torch.equal(again.pair(5)[0], noisy) and torch.equal(again.pair(5)[1], clean)
    assert not torch.equal(PatchPairs(pools, plans.patch_size, seed=4).pair(5)[0], noisy)
    assert not torch.equal(noisy, clean) and not torch.equal(clean[0], clean[1])


def test_drawing_leaves_the_global_random_numbers_alone(workspace):
    pools, plans = pools_of(workspace, "2d", [SOURCE])
    pairs = PatchPairs(pools, plans.patch_size, seed=0)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    pairs.pair(1)
    assert torch.equal(torch.get_rng_state(), states[0]) and np.array_equal(np.random.get_state()[1], states[1])


def test_every_image_is_drawn_once_a_pass(tmp_path):
    files = []
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", np.full((1, 1, 16, 16), i + 1, np.float16))
        files.append(tmp_path / f"{i}.npy")
    pairs = PatchPairs([PreprocessedPool("p", tuple(files), {})], (16, 16), seed=0)
    seen = [round(float(pairs.pair(i)[1].max())) for i in range(10)]
    assert sorted(seen[:5]) == sorted(seen[5:]) == [1, 2, 3, 4, 5] and seen[:5] != seen[5:]


@pytest.mark.parametrize("shape", [(1, 5, 40), (7, 5, 40), (30, 30, 30), (1, 1, 1)])
@pytest.mark.parametrize("patch_size", [(16, 16), (8, 16, 16)])
def test_images_smaller_than_the_patch_are_padded_with_zero(tmp_path, shape, patch_size):
    np.save(tmp_path / "a.npy", np.ones((2, *shape), np.float16))
    pairs = PatchPairs([PreprocessedPool("p", (tmp_path / "a.npy",), {})], patch_size, seed=0)
    for i in range(8):
        noisy, clean = pairs.pair(i)
        assert clean.shape == (2, 2, *patch_size) and clean.max() > 0.2


def test_a_preprocessed_file_cut_off_is_named(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    pairs = PatchPairs([PreprocessedPool("p", (tmp_path / "a.npy",), {})], (8, 8), seed=0)
    with pytest.raises(ValueError, match="a.npy cannot be read"):
        pairs.pair(0)


# ------------------------------------------------------------------------------------------------------- the command
def test_command_writes_weights_that_fit_the_plans(planned, capsys):
    out = succeeds(capsys, hssl_pretrain.main, ARGV)
    assert "0 of the stem are adapted" in out and str(weights_file(planned)) in out
    assert f"next: nnUNetv2_train {TARGET} 2d 0 -pretrained_weights {weights_file(planned)}" in out
    plans = TargetPlans.load(TARGET, "2d")
    content = torch.load(weights_file(planned), weights_only=True)
    assert not check_loadable(content, plans.build_network(1), "w").missing
    torch.manual_seed(0)
    initial = plans.build_network(1).state_dict()
    changed = [not torch.equal(content["network_weights"][key], value) for key, value in initial.items()]
    assert sum(changed) > len(changed) / 2  # it has learned
    assert (weights_file(planned).parent / "progress.png").is_file()


def test_two_runs_and_a_continued_one_give_the_same_weights(planned, capsys, monkeypatch):
    argv = [*ARGV, "--epochs", "2"]
    succeeds(capsys, hssl_pretrain.main, argv)
    first = weights_file(planned).read_bytes()
    for file in weights_file(planned).parent.iterdir():
        file.unlink()
    calls, original = [], HSSLTask.loss

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(HSSLTask, "loss", interrupted)
    assert hssl_pretrain.main([str(a) for a in argv]) == 130
    succeeds(capsys, hssl_pretrain.main, [*argv, "--c"])
    assert weights_file(planned).read_bytes() == first


def test_volumes_for_a_3d_configuration(workspace, capsys, monkeypatch):
    monkeypatch.setattr(engine, "BATCHES_PER_EPOCH", 2)
    write_volumes(workspace)
    write_plans(workspace.preprocessed / VOLUMES, "3d_fullres", "ResidualEncoderUNet", reader="SimpleITKIO")
    argv = ["-d", "3", "-c", "3d_fullres", "-s", "3", "--epochs", "1", "--batch_size", "2", "-device", "cpu"]
    assert "one dataset only" in succeeds(capsys, hssl_pretrain.main, argv)
    assert (workspace.results / VOLUMES / "XSSR_HSSL__nnUNetPlans__3d_fullres" / "hssl_weights.pth").is_file()


def test_groups_by_file_and_by_channel_names(planned, capsys):
    file = planned.root / "groups.json"
    file.write_text(json.dumps({"a": [SOURCE], "b": [TARGET]}))
    succeeds(capsys, hssl_pretrain.main, [*ARGV, "--groups", file])
    checkpoint = torch.load(weights_file(planned).parent / "checkpoint_final.pth", weights_only=True)
    assert checkpoint["groups"] == [0, 1] and checkpoint["weights"]["group_head.weight"].shape[0] == 2
    for old in weights_file(planned).parent.iterdir():
        old.unlink()
    succeeds(capsys, hssl_pretrain.main, ARGV)  # both are called xray
    checkpoint = torch.load(weights_file(planned).parent / "checkpoint_final.pth", weights_only=True)
    assert checkpoint["groups"] == [0, 0]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"a": [SOURCE, TARGET, "Dataset009_X"]}, "names 'Dataset009_X', which is not among the datasets"),
        ({"a": [SOURCE]}, f"{TARGET} is in 0"),
        ({"a": [SOURCE, TARGET], "b": [TARGET]}, f"{TARGET} is in 2"),
        ([SOURCE], "must hold groups of datasets"),
    ],
)
def test_groups_that_do_not_fit(planned, capsys, groups, words):
    file = planned.root / "groups.json"
    file.write_text(json.dumps(groups))
    fails(capsys, hssl_pretrain.main, [*ARGV, "--groups", file], words)


def test_what_is_refused(planned, capsys):
    other = [*ARGV]
    other[3] = "3d_fullres"
    fails(capsys, hssl_pretrain.main, other, "-c, the configurations of", "2d", "'3d_fullres'")
    fails(capsys, hssl_pretrain.main, [*ARGV, "-p", "Other"], "has no plans", "Other.json", "nnUNetv2_plan_experiment")
    write_volumes(planned)
    write_dataset_json(planned.raw / VOLUMES, ".nii.gz", {"0": "T1", "1": "T2"})
    argv = [*ARGV[:5], "1", "3", *ARGV[7:]]
    fails(capsys, hssl_pretrain.main, argv, "equally many channels", f"{SOURCE} has 1, {VOLUMES} has 2")
    write_plans(planned.preprocessed / TARGET, channels=3)
    write_dataset_json(planned.raw / TARGET, channel_names={"0": "R", "1": "G", "2": "B"})
    fails(capsys, hssl_pretrain.main, [*ARGV[:5], "1", *ARGV[7:]], "1 channels", "--like_channels 3")
