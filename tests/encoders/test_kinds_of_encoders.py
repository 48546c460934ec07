"""What single encoders see, and what they refuse in one sentence."""

import json
import shutil
import sys
import tarfile

import numpy as np
import pytest
import torch
from kinds import TIMM, import_timm, model_folder, timm_weights
from making import SOURCE, TARGET, fails, picture, write_dataset_json, write_picture

from nnunetv2_xssr.commands import select
from nnunetv2_xssr.encoders import dictionary, opened_mae, source_model
from nnunetv2_xssr.encoders.dictionary import open_dictionary
from nnunetv2_xssr.encoders.encoder import Request
from nnunetv2_xssr.encoders.intensity import LEVELS, quantiles
from nnunetv2_xssr.encoders.registry import SPELLINGS, open_encoder
from nnunetv2_xssr.encoders.source_model import _averages
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.normalise import CT_WINDOWS, hounsfield, normalise
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.views import prepare_views
from nnunetv2_xssr.pretrain.checkpoint import load_checkpoint, save_checkpoint

SELECT = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu", "--encoder"]


def opened(spelling, weights=None, dim=2):
    return open_encoder(str(spelling), weights=weights, learn_from=[SOURCE], dim=dim, device="cpu")


# --- what they see


def test_intensity_is_quantiles_of_values_and_of_slopes():
    ramp = np.tile(np.linspace(0, 1, 101), (101, 1))[None, None]
    found = quantiles(ramp.astype(np.float16))
    np.testing.assert_allclose(found[0, : len(LEVELS)], LEVELS, atol=1e-3)
    np.testing.assert_allclose(found[0, len(LEVELS) :], 0.01, atol=1e-3)


def test_dictionary_tells_textures_apart_and_not_brightness(workspace):
    views = prepare_views(open_pool(SOURCE))
    request = Request(argument="", weights=None, learn_from=(SOURCE,), dim=2, device="cpu")
    encoder = open_dictionary(request).ready([views], seed=0)
    rng = np.random.default_rng(0)
    fine, coarse = rng.normal(size=(128, 128)), np.kron(rng.normal(size=(8, 8)), np.ones((16, 16)))
    embed_case = encoder.for_pool(views)
    found = [embed_case(image[None, None]) for image in (fine, fine + 5, coarse)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-4)
    assert np.abs(found[0] - found[2]).max() > 0.05


@pytest.mark.parametrize("window", [None, (40.0, 400.0)])
def test_hounsfield_units_come_back_from_the_windows(window):
    units = np.linspace(-3000, 3000, 6001, dtype=np.float32)
    shown = normalise(units[None, None, None], ("CT",), None, window)[:, 0, 0].astype(np.float16)
    ends = [-160, 240] if window else [-1000, 1300]
    expected = np.clip(units, *ends)
    assert len(shown) == (1 if window else len(CT_WINDOWS))
    np.testing.assert_allclose(hounsfield(shown, window), expected, atol=2)


def test_source_model_keeps_predictions_beside_features(workspace):
    folder = model_folder(workspace.root / "model")
    views = prepare_views(open_pool(TARGET))
    model = opened(f"nnunet:{folder}")
    row = model.for_pool(views)(views.rows[0])[0]
    per_fold = 3 * (16 + 4)
    assert len(row) == 2 * per_fold + 3 + 2
    shares, doubt, disagreement = row[-5:-2], row[-2], row[-1]
    assert shares.sum() == pytest.approx(1, abs=1e-5) and (shares > 0).all()
    assert 0 < disagreement < doubt <= np.log(3)
    everywhere, inside, outside = row[:16], row[16:32], row[32:48]
    between = (everywhere - outside) / np.where(inside == outside, 1, inside - outside)
    np.testing.assert_allclose(between, between[0], atol=0.02)  # the share of the foreground at that stage
    alone = opened(f"nnunet:{model_folder(workspace.root / 'one', folds=(0,))}").for_pool(views)(views.rows[0])[0]
    assert alone[-1] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(alone[:16], everywhere, rtol=1e-5)


def test_source_model_averages_inside_and_outside_of_the_prediction():
    """Everywhere, then inside, then outside: the order in which the row is described."""
    stage = torch.arange(16.0).reshape(1, 1, 4, 4)
    foreground = torch.zeros(8, 8)
    foreground[:2, :2] = 1  # the first of sixteen places
    assert [average.item() for average in _averages(stage, foreground)] == [7.5, 0.0, 8.0]
    foreground[:, :] = 0.25
    assert [average.item() for average in _averages(stage, foreground)] == [7.5, 7.5, 7.5]


def test_source_model_takes_all_labels_but_the_first_for_foreground(workspace, monkeypatch):
    folder = model_folder(workspace.root / "model", folds=(0,))
    model, seen = opened(f"nnunet:{folder}"), []
    original = source_model._averages
    monkeypatch.setattr(
        source_model, "_averages", lambda s, foreground: seen.append(foreground) or original(s, foreground)
    )
    logits = torch.zeros(1, 3, 64, 64)
    logits[:, 0, :32], logits[:, 1, 32:48], logits[:, 2, 48:] = 50, 50, 50
    monkeypatch.setattr(source_model, "_see", lambda *_: (torch.ones(1, 16, 8, 8), torch.ones(1, 4, 64, 64), logits))
    model._of_view(torch.zeros(1, 1, 64, 64))
    assert torch.equal(seen[0].round(), torch.cat([torch.zeros(32, 64), torch.ones(32, 64)]))


@pytest.mark.parametrize("seed", [0, 5])
def test_an_autoencoder_is_pretrained_with_the_seed_that_is_given(workspace, monkeypatch, seed):
    workspace.encoder().unlink()
    asked = []
    monkeypatch.setattr(opened_mae, "pretrain", lambda *_, settings, **__: asked.append(settings.seed) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        opened("mae").ready([prepare_views(open_pool(SOURCE))], seed=seed)
    assert asked == [seed]


@pytest.mark.parametrize("part", ["_sample", "MiniBatchKMeans"])
def test_every_part_of_a_dictionary_follows_the_seed(workspace, monkeypatch, part):
    """With the seed of one part held, the other still follows it."""
    views = [prepare_views(open_pool(SOURCE))]
    request = Request(argument="", weights=None, learn_from=(SOURCE,), dim=2, device="cpu")
    held = getattr(dictionary, part)
    fixed = {"seed": 0} if part == "_sample" else {"random_state": 0}
    monkeypatch.setattr(dictionary, part, lambda *given, **by_name: held(*given, **{**by_name, **fixed}))
    words = [open_dictionary(request).ready(views, seed=seed).words for seed in (0, 1)]
    assert not np.array_equal(*words)


def test_source_model_of_regions_and_of_all_cases(workspace):
    labels = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
    folder = model_folder(workspace.root / "model", labels={**labels}, folds=("all",), heads=2)
    views = prepare_views(open_pool(TARGET))
    row = opened(f"nnunet:{folder}").for_pool(views)(views.rows[0])[0]
    assert np.isfinite(row).all() and (row[-4:-2] > 0).all() and (row[-4:-2] < 1).all()


def test_source_model_sees_channels_in_its_own_order_and_ct_in_hounsfield_units(workspace):
    schemes = ("CTNormalization", "ZScoreNormalization")
    for name, order in (("Dataset007_One", "01"), ("Dataset008_Two", "10")):
        write_picture(workspace.raw / name / "imagesTr" / f"a_000{order[0]}.png", picture(1))
        write_picture(workspace.raw / name / "imagesTr" / f"a_000{order[1]}.png", picture(2))
        write_dataset_json(workspace.raw / name, channel_names={order[0]: "CT", order[1]: "MR"})
    model = opened(f"nnunet:{model_folder(workspace.root / 'model', channels=('CT', 'MR'), schemes=schemes)}")
    rows = []
    for name in ("Dataset007_One", "Dataset008_Two"):
        views = prepare_views(open_pool(name))
        rows.append(model.for_pool(views)(views.rows[0]))
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-5, atol=1e-6)


def test_timm_sees_one_grey_channel_as_three_equal_colours(workspace, monkeypatch):
    timm = import_timm(monkeypatch)
    views = prepare_views(open_pool(SOURCE))
    weights = timm_weights(workspace.root / "w.pth", monkeypatch)
    encoder = opened(f"timm:{TIMM}", weights).ready([views], seed=0)
    row = encoder.for_pool(views)(views.rows[0])[0]
    model = timm.create_model(TIMM, pretrained=False).eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    image = torch.from_numpy(views.rows[0].astype(np.float32)).expand(1, 3, 128, 128)
    image = torch.nn.functional.interpolate(image, (encoder.size, encoder.size), mode="bicubic", align_corners=False)
    with torch.inference_mode():
        tokens = model.forward_features(image)[0, model.num_prefix_tokens :]
    side, width = round(len(tokens) ** 0.5), tokens.shape[1]
    grid = torch.nn.functional.adaptive_avg_pool2d(tokens.T.reshape(1, width, side, side), 4).flatten()
    np.testing.assert_allclose(row[width:], grid.numpy(), rtol=1e-3, atol=1e-4)


# --- what they refuse


def refused(capsys, spelling, *parts, more=()):
    fails(capsys, select.main, [*SELECT, spelling, "--overwrite", *more], *parts)


@pytest.mark.parametrize("spelling", ["intensities", "mae:x", "intensity:3", "none.pth"])
def test_unknown_encoder(either, capsys, spelling):
    refused(capsys, spelling, f"there is no encoder checkpoint {spelling}", *SPELLINGS)


@pytest.mark.parametrize("name", ["nnunet", "timm"])
def test_encoder_without_what_it_takes(either, capsys, name):
    refused(capsys, name, f"--encoder {name}:")
    refused(capsys, f"{name}:", f"--encoder {name}:")


def test_weights_without_a_model_of_timm(either, capsys):
    refused(capsys, "mae", "--encoder_weights is for --encoder timm:NAME", more=["--encoder_weights", "w.pth"])


@pytest.mark.parametrize("kind", ["intensity", "nnunet"])
@pytest.mark.parametrize("embedding, what", [("grid", "features with places"), ("gap", "the last stage")])
def test_embedding_that_an_encoder_does_not_give(either, capsys, kind, embedding, what):
    spelling = kind if kind == "intensity" else f"nnunet:{model_folder(either.root / 'model')}"
    refused(capsys, spelling, f"--embedding {embedding} needs {what}", kind, more=["--embedding", embedding])


def test_checkpoint_of_hssl(either, capsys):
    file = either.root / "checkpoint_final.pth"
    save_checkpoint(file, {"plans": "x", "channels": 1, "sources": {}, "groups": [0], "weights": {}, "epoch": 1})
    refused(capsys, file, file, "checkpoint of nnUNetv2_hssl_pretrain", "nnUNetv2_xssr_pretrain")
    file = either.root / "hssl_weights.pth"
    torch.save({"network_weights": {"a": torch.zeros(1)}}, file)
    refused(capsys, file, file, "is not an nnunetv2_xssr encoder checkpoint")


@pytest.mark.parametrize("damage", ["architecture of another version", "weights of another", "no sources"])
def test_checkpoint_of_another_version(either, capsys, damage):
    content = load_checkpoint(either.encoder())
    if damage == "no sources":
        del content["sources"]
    elif damage == "weights of another":
        content["weights"].popitem()
    else:
        del content["architecture"]["members"]
    save_checkpoint(either.root / "old.pth", content)
    refused(capsys, either.root / "old.pth", "old.pth", "is no masked autoencoder of this version")


def test_model_folders_that_do_not_fit(either, capsys):
    root = either.root / "models"
    refused(capsys, f"nnunet:{root / 'none'}", "there is no plans.json", "nnUNetTrainer__nnUNetPlans__2d")
    folder = model_folder(root / "unfinished", folds=())
    refused(capsys, f"nnunet:{folder}", folder, "no fold_X/checkpoint_final.pth")
    folder = model_folder(root / "two", channels=("T1", "T2"))
    refused(capsys, f"nnunet:{folder}", folder, "2 channels (T1, T2)", f"{TARGET} has 1 (xray)")
    folder = model_folder(root / "volumes", dim=3)
    refused(capsys, f"nnunet:{folder}", folder, "3d_tiny", "give the folder of a 2d one")
    folder = model_folder(root / "otherwise", schemes=("RescaleTo01Normalization",))
    refused(capsys, f"nnunet:{folder}", folder, "RescaleTo01Normalization", "ZScoreNormalization")
    folder = model_folder(root / "cut")
    checkpoint = folder / "fold_1" / "checkpoint_final.pth"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    refused(capsys, f"nnunet:{folder}", checkpoint, "cut off or holds more than tensors")
    folder = model_folder(root / "own")
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    content["network_weights"].popitem()
    torch.save(content, checkpoint)
    refused(capsys, f"nnunet:{folder}", checkpoint, "do not fit the network of plans.json")


@pytest.mark.parametrize(
    ("place", "value", "parts"),
    [
        ("spacing", None, ("configurations.2d_tiny", "spacing", "is missing")),
        ("spacing", [0.0, 1.0], ("configurations.2d_tiny", "spacing", "greater than 0")),
        ("spacing", [1.0, 1.0, 1.0], ("configurations.2d_tiny", "spacing")),
        ("median_image_size_in_voxels", None, ("configurations.2d_tiny", "median_image_size_in_voxels", "is missing")),
        ("percentile_99_5", None, ("properties_per_channel.0", "percentile_99_5", "is missing")),
    ],
)
def test_model_of_plans_that_say_too_little(workspace, place, value, parts):
    folder = model_folder(workspace.root / "model", channels=("CT",), schemes=("CTNormalization",))
    plans = json.loads((folder / "plans.json").read_text())
    for where in (plans["configurations"]["2d_tiny"], plans["foreground_intensity_properties_per_channel"]["0"]):
        if place in where:
            where[place] = value
            if value is None:
                del where[place]
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(UserError) as error:
        opened(f"nnunet:{folder}")
    assert all(part in str(error.value) for part in (str(folder), "restore the plans", *parts)), error.value


def test_strides_may_be_one_number_for_both_axes(workspace):
    folder = model_folder(workspace.root / "model")
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["2d_tiny"]["architecture"]["arch_kwargs"]["strides"] = [1, 2, 2]
    (folder / "plans.json").write_text(json.dumps(plans))
    views = prepare_views(open_pool(TARGET))
    assert np.isfinite(opened(f"nnunet:{folder}").for_pool(views)(views.rows[0])).all()


def test_a_folder_beside_the_folds_is_none(workspace):
    """Else the model would seem to agree with itself."""
    folder = model_folder(workspace.root / "model", folds=(0,))
    shutil.copytree(folder / "fold_0", folder / "fold_0_backup")
    assert len(opened(f"nnunet:{folder}").networks) == 1


def test_model_whose_training_has_diverged(either, capsys):
    folder = model_folder(either.root / "model", folds=(0,))
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    content["network_weights"] = {name: one * np.nan for name, one in content["network_weights"].items()}
    torch.save(content, checkpoint)
    refused(capsys, f"nnunet:{folder}", folder, "makes NaN or infinity of t_00", "diverged", "give another one")


@pytest.mark.parametrize("damage", ["missing", "of another shape", "too much"])
def test_autoencoder_whose_weights_fit_partly(either, capsys, damage):
    content = load_checkpoint(either.encoder())
    name = next(reversed(content["weights"]))
    if damage == "missing":
        del content["weights"][name]
    else:
        content["weights"][name if damage == "of another shape" else "adapter.weight"] = torch.zeros(3)
    save_checkpoint(either.root / "partly.pth", content)
    refused(capsys, either.root / "partly.pth", "partly.pth is no masked autoencoder of this version")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_malicious_model_is_never_unpickled(either, capsys):
    folder, trace = model_folder(either.root / "model"), either.root / "executed"
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    torch.save({**torch.load(checkpoint, weights_only=False), "logging": Payload(trace)}, checkpoint)
    refused(capsys, f"nnunet:{folder}", checkpoint, "more than tensors and plain values")
    assert not trace.exists()


def test_timm_by_unknown_names_and_without_weights(either, capsys, monkeypatch):
    import_timm(monkeypatch)
    refused(capsys, "timm:vit_smal_patch16_224", "no model 'vit_smal_patch16_224'", "vit_small_patch16_224")
    refused(capsys, f"timm:{TIMM}.nobody", "nobody")
    refused(capsys, f"timm:{TIMM}", "--encoder_weights FILE", "https://huggingface.co/timm", "torch.save")
    more = ["--encoder_weights", either.root / "none.pth"]
    refused(capsys, f"timm:{TIMM}", "there is no file", "none.pth", more=more)


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"norm.bias": None}, ("fits", "0 in it are of no use", "norm.bias")),
        ({"norm.bias": torch.zeros(3)}, ("fits", "1 in it are of no use", "norm.bias")),
        ({"adapter.weight": torch.zeros(3)}, ("1 in it are of no use", "adapter.weight")),
    ],
)
def test_timm_weights_that_fit_partly(either, capsys, monkeypatch, changes, parts):
    file = timm_weights(either.root / "w.pth", monkeypatch, **changes)
    refused(capsys, f"timm:{TIMM}", file, TIMM, *parts, more=["--encoder_weights", file])


def test_timm_weights_that_are_none(either, capsys, monkeypatch):
    import_timm(monkeypatch)
    for file in (either.root / "w.pth", either.root / "w.safetensors"):
        file.write_text("hello")
        refused(capsys, f"timm:{TIMM}", file, "cut off or holds no weights", more=["--encoder_weights", file])


def test_timm_weights_in_an_archive_that_is_not_unpacked(either, capsys, monkeypatch):
    """torch before 2.6 runs foreign code that lies in a tar archive, whatever it is told."""
    file = timm_weights(either.root / "w.pth", monkeypatch)
    with tarfile.open(either.root / "old.tar", "w") as archive:
        archive.add(file, "storages")
    monkeypatch.setattr("timm.models.load_state_dict", lambda *_, **__: pytest.fail("was unpacked"))
    more = ["--encoder_weights", either.root / "old.tar"]
    refused(capsys, f"timm:{TIMM}", "old.tar", "cut off or holds no weights", more=more)


def test_timm_that_cannot_be_imported(either, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    refused(capsys, f"timm:{TIMM}", "needs the library timm", "torchvision", torch.__version__)


@pytest.mark.parametrize("kind", ["dictionary", "nnunet:x", "timm:x"])
def test_encoders_of_slices_see_no_volumes(either, capsys, kind):
    refused(capsys, kind, "sees slices, not whole volumes", "leave --dim 3 out", more=["--dim", "3"])
