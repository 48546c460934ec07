"""Every option of the two pretrainings reaches what it is about."""

import numpy as np
import pytest
import torch
from making import SOURCE, TARGET, fails, picture, succeeds, volume, write_dataset_json, write_picture, write_volume
from PIL import Image
from plans import drawn_pools, write_plans

from nnunetv2_xssr.commands import hssl_pretrain, pretrain
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.pipeline import pretraining
from nnunetv2_xssr.pretrain import engine
from nnunetv2_xssr.pretrain.checkpoint import load_checkpoint
from nnunetv2_xssr.pretrain.hssl import pretrain as hssl
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
from nnunetv2_xssr.pretrain.hssl.sources import Source
from nnunetv2_xssr.pretrain.processes import start
from nnunetv2_xssr.pretrain.settings import Settings

BOTH = {"pretrain": (pretrain.main, []), "hssl_pretrain": (hssl_pretrain.main, ["-d", "2", "-c", "2d"])}


@pytest.fixture
def planned(workspace, monkeypatch):
    monkeypatch.setattr(engine, "BATCHES_PER_EPOCH", 2)
    write_plans(workspace.preprocessed / TARGET)
    return workspace


def written(workspace, name):
    folder = f"{SOURCE}/XSSR_MAE__2d" if name == "pretrain" else f"{TARGET}/XSSR_HSSL__nnUNetPlans__2d"
    return load_checkpoint(workspace.results / folder / "checkpoint_final.pth")


@pytest.mark.parametrize("name", BOTH)
def test_settings_are_those_of_the_checkpoint(planned, capsys, name):
    main, argv = BOTH[name]
    argv = [*argv, "-s", "1", "-device", "cpu", "--epochs", "2", "--batch_size", "4", "--seed", "7"]
    succeeds(capsys, main, [*argv, "--accumulate", "2", "--precision", "bf16-mixed"])
    training = written(planned, name)["training"]
    accumulate = {"accumulate": 2} if name == "hssl_pretrain" else {}
    assert training == {"epochs": 2, "batch_size": 4, "seed": 7, "precision": "bf16-mixed", **accumulate}
    fails(capsys, main, [*argv, "-num_gpus", "3"], "num_gpus must be between 1 and 1 for the device cpu", "got 3")
    fails(capsys, main, [*argv, "--precision", "16-mixed"], "16-mixed needs a CUDA GPU")
    fails(capsys, main, [*argv, "--precision", "64"], "precision must be one of 32-true")


@pytest.mark.parametrize("name", BOTH)
def test_broken_images_stop_a_pretraining_or_are_set_aside(planned, capsys, name):
    main, argv = BOTH[name]
    file = planned.images(SOURCE) / "s_02_0000.png"
    file.write_bytes(file.read_bytes()[:60])
    argv = [*argv, "-s", "1", "-device", "cpu", "--epochs", "1", "--batch_size", "4"]
    fails(capsys, main, argv, "case s_02", "--skip_broken")
    assert "set aside: case s_02" in succeeds(capsys, main, [*argv, "--skip_broken"])


class Elsewhere:
    """A fabric of this CPU that says it is another device, with several processes."""

    def __init__(self, fabric, device, world_size):
        self.fabric, self.device, self.world_size = fabric, torch.device(device), world_size

    def __getattr__(self, name):
        return getattr(self.fabric, name)


@pytest.mark.parametrize(
    ("device", "processes", "asked", "batch_size", "accumulate"),
    [
        ("cpu", 1, {}, 12, 1),
        ("cuda", 1, {}, 12, 2),  # 12 views were planned, which are those of 6 images
        ("mps", 1, {}, 12, 2),
        ("cuda", 2, {}, 12, 1),
        ("cuda", 1, {"accumulate": 1}, 12, 1),
        ("cuda", 1, {"accumulate": 6}, 12, 6),
        ("cuda", 1, {"batch_size": 48}, 48, 8),
    ],
)
def test_batch_and_parts_follow_the_plans_unless_they_are_given(
    planned, monkeypatch, device, processes, asked, batch_size, accumulate
):
    plans = TargetPlans.load(TARGET, configuration_name="2d")
    plans.configuration.configuration["batch_size"] = 12
    monkeypatch.setattr(TargetPlans, "load", lambda *args, **kwargs: plans)
    fabric = Elsewhere(start("cpu"), device, processes)
    monkeypatch.setattr(pretraining, "start", lambda *args, **kwargs: fabric)
    found = {}
    monkeypatch.setattr(pretraining, "pretrain_hssl", lambda *args, settings, **kwargs: found.update(settings=settings))
    pretraining.pretrain_unet(TARGET, configuration="2d", sources=[SOURCE], device="cpu", **asked)
    assert (found["settings"].batch_size, found["settings"].accumulate) == (batch_size, accumulate)
    assert found["settings"].epochs == 100


@pytest.mark.parametrize("n_cases", [30, 6])  # of six none are held out
def test_a_seed_decides_what_is_held_out_and_what_is_drawn(planned, tmp_path, monkeypatch, n_cases):
    plans, pools, made = TargetPlans.load(TARGET, configuration_name="2d"), drawn_pools(tmp_path, 2, (n_cases,)), []

    def begin(objective, **kwargs):
        made.append(objective)
        raise KeyboardInterrupt

    monkeypatch.setattr(hssl, "train", begin)
    for seed in (3, 3, 4):
        settings = Settings(epochs=1, batch_size=4, seed=seed)
        options = {"groups": [0], "channels": 1, "saved_channels": 1, "settings": settings, "resume": False}
        with pytest.raises(KeyboardInterrupt):
            hssl.pretrain_hssl(plans, pools, fabric=start("cpu"), **options)
    first, again, other = made
    for part in ("pairs", "held_out"):
        cases = [[getattr(one, part).title(i) for i in range(10)] for one in made]
        assert cases[0] == cases[1] != cases[2], part
        drawn = [getattr(one, part).pair(0)[0] for one in made]
        assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2]), part
    learned, out = (set(first.pairs.pools[0].files), set(first.held_out.pools[0].files))
    if n_cases == 30:
        assert learned and out and not learned & out
        assert set(other.held_out.pools[0].files) != out
    assert not torch.equal(first.pairs.pair(0)[1], first.held_out.pair(0)[1])


def test_images_made_for_other_plans_are_not_taken(planned):
    """All that decides a preprocessed image decides its folder: the order and statistics of channels too."""
    name, keys = "Dataset003_Volumes", []

    def key(names, *, like):
        write_plans(planned.preprocessed / TARGET, channels=len(like))
        write_dataset_json(planned.raw / TARGET, channel_names=dict(enumerate(like)))
        write_dataset_json(planned.raw / name, ".nii.gz", dict(enumerate(names)))
        keys.append(Source.of(open_pool(name), TargetPlans.load(TARGET, configuration_name="2d")).key)

    for channel in range(2):
        write_volume(planned.images(name) / f"v_0_000{channel}.nii.gz", 10 * volume(channel)[0] - 300)
    key(["CT", "T1"], like=["CT", "T1"])
    key(["CT", "T1"], like=["T1", "CT"])
    key(["T1", "T2"], like=["T1", "T2"])
    write_volume(planned.images(name) / "v_0_0000.nii.gz", 20 * volume(0)[0] - 300)
    key(["CT", "T1"], like=["CT", "T1"])
    key(["T1", "T2"], like=["T1", "T2"])
    assert len(set(keys)) == 4 and keys[2] == keys[4]  # z-scores need nothing of a pool


def test_a_picture_of_what_both_are_shown(planned, capsys):
    """The first batch, before anything is learned."""
    for name, (main, argv) in BOTH.items():
        file = planned.root / f"{name}.png"
        for i in range(2):
            write_picture(planned.root / "folder" / f"c_{i}.png", picture(i))
        argv = [*argv, "-s", planned.root / "folder", "-device", "cpu", "--epochs", "1", "--batch_size", "4"]
        succeeds(capsys, main, [*argv, "--show_batch", file])
        assert np.asarray(Image.open(file)).std() > 5
