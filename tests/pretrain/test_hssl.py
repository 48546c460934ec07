"""HSSL: what it reads, what it trains, and that nnU-Net takes its weights."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from making import SOURCE, TARGET, fails, picture, succeeds, volume, write_dataset_json, write_picture, write_volume
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from plans import KINDS, drawn_pools, pool_of, write_plans

from nnunetv2_xssr.commands import hssl_pretrain
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.pretrain import engine
from nnunetv2_xssr.pretrain.hssl import patches
from nnunetv2_xssr.pretrain.hssl.network import HSSLNetwork
from nnunetv2_xssr.pretrain.hssl.objective import HSSLObjective
from nnunetv2_xssr.pretrain.hssl.patches import PatchPairs, preprocess_pool
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
from nnunetv2_xssr.pretrain.hssl.pretrain import group_of, parts_that_fit, pretrain_hssl
from nnunetv2_xssr.pretrain.hssl.sources import Source
from nnunetv2_xssr.pretrain.hssl.weights import check_loadable, checkpoint_content, match_weights
from nnunetv2_xssr.pretrain.processes import Whole, start
from nnunetv2_xssr.pretrain.settings import Settings

VOLUMES = "Dataset003_Volumes"
ARGV = ["-d", "2", "-c", "2d", "-s", "1", "2", "--epochs", "1", "--batch_size", "4", "-device", "cpu"]
WHOLE = Whole(start("cpu"))


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
    return TargetPlans.load(TARGET, configuration_name=configuration)


def weights_file(workspace, configuration="2d"):
    return workspace.results / TARGET / f"XSSR_HSSL__nnUNetPlans__{configuration}" / "hssl_weights.pth"


# ------------------------------------------------------------------------------------------------------ the weights
def content_of(plans, channels=1, saved=1):
    network = plans.build_network(channels)
    return network, checkpoint_content(network, plans=plans, channels=saved)


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
    assert not check_loadable(content, fresh, where="w.pth").missing


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
    return [preprocess_pool(Source.of(open_pool(name), plans)) for name in names], plans


def test_preprocessed_images_are_what_nnunet_makes_of_labelled_ones(workspace):
    (pool,), plans = pools_of(workspace, "2d", [SOURCE])
    case = open_pool(SOURCE).cases[2]
    preprocessor = plans.configuration.preprocessor_class(verbose=False)
    files = [str(file) for file in case.files]
    expected, _, _ = preprocessor.run_case(files, None, plans.manager, plans.configuration, plans.dataset_json)
    np.testing.assert_array_equal(PatchPairs._open(pool.files[2])[:], expected.astype(np.float16))


def test_an_interrupted_preprocessing_goes_on_and_a_changed_image_is_read_again(workspace, monkeypatch):
    pools_of(workspace, "2d", [SOURCE])
    files = sorted((workspace.preprocessed / SOURCE / "xssr" / "caches").glob("hssl_*/*.b2nd"))
    files[1].unlink()
    done = []
    original = TargetPlans.preprocess
    monkeypatch.setattr(TargetPlans, "preprocess", lambda *a: done.append(1) or original(*a))
    pools_of(workspace, "2d", [SOURCE])
    assert len(done) == 1


@pytest.mark.parametrize("place", [128, -40])
def test_a_damaged_preprocessed_image_is_made_anew(workspace, caplog, place):
    (pool,), _ = pools_of(workspace, "2d", [SOURCE])
    whole = pool.files[1].read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 255
    pool.files[1].write_bytes(damaged)
    pool.files[2].rename(pool.files[2].with_name(pool.files[3].name))  # one file in the place of another
    with caplog.at_level("WARNING"):
        (again,), _ = pools_of(workspace, "2d", [SOURCE])
    assert again.files == pool.files and again.files[1].read_bytes() == whole
    assert f"{pool.files[1]} does not fit its checksum" in caplog.text
    assert len({file.read_bytes() for file in again.files}) == len(again.files)


def test_datasets_take_turns_and_a_sample_does_not_depend_on_others(workspace):
    pools, plans = pools_of(workspace, "2d", [SOURCE, TARGET])
    pairs = PatchPairs(pools, patch_size=plans.patch_size, seed=3)
    assert [pairs.task(i) for i in range(6)] == [0, 1] * 3
    noisy, clean = pairs.pair(5)
    assert noisy.shape == clean.shape == (2, 1, *plans.patch_size)
    torch.manual_seed(99)
    np.random.seed(99)
    again = PatchPairs(pools, patch_size=plans.patch_size, seed=3)
    again.pair(0)
    assert torch.equal(again.pair(5)[0], noisy) and torch.equal(again.pair(5)[1], clean)
    assert not torch.equal(PatchPairs(pools, patch_size=plans.patch_size, seed=4).pair(5)[0], noisy)
    assert not torch.equal(noisy, clean) and not torch.equal(clean[0], clean[1])


def test_drawing_leaves_the_global_random_numbers_alone(workspace):
    pools, plans = pools_of(workspace, "2d", [SOURCE])
    pairs = PatchPairs(pools, patch_size=plans.patch_size, seed=0)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    pairs.pair(1)
    assert torch.equal(torch.get_rng_state(), states[0]) and np.array_equal(np.random.get_state()[1], states[1])


def test_every_image_is_drawn_once_a_pass(tmp_path):
    pool = pool_of(tmp_path, [np.full((1, 1, 16, 16), i + 1) for i in range(5)])
    pairs = PatchPairs([pool], patch_size=(16, 16), seed=0)
    seen = [round(float(pairs.pair(i)[1].max())) for i in range(10)]
    assert sorted(seen[:5]) == sorted(seen[5:]) == [1, 2, 3, 4, 5] and seen[:5] != seen[5:]


SHAPES, PATCHES = [(1, 5, 40), (7, 5, 40), (30, 30, 30), (1, 1, 1)], [(16, 16), (8, 16, 16)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("patch_size", PATCHES)
def test_patches_of_any_image_have_the_size_asked_for(tmp_path, shape, patch_size):
    pairs = PatchPairs([pool_of(tmp_path, [np.ones((2, *shape))])], patch_size=patch_size, seed=0)
    for i in range(8):
        noisy, clean = pairs.pair(i)
        assert clean.shape == noisy.shape == (2, 2, *patch_size) and clean.max() > 0.2


@pytest.mark.parametrize("patch_size", PATCHES)
def test_images_smaller_than_the_patch_are_padded_with_zero(tmp_path, patch_size):
    """An image of ones: its share of the patch is one, everything beside it is zero."""
    pairs = PatchPairs([pool_of(tmp_path, [np.ones((2, 4, 4, 4))])], patch_size=patch_size, seed=0)
    share = np.prod([4 / size for size in patch_size])
    means = [pairs.pair(i)[1].mean().item() for i in range(20)]
    assert np.mean(means) == pytest.approx(share, rel=0.5) and max(means) < 3 * share


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("patch_size", PATCHES)
def test_a_patch_is_the_image_around_its_middle(shape, patch_size):
    """Voxel by voxel, as the definition says it."""
    rng = np.random.default_rng(0)
    image = (1 + rng.random((2, *shape))).astype(np.float16)
    size = (*[1] * (3 - len(patch_size)), *patch_size)
    for _ in range(4):
        middle = np.array([rng.integers(n) for n in shape])
        shift = np.array([rng.integers(-n // 4, n // 4 + 1) for n in patch_size])
        start = middle - np.array(size) // 2 + np.array([0] * (3 - len(patch_size)) + list(shift))
        expected = np.zeros((2, *size), np.float32)
        for place in np.ndindex(*size):
            voxel = tuple(start + place)
            if all(0 <= v < n for v, n in zip(voxel, shape, strict=True)):
                expected[(slice(None), *place)] = image[(slice(None), *voxel)]
        found = patches._cut(image, middle, shift, patch_size)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected.reshape(2, *patch_size))


def test_a_preprocessed_file_cut_off_is_named(tmp_path):
    pool = pool_of(tmp_path, [np.ones((1, 1, 8, 8))])
    pool.files[0].write_bytes(pool.files[0].read_bytes()[:-9])
    pairs = PatchPairs([pool], patch_size=(8, 8), seed=0)
    with pytest.raises(ValueError, match="p_0.b2nd cannot be read"):
        pairs.pair(0)


# ----------------------------------------------------------------------------------------------------- the objective
def objective_of(plans, pools, groups):
    pairs = [PatchPairs(pools, patch_size=plans.patch_size, seed=seed) for seed in (0, 1)]
    return HSSLObjective(plans, channels=1, pairs=pairs[0], held_out=pairs[1], groups=groups, health_note="")


@pytest.mark.parametrize(("configuration", "network"), KINDS)
def test_the_loss_teaches_the_whole_network(workspace, tmp_path, configuration, network):
    """Every weight but the segmentation layers has a gradient that is not zero: encoder, decoder and heads."""
    plans = loaded_plans(workspace, configuration, network)
    objective = objective_of(plans, drawn_pools(tmp_path, int(configuration[0]), (2, 2, 2)), [0, 0, 1])
    torch.manual_seed(0)
    model = objective.build_model()
    for parameter in model.parameters():  # nnU-Net begins residual blocks at zero
        parameter.data += 0.1 * torch.randn(parameter.shape)
    losses = objective.loss(model, objective.batch(range(6)), WHOLE)
    losses["loss"].backward()
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim > 1}
    assert [name for name, weight in weights.items() if weight.grad is None or not weight.grad.any()] == []
    assert any("decoder.stages" in name for name in weights) and any("restore" in name for name in weights)
    for name, loss in losses.items():
        assert loss > 0.01, name  # no part is lost


def test_a_single_dataset_contrasts_its_images_but_no_tasks(workspace, tmp_path):
    plans = loaded_plans(workspace, "2d", "PlainConvUNet")
    objective = objective_of(plans, drawn_pools(tmp_path, 2, (4,)), [0])
    model = objective.build_model()
    losses = objective.loss(model, objective.batch(range(4)), WHOLE)
    losses["loss"].backward()
    assert losses["group_loss"] == 0 and losses["image_loss"] > 0
    assert model.project_image[0].weight.grad.any()
    # Processes wait for the gradients of all parameters: they are zero, and there.
    assert not model.project_task[0].weight.grad.any() and not model.task_head.weight.grad.any()


def test_a_batch_of_one_image_is_refused_by_the_loss(workspace, tmp_path):
    plans = loaded_plans(workspace, "2d", "PlainConvUNet")
    objective = objective_of(plans, drawn_pools(tmp_path, 2, (2, 2)), [0, 1])
    with pytest.raises(ValueError, match="needs two"):
        objective.loss(objective.build_model(), objective.batch(range(1)), WHOLE)


@pytest.mark.parametrize(
    ("n_images", "n_held_out"), [((25, 25), 6), ((20, 20), 4), ((19, 19), 0), ((19, 25), 3)]
)  # of a pool that is too small none are held out, and none take part in the health of the others
def test_learned_images_and_those_of_the_health_are_others(workspace, tmp_path, monkeypatch, n_images, n_held_out):
    """Which files are opened for the batches and which for the health, in a training of several passes."""
    monkeypatch.setattr(engine, "BATCHES_PER_EPOCH", 10)
    plans = loaded_plans(workspace, "2d", "PlainConvUNet")
    pools = drawn_pools(tmp_path, 2, n_images)
    opened, original = {"batch": set(), "health": set()}, PatchPairs._open

    def noted(part):
        method = getattr(HSSLObjective, part)

        def call(self, *args):
            monkeypatch.setattr(PatchPairs, "_open", staticmethod(lambda f: opened[part].add(f) or original(f)))
            return method(self, *args)

        monkeypatch.setattr(HSSLObjective, part, call)

    noted("batch")
    noted("health")
    pretrain_hssl(
        plans,
        pools,
        groups=[0, 1],
        channels=1,
        saved_channels=1,
        settings=Settings(epochs=1, batch_size=8),
        fabric=start("cpu"),
        resume=False,
    )
    everything = {file for pool in pools for file in pool.files}
    if n_held_out:
        assert len(opened["health"]) == n_held_out and opened["batch"] == everything - opened["health"]
    else:
        assert opened["batch"] == everything == opened["health"]


# ------------------------------------------------------------------------------------------------------- the command
@pytest.mark.parametrize(("batch_size", "accumulate"), [(1, 1), (6, 4)])
def test_a_batch_that_cannot_be_compared_or_divided_is_refused_before_any_work(planned, capsys, batch_size, accumulate):
    argv = [*ARGV, "--batch_size", batch_size, "--accumulate", accumulate]
    fails(capsys, hssl_pretrain.main, argv, "batch_size must be", f"got {batch_size}")
    assert not list((planned.preprocessed / SOURCE / "xssr").rglob("hssl_*"))
    assert not weights_file(planned).parent.exists()


def test_parts_of_one_image_learn_what_the_whole_batch_does_and_stay_so(planned, capsys):
    succeeds(capsys, hssl_pretrain.main, ARGV)
    final = weights_file(planned).parent / "checkpoint_final.pth"
    whole = torch.load(final, weights_only=True)
    argv = [*ARGV, "--accumulate", "4"]
    succeeds(capsys, hssl_pretrain.main, argv)
    parts = torch.load(final, weights_only=True)
    for name in ("loss", "image_loss", "group_loss", "task_loss", "decoder_loss"):
        assert parts["history"][name] == pytest.approx(whole["history"][name], rel=1e-4), name
        assert whole["history"][name][0] > 0.1, name
    fails(capsys, hssl_pretrain.main, [*ARGV, "--c"], "other training ({'accumulate': 4})", "({'accumulate': 1})")
    succeeds(capsys, hssl_pretrain.main, [*argv, "--c"])


def test_an_unfinished_pretraining_is_not_replaced_in_silence(planned, capsys):
    latest = weights_file(planned).parent / "checkpoint_latest.pth"
    assert "will be replaced" not in succeeds(capsys, hssl_pretrain.main, ARGV)
    latest.write_bytes(b"what it has learned so far")
    assert f"{latest} of an unfinished training will be replaced" in succeeds(capsys, hssl_pretrain.main, ARGV)


@pytest.mark.parametrize(("planned_batch", "batch"), [(2, 8), (13, 12)])
def test_batch_by_default(planned, capsys, planned_batch, batch):
    """An odd one of the plans would be computed in parts of single images on a GPU, where its number is a prime."""
    file = planned.preprocessed / TARGET / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["2d"]["batch_size"] = planned_batch
    file.write_text(json.dumps(plans))
    at = ARGV.index("--batch_size")
    succeeds(capsys, hssl_pretrain.main, [*ARGV[:at], *ARGV[at + 2 :]])
    kept = torch.load(weights_file(planned).parent / "checkpoint_final.pth", weights_only=True)
    assert kept["training"]["batch_size"] == batch


@pytest.mark.parametrize(("planned_batch", "batch", "processes", "parts"), [
    (2, 8, 1, 8), (12, 12, 1, 2), (49, 49, 1, 7), (2, 8, 4, 2), (1, 8, 1, 8), (40, 16, 1, 1),
])  # fmt: skip
def test_on_a_gpu_a_part_has_no_more_views_than_nnunet_planned(workspace, planned_batch, batch, processes, parts):
    plans = loaded_plans(workspace, "2d", "PlainConvUNet")
    plans.configuration.configuration["batch_size"] = planned_batch
    assert parts_that_fit(plans, batch_size=batch, n_processes=processes) == parts
    assert 2 * batch / (parts * processes) <= max(2, planned_batch)


@pytest.mark.parametrize(("patch_size", "n_pairs"), [((16, 16), 64), ((512, 512), 64), ((128, 128, 128), 8)])
def test_health_takes_little_memory_and_goes_through_the_network_in_parts(workspace, monkeypatch, patch_size, n_pairs):
    """Drawn are as many pairs as fit into 256 MiB; at once go as many views as nnU-Net planned."""
    plans = loaded_plans(workspace, "2d", "PlainConvUNet")
    plans.configuration.configuration["patch_size"] = list(patch_size)
    objective = objective_of(plans, [], [0])
    monkeypatch.setattr(objective, "_draw", lambda pairs, samples: samples)
    assert objective._health_batch == range(n_pairs) and 2 * objective.health_pairs == plans.configuration.batch_size


def test_command_writes_weights_that_fit_the_plans(planned, capsys):
    out = succeeds(capsys, hssl_pretrain.main, ARGV)
    assert "0 of the stem are adapted" in out and str(weights_file(planned)) in out
    assert f"next: nnUNetv2_train {TARGET} 2d 0 -pretrained_weights {weights_file(planned)}" in out
    plans = TargetPlans.load(TARGET, configuration_name="2d")
    content = torch.load(weights_file(planned), weights_only=True)
    assert not check_loadable(content, plans.build_network(1), where="w").missing
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
    calls, original = [], HSSLObjective.loss

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(HSSLObjective, "loss", interrupted)
    assert hssl_pretrain.main([str(a) for a in argv]) == 130
    succeeds(capsys, hssl_pretrain.main, [*argv, "--c"])
    assert weights_file(planned).read_bytes() == first


@pytest.mark.parametrize("names", [("R", "G", "B"), ("extra", "XRay"), ("CT", "T1")])
def test_images_with_more_channels_than_the_target(planned, capsys, names):
    """--like_channels: each channel is normalised by its name, the target's where it has the same."""
    for i in range(3):
        for channel in range(len(names)):
            write_picture(planned.images("Dataset004_More") / f"c_{i}_{channel:04d}.png", picture(i + 10 * channel))
    write_dataset_json(planned.raw / "Dataset004_More", channel_names=dict(enumerate(names)))
    argv = [*ARGV[:5], "4", *ARGV[7:]]
    fails(capsys, hssl_pretrain.main, argv, f"the images have {len(names)} channels", "has 1", "--like_channels 1")
    out = succeeds(capsys, hssl_pretrain.main, [*argv, "--like_channels", "1"])
    assert f"normalisation of Dataset004_More: {names[0]} by " in out
    assert f"next: nnUNetv2_train {TARGET} 2d 0 -pretrained_weights {weights_file(planned)}" in out
    plans = TargetPlans.load(TARGET, configuration_name="2d")
    content = torch.load(weights_file(planned), weights_only=True)
    assert not check_loadable(content, plans.build_network(1), where="w").missing


def test_images_with_fewer_channels_than_the_target(planned, capsys):
    write_plans(planned.preprocessed / TARGET, channels=3)
    write_dataset_json(planned.raw / TARGET, channel_names={"0": "R", "1": "G", "2": "B"})
    argv = [*ARGV[:5], "1", *ARGV[7:], "--like_channels"]
    for number in (0, -1):
        fails(capsys, hssl_pretrain.main, [*argv, number], f"--like_channels must be between 1 and 1000; got {number}")
    succeeds(capsys, hssl_pretrain.main, [*argv, "3"])
    plans = TargetPlans.load(TARGET, configuration_name="2d")
    assert not check_loadable(torch.load(weights_file(planned)), plans.build_network(3), where="w").missing


def test_a_source_that_does_not_fit_its_normalisation_is_named(planned, capsys):
    write_volumes(planned, 1)
    write_dataset_json(planned.raw / VOLUMES, ".nii.gz", {"0": "rgb_to_0_1"})
    argv = [*ARGV[:5], "3", *ARGV[7:]]
    fails(capsys, hssl_pretrain.main, argv, "case v_0", "does not fit its normalisation")


def test_next_step_names_the_plans_and_quotes_spaces(planned, capsys, monkeypatch):
    plans = planned.preprocessed / TARGET / "nnUNetPlans.json"
    plans.rename(plans.with_name("other plans.json"))
    out = succeeds(capsys, hssl_pretrain.main, [*ARGV, "-p", "other plans"])
    (line,) = [line for line in out.splitlines() if line.startswith("next: ")]
    words = shlex.split(line.removeprefix("next: "))
    assert words[:6] == ["nnUNetv2_train", TARGET, "2d", "0", "-p", "other plans"]
    assert Path(words[words.index("-pretrained_weights") + 1]).is_file()
    assert words[-2:] == ["-device", "cpu"]  # nnU-Net would look for a GPU


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


def test_a_group_has_the_same_channel_names_in_any_order(workspace):
    pool = open_pool(SOURCE)
    named = [("T1", "FLAIR"), ("CT", "T1"), ("flair ", "t1"), ("T1", "T1")]
    groups = group_of([replace(pool, channel_names=names) for names in named], file=None)
    assert groups[0] == groups[2] and len(set(groups)) == 3


def test_a_folder_without_names_is_in_the_group_of_the_target(planned, capsys):
    for i in range(2):
        write_picture(planned.root / "folder" / f"c_{i}.png", picture(40 + i))
    succeeds(capsys, hssl_pretrain.main, [*ARGV[:5], "2", planned.root / "folder", *ARGV[7:]])
    checkpoint = torch.load(weights_file(planned).parent / "checkpoint_final.pth", weights_only=True)
    assert checkpoint["groups"] == [0, 0]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"a": [SOURCE, TARGET, "Dataset009_X"]}, "names 'Dataset009_X', which is not among the datasets"),
        ({"a": [SOURCE]}, f"{TARGET} is in 0"),
        ({"a": [SOURCE, TARGET], "b": [TARGET]}, f"{TARGET} is in 2"),
        ([SOURCE], "must be an object"),
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
