"""The picture of a pretraining's progress."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from nnunetv2_xssr.pretrain.figures import draw_progress


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The figure of a run of one epoch, at less than one image per second."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **named: (figures.append(figure), save(figure, *args, **named))
    )
    history = {"loss": [1.0], "learning_rate": [1e-3], "images_per_second": [0.44]}
    draw_progress(tmp_path / "progress.png", history, note="on held-out images", recall="same patch")
    return figures[0]


def test_a_slow_run_does_not_show_a_speed_of_zero(drawn):
    assert drawn.get_suptitle() == "on held-out images; 0.4 images/s"


def test_one_epoch_is_a_whole_number_on_the_axis(drawn):
    ticks = drawn.axes[0].get_xticks()
    assert np.array_equal(ticks, np.round(ticks)), ticks
