"""Pretraining and embedding through their commands: what they write, and what an embedding depends on."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from making import SOURCE, TARGET, fails, picture, succeeds, volume, write_dataset_json, write_picture, write_volume
from PIL import Image

from nnunetv2_xssr.annotation.project import project_status
from nnunetv2_xssr.commands import pretrain, select
from nnunetv2_xssr.encoders import mae as mae_encoder
from nnunetv2_xssr.encoders.embedding import embed
from nnunetv2_xssr.encoders.mae import embed_views, load_encoder
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.views import VOLUME_SIZE, prepare_views
from nnunetv2_xssr.pretrain import engine, figures, mae, training
from nnunetv2_xssr.pretrain import held_out as rule
from nnunetv2_xssr.pretrain.checkpoint import load_checkpoint, save_checkpoint
from nnunetv2_xssr.pretrain.training import MaskedAutoencoding, ViewSampler

TINY = ["--epochs", "2", "--batch_size", "4", "-device", "cpu"]


def rows_of(workspace, name):
    """The embeddings of a pool and its cases."""
    store = embed(load_encoder(workspace.encoder(), device="cpu"), prepare_views(open_pool(name)))
    return dict(zip(store.identifiers, np.array(store.rows), strict=True))


def test_files_beside_the_checkpoint(workspace, monkeypatch, capsys):
    monkeypatch.setattr(engine, "draw_progress", figures.draw_progress)
    monkeypatch.setattr(training, "draw_reconstructions", figures.draw_reconstructions)
    out = succeeds(capsys, pretrain.main, ["-s", "1", *TINY])
    folder = workspace.encoder().parent
    written = ["checkpoint_final.pth", "pretrain.log", "progress.png", "reconstructions.png"]
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) == written
    for name in ("progress.png", "reconstructions.png"):
        shown = np.asarray(Image.open(folder / name).convert("RGB"))
        assert min(shown.shape[:2]) > 100 and shown.std() > 5  # not empty
    assert str(workspace.encoder()) in out and "nnUNetv2_xssr_select" in out
    history = load_checkpoint(workspace.encoder())["history"]
    assert {len(values) for values in history.values()} == {2}
    assert {"loss", "held_out_loss", "spread", "recall_at_1", "learning_rate", "images_per_second"} == set(history)


def test_checkpoint_holds_tensors_and_plain_values_only(workspace):
    content = torch.load(workspace.encoder(), weights_only=True)
    assert content["kind"] == "encoder checkpoint" and content["format_version"] == 1
    assert "optimizer" not in content
    assert all(tensor.device.type == "cpu" for tensor in content["weights"].values())


def test_several_sources_colours_and_folders(empty, capsys):
    for name, n in (("Dataset003_Colour", 3), ("Dataset004_More", 2)):
        for i in range(n):
            write_picture(empty.raw / name / "imagesTr" / f"c_{i}_0000.png", picture(i, channels=3))
        write_dataset_json(empty.raw / name, channel_names={"0": "R", "1": "G", "2": "B"})
    for i in range(2):
        write_picture(empty.root / "folder" / f"anything {i}.png", picture(50 + i, channels=3))
    argv = ["-s", "3", "Dataset004_More", empty.root / "folder", *TINY]
    succeeds(capsys, pretrain.main, argv)
    (checkpoint,) = empty.results.rglob("checkpoint_final.pth")
    assert not checkpoint.parent.parent.name.startswith("Dataset")  # nnU-Net would take it for that dataset
    content = load_checkpoint(checkpoint)
    assert content["architecture"]["input_channels"] == 3
    assert len(content["sources"]) == 3


def test_volumes_and_several_channels(empty, capsys):
    folder = empty.raw / "Dataset005_Volumes"
    for i in range(3):
        for channel in range(2):
            write_volume(folder / "imagesTr" / f"v_{i}_{channel:04d}.nii.gz", volume(i + 10 * channel)[0])
    write_dataset_json(folder, ending=".nii.gz", channel_names={"0": "T1", "1": "CT"})
    out = succeeds(capsys, select.main, ["-d", "5", "-b", "1", "-device", "cpu"])
    assert "1 of 3 cases are picked" in out
    assert len(empty.selection("Dataset005_Volumes")["selections"][0]["picks"]) == 1


def test_whole_volumes(empty, capsys, monkeypatch):
    """--dim 3: the encoder sees a volume as one view, and sees what no slice of it shows."""
    for number, name in ((5, "Source"), (6, "Target")):
        folder = empty.raw / f"Dataset00{number}_{name}"
        for i in range(3):
            write_volume(folder / "imagesTr" / f"v_{i}_0000.nii.gz", volume(i + 10 * number)[0])
        write_dataset_json(folder, ending=".nii.gz", channel_names={"0": "MRI"})
    out = succeeds(capsys, pretrain.main, ["-s", "5", "--dim", "3", *TINY])
    assert "-b 5% --dim 3" in out
    checkpoint = empty.results / "Dataset005_Source" / "XSSR_MAE__3d" / "checkpoint_final.pth"
    assert load_checkpoint(checkpoint)["architecture"]["dim"] == 3
    assert (checkpoint.parent / "reconstructions.png").is_file()
    argv = ["-d", "6", "-s", "5", "-b", "1", "-device", "cpu"]
    assert "report.html" in succeeds(capsys, select.main, [*argv, "--dim", "3"])
    assert project_status("6").volumes
    views = prepare_views(open_pool("6"), dim=3)
    assert views.rows.shape == (3, 1, 1, VOLUME_SIZE, VOLUME_SIZE, VOLUME_SIZE)
    encoder = load_encoder(checkpoint, device="cpu")
    upright, turned = views.rows[0], views.rows[0][:, :, ::-1].copy()  # the same slices in another order
    assert not np.allclose(embed_views(encoder, upright), embed_views(encoder, turned))
    fails(capsys, select.main, [*argv, "--overwrite", "--encoder", checkpoint], "whole volumes", "give --dim 3")


def test_whole_volumes_of_pictures(workspace, capsys):
    fails(capsys, select.main, ["-d", "2", "-s", "1", "-b", "1", "--dim", "3"], "needs volumes", "2D images", "--dim 2")


def test_same_seed_same_weights_other_seed_others(empty, capsys):
    for i in range(3):
        write_picture(empty.root / "folder" / f"{i}.png", picture(i))
    weights = []
    for seed in (0, 0, 1):
        succeeds(capsys, pretrain.main, ["-s", empty.root / "folder", "--seed", seed, *TINY])
        (checkpoint,) = empty.results.rglob("checkpoint_final.pth")
        weights.append(load_checkpoint(checkpoint)["weights"])
        shutil.rmtree(checkpoint.parent)
    same = [[torch.equal(weights[0][key], other[key]) for key in other] for other in weights[1:]]
    assert all(same[0]) and not all(same[1])


def test_global_random_state_has_no_say(workspace, capsys):
    """Neither what another library drew before, nor is it disturbed."""
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    before = load_checkpoint(workspace.encoder())["weights"]
    succeeds(capsys, pretrain.main, ["-s", "1", "-device", "cpu"])
    assert torch.equal(torch.rand(3), expected)
    after = load_checkpoint(workspace.encoder())["weights"]
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_finished_pretraining_is_not_repeated_with_c(workspace, capsys, monkeypatch):
    before = workspace.encoder().read_bytes()
    monkeypatch.setattr(engine.Run, "train_step", lambda *args, **kwargs: pytest.fail("trained again"))
    succeeds(capsys, pretrain.main, ["-s", "1", "-device", "cpu", "--c"])
    assert workspace.encoder().read_bytes() == before


def test_labels_are_never_read(workspace, capsys):
    labels = workspace.raw / SOURCE / "labelsTr"
    labels.mkdir()
    (labels / "s_00.png").write_bytes(b"broken")
    succeeds(capsys, pretrain.main, ["-s", "1", "-device", "cpu"])


def test_diverging_pretraining_is_told(workspace, capsys, monkeypatch):
    monkeypatch.setattr(
        mae.MaskedAutoencoder, "forward", lambda self, x, v: self.mask_token.flatten()[:1] * float("nan")
    )
    fails(capsys, pretrain.main, ["-s", "1", "-device", "cpu"], "diverged", "nan", "--seed")


def test_every_pass_shows_every_view_once(workspace):
    sources = [prepare_views(open_pool(name)) for name in (SOURCE, TARGET)]
    sampler = ViewSampler(sources, seed=5)
    assert len(sampler) == 16
    everything = np.concatenate([np.array(views.rows).reshape(-1, 1, 128, 128) for views in sources])
    for size in (4, 5):
        shown = torch.cat([sampler.views(range(step * size, (step + 1) * size)) for step in range(16)]).numpy()
        for one_pass in range(16 * size // 16):
            part = shown[16 * one_pass : 16 * (one_pass + 1)].astype(np.float16)
            assert sorted(view.tobytes() for view in part) == sorted(view.tobytes() for view in everything)
    first, second = sampler.views(range(16)), sampler.views(range(16, 32))
    assert not torch.equal(first, second)  # shuffled anew
    assert torch.equal(sampler.views(range(11, 21)), torch.cat([first, second])[11:21])  # across two passes


def test_a_sample_does_not_depend_on_its_batch(workspace):
    objective = MaskedAutoencoding([prepare_views(open_pool(TARGET))], seed=3)
    whole = objective.batch(range(5, 17))
    halves = [objective.batch(range(5, 11)), objective.batch(range(11, 17))]
    for i, part in enumerate(whole):
        assert torch.equal(part, torch.cat([half[i] for half in halves]))
    assert not torch.equal(whole[0], MaskedAutoencoding(objective.sources, seed=4).batch(range(5, 17))[0])


def test_held_out_cases_are_never_trained_on(workspace, monkeypatch):
    views = prepare_views(open_pool(TARGET))
    monkeypatch.setattr(rule, "LEAST_CASES", 10)
    objective = MaskedAutoencoding([views], seed=0)
    (case,) = objective.held_out
    unseen = np.float32(views.rows[case, 0]).tobytes()
    shown = [view.numpy().tobytes() for view in objective.sampler.views(range(90))]
    assert unseen not in shown and len(set(shown)) == 9
    health_crops, _, cases, n_held_out = objective._health_views[0], *objective._health_views[1:]
    assert n_held_out == 1 and cases[0] == case and len(health_crops[0]) == 10
    assert "1 cases" in objective.health_note
    monkeypatch.undo()
    assert "too few" in MaskedAutoencoding([views], seed=0).health_note


def test_held_out_loss_is_that_of_held_out_cases_alone(workspace, monkeypatch):
    views = prepare_views(open_pool(TARGET))
    monkeypatch.setattr(rule, "LEAST_CASES", 10)
    model = MaskedAutoencoding([views], seed=0).build_model()

    def held_out_loss(changed):
        objective = MaskedAutoencoding([views], seed=0)
        rows = np.array(views.rows)
        rows[list(changed)] = np.random.default_rng(0).normal(size=rows[:1].shape)
        objective.everything.rows = [rows]
        with torch.no_grad():
            return objective.health(model)["held_out_loss"]

    held_out = MaskedAutoencoding([views], seed=0).held_out
    learned = set(range(10)) - held_out
    assert held_out_loss(learned) == held_out_loss([]) != held_out_loss(held_out)


@pytest.mark.parametrize("damage", ["vanished", "cut off"])
def test_broken_file_of_views_is_named(workspace, damage):
    views = prepare_views(open_pool(TARGET))
    sampler, path = ViewSampler([views], seed=0), views.rows.filename
    sampler.views(range(10))
    if damage == "vanished":
        Path(path).unlink()
    else:
        os.truncate(path, views.rows.offset + 100)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}.*run the command again"):
        sampler.views(range(10))


def test_views_cut_off_before_they_are_opened(workspace, capsys):
    (path,) = (workspace.preprocessed / SOURCE / "xssr" / "caches" / "views").glob("rows_*.npy")
    whole = path.read_bytes()
    os.truncate(path, 1000)
    succeeds(capsys, pretrain.main, ["-s", "1", "-device", "cpu"])
    assert path.read_bytes() == whole


# --- embeddings


@pytest.mark.parametrize(("epochs", "done", "said"), [(2, 1, "1 of 2"), (6, 0, "0 of 6")])
def test_encoder_of_fewer_epochs_than_it_was_to_have_is_refused(workspace, epochs, done, said):
    content = load_checkpoint(workspace.encoder())
    content["training"]["epochs"], content["epoch"] = epochs, done
    save_checkpoint(workspace.encoder(), content)
    with pytest.raises(UserError, match=rf"unfinished pretraining \({said} epochs\).*--c"):
        load_encoder(workspace.encoder(), device="cpu")


def test_encoder_that_stopped_on_a_plateau_is_finished(workspace):
    content = load_checkpoint(workspace.encoder())
    content["training"]["epochs"] = "auto"
    save_checkpoint(workspace.encoder(), content)
    assert load_encoder(workspace.encoder(), device="cpu").sources == content["sources"]


def test_embedding_of_a_case_does_not_depend_on_other_cases(workspace):
    everything = rows_of(workspace, TARGET)
    for i in (0, 2, 4, 6, 8):
        (workspace.images() / f"t_{i:02d}_0000.png").unlink()
    shutil.rmtree(workspace.preprocessed / TARGET)
    alone = rows_of(workspace, TARGET)
    assert sorted(alone) == [f"t_{i:02d}" for i in (1, 3, 5, 7, 9)]
    for case, row in alone.items():
        assert row.tobytes() == everything[case].tobytes()
    assert all(np.isfinite(row).all() and row.any() for row in everything.values())
    assert len({row.tobytes() for row in everything.values()}) == 10


def test_only_new_and_changed_cases_are_embedded(workspace, monkeypatch):
    before = rows_of(workspace, TARGET)
    write_picture(workspace.images() / "t_99_0000.png", picture(999))
    write_picture(workspace.images() / "t_03_0000.png", picture(998))
    (workspace.images() / "t_05_0000.png").unlink()
    calls, original = [], mae_encoder.embed_views
    monkeypatch.setattr(mae_encoder, "embed_views", lambda *args: calls.append(args) or original(*args))
    after = rows_of(workspace, TARGET)
    assert len(calls) == 2
    assert sorted(after) == sorted({*before, "t_99"} - {"t_05"})
    changed = {case for case in before if case in after and before[case].tobytes() != after[case].tobytes()}
    assert changed == {"t_03"}


def test_kept_are_the_last_stage_averaged_and_the_stage_before_averaged_and_in_a_grid(workspace):
    encoder = load_encoder(workspace.encoder(), device="cpu")
    views = np.random.default_rng(0).normal(size=(3, 1, 128, 128)).astype(np.float16)
    kept = mae_encoder.embed_views(encoder, views)
    assert kept.shape == (3, encoder.layout.size)
    n_last, n_before, *_ = encoder.layout

    def before(member, image):
        for stage in member.stages[:-1]:
            image = stage(image)
        return image

    def mean(maps):
        return torch.cat([each[0].mean(dim=(1, 2)) for each in maps]).numpy()

    with torch.no_grad():
        for row, view in zip(kept, views, strict=True):
            image = torch.from_numpy(view[None].astype(np.float32))
            last, average, grid = np.split(row, [n_last, n_last + n_before])
            assert last == pytest.approx(mean([member(image) for member in encoder.members]), rel=1e-4, abs=1e-5)
            turned = [torch.rot90(each, k, (2, 3)) for each in (image, image.flip(2)) for k in range(4)]
            means = np.mean([mean([before(member, each) for member in encoder.members]) for each in turned], axis=0)
            assert average == pytest.approx(means, rel=1e-4, abs=1e-5)
            maps = torch.cat([before(member, image)[0] for member in encoder.members])
            quarters = maps.reshape(n_before, 4, 2, 4, 2).mean(dim=(2, 4))
            assert grid.reshape(n_before, 4, 4) == pytest.approx(quarters.numpy(), rel=1e-4, abs=1e-5)


def test_another_encoder_embeds_everything_anew(workspace, capsys):
    before = rows_of(workspace, TARGET)
    succeeds(capsys, pretrain.main, ["-s", "1", "--seed", "9", "-device", "cpu"])
    after = rows_of(workspace, TARGET)
    assert all(before[case].tobytes() != after[case].tobytes() for case in before)
