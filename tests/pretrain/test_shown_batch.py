"""The picture of a batch shows what the network is shown: of the case that it names, in one window, with its values."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from making import SOURCE, TARGET
from plans import drawn_pools, write_plans

from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.views import prepare_views
from nnunetv2_xssr.pretrain import figures, inputs
from nnunetv2_xssr.pretrain.hssl.objective import HSSLObjective
from nnunetv2_xssr.pretrain.hssl.patches import PatchPairs
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
from nnunetv2_xssr.pretrain.mae import CELL
from nnunetv2_xssr.pretrain.training import MaskedAutoencoding


def test_hssl_shows_both_views_of_the_first_batch(workspace, tmp_path):
    write_plans(workspace.preprocessed / TARGET)
    plans = TargetPlans.load(TARGET, configuration_name="2d")
    pairs = PatchPairs(drawn_pools(tmp_path, 2, (3, 2)), patch_size=plans.patch_size, seed=0)
    objective = HSSLObjective(plans, channels=1, pairs=pairs, held_out=pairs, groups=[0, 1], health_note="")
    noisy, clean, task = objective.batch(range(4))
    for i, (title, images) in enumerate(objective.shown(range(4))):
        assert title.startswith(f"pool_{task[i]}: pool_{task[i]}_")
        assert [name for name, _ in images] == ["clean", "shown"] * 2
        for (_, found), expected in zip(images, (clean[i, 0], noisy[i, 0], clean[i, 1], noisy[i, 1]), strict=True):
            assert torch.equal(found, expected)


def test_an_autoencoder_shows_crops_with_hidden_cells_of_the_case_that_is_named(workspace):
    sources = [prepare_views(open_pool(name)) for name in (SOURCE, TARGET)]
    objective = MaskedAutoencoding(sources, seed=0)
    crops, visible, _ = objective.batch(range(6))
    views = objective.sampler.views(range(6))
    named = [(one.pool, case, row) for one in sources for case, row in zip(one.pool.identifiers, one.rows, strict=True)]
    rows = {f"{pool.name}: {case}": row for pool, case, row in named}
    for i, (title, images) in enumerate(objective.shown(range(6))):
        assert np.array_equal(views[i].numpy(), rows[title][0].astype(np.float32))
        (first, crop), (second, shown) = images
        assert (first, second) == ("crop", "shown") and torch.equal(crop, crops[i])
        seen = visible[i].repeat_interleave(CELL, 1).repeat_interleave(CELL, 2).bool()
        assert torch.equal(shown, torch.where(seen, crop, 0))


@pytest.mark.parametrize("volumes", [False, True])
def test_all_images_of_a_channel_share_a_window_and_captions_tell_their_values(tmp_path, monkeypatch, volumes):
    def image(low, high):
        grey = torch.linspace(low, high, 100).reshape(10, 10)
        return torch.stack([torch.full((10, 10), float(low)), grey, grey]) if volumes else grey

    dim, bright = (torch.stack([image(0, top), image(-5, top)]) for top in (1, 10))
    shown = {"a": dim, "b": bright}
    objective = SimpleNamespace(
        shown=lambda samples: [(name, [("clean", shown[name])]) for name in "ab"[: len(samples)]]
    )
    drawn = {}
    monkeypatch.setattr(inputs, "contact_sheet", lambda path, rows: drawn.update(rows))
    inputs.draw_batch(tmp_path / "b.png", objective, batch_size=9)
    assert [caption for _, caption in drawn["a"]] == ["clean 0: 0 to 1", "clean 1: -5 to 1"]
    assert [caption for _, caption in drawn["b"]] == ["clean 0: 0 to 10", "clean 1: -5 to 10"]
    (grey, _), _ = drawn["a"]
    assert grey.shape == (10, 10, 3) and 0.08 < grey.max() < 0.12 and (np.diff(grey[:, 0, 0]) > 0).all()
    assert drawn["b"][0][0].max() == 1


def test_progress_says_what_its_recall_counts(tmp_path, monkeypatch):
    """Of an autoencoder cases, of HSSL pairs of views, of which one image may have several."""
    shown = []

    def noted(figure, path, **_):
        path.write_bytes(b"")
        legends = [axes.get_legend() for axes in figure.axes]
        shown.append([text.get_text() for legend in legends if legend for text in legend.get_texts()])

    monkeypatch.setattr(figures.Figure, "savefig", noted)
    history = {name: [0.5] for name in ("loss", "recall_at_1", "learning_rate", "images_per_second")}
    for objective in (MaskedAutoencoding, HSSLObjective):
        figures.draw_progress(tmp_path / "progress.png", history, note="", recall=objective.recall)
    assert shown[0][-1] == "a crop's nearest is of the same case (recall@1)"
    assert shown[1][-1] == "a view's nearest is the other view of its patch (recall@1)"
