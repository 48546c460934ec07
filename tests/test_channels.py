"""Channels are told by their names: in another order they are put into order, others are refused."""

from dataclasses import replace

import numpy as np
import pytest
from making import compared_by, fails, picture, succeeds, write_dataset_json, write_picture

from nnunetv2_xssr.commands import pretrain, select
from nnunetv2_xssr.encoders.embedding import embed
from nnunetv2_xssr.encoders.mae import load_encoder
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_facts import CaseFacts
from nnunetv2_xssr.images.channels import channel_order, common_channels, shared_in_place
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.views import prepare_views
from nnunetv2_xssr.pretrain.checkpoint import load_checkpoint, save_checkpoint
from nnunetv2_xssr.pretrain.training import check_same_channels

T1_FIRST, FLAIR_FIRST = ("T1", "FLAIR"), ("flair", "t1")
TINY = ["--epochs", "1", "--batch_size", "2", "-device", "cpu"]


def write_pool(workspace, name, channel_names, first_seed=0):
    """Four cases of two channels that differ by channel, whatever the place of a channel in the files."""
    for i in range(4):
        for place, channel in enumerate(channel_names):
            pixels = picture(first_seed + i + 100 * (channel.upper() == "FLAIR"))
            write_picture(workspace.images(name) / f"c_{i}_{place:04d}.png", pixels)
    names = {str(place): channel for place, channel in enumerate(channel_names)}
    write_dataset_json(workspace.raw / name, channel_names=names, numTraining=0, dataset={})


@pytest.fixture
def turned(empty):
    """Two datasets with the same images, the channels in another order; and a folder of such images without names."""
    write_pool(empty, "Dataset001_A", T1_FIRST)
    write_pool(empty, "Dataset002_B", FLAIR_FIRST)
    return empty


@pytest.mark.parametrize(
    ("names", "like", "order"),
    [
        (("T1", "FLAIR"), ("T1", "FLAIR"), (0, 1)),
        (("T1", "FLAIR"), ("flair", " t1"), (1, 0)),
        (("a", "b", "c"), ("c", "a", "b"), (2, 0, 1)),
        (("rgb_to_0_1",) * 3, ("rgb_to_0_1",) * 3, (0, 1, 2)),
        (("x", "y", "x"), ("x", "x", "y"), (0, 2, 1)),
        (("T1",), ("T2",), None),
        (("T1", "T2"), ("T1",), None),
        (("T1", "T1"), ("T1", "T2"), None),
        (("channel",), ("T1",), (0,)),
        (("channel",), ("CT",), None),
        (("T1", "CT"), ("channel", "channel"), None),
    ],
)
def test_order(names, like, order):
    assert channel_order(names, like=like) == order


@pytest.mark.parametrize(
    ("names", "like", "order"),
    [
        (("T2", "FLAIR"), ("T1", "T2"), (1, 0)),
        (("MRI", "CT"), ("CT", "PET"), (1, 0)),
        (("b", "a", "c"), ("a", "x", "B"), (1, 2, 0)),
        (("MRI", "PET"), ("CT", "T1"), (0, 1)),
        (("x", "y", "x"), ("x", "x", "y"), (0, 2, 1)),
    ],
)
def test_shared_channels_stay_in_their_place(names, like, order):
    assert shared_in_place(names, like=like) == order


def test_views_of_a_source_are_in_the_order_of_the_target(turned):
    a, b = (open_pool(name) for name in ("1", "2"))
    assert common_channels([a, b]) == T1_FIRST
    views, own = prepare_views(a), prepare_views(b)
    put_in_order = prepare_views(b, channel_names=a.channel_names)
    assert np.array_equal(put_in_order.rows, views.rows) and put_in_order.channel_names == T1_FIRST
    assert np.array_equal(own.rows, np.asarray(views.rows)[:, :, ::-1])  # as before, and not what the other call wrote
    assert np.array_equal(prepare_views(b, channel_names=a.channel_names).rows, views.rows)
    check_same_channels([views, put_in_order])
    with pytest.raises(UserError, match="T1, FLAIR.*flair, t1.*in any order"):
        check_same_channels([views, own])


def test_other_channels_are_refused_before_anything_is_read(turned):
    write_pool(turned, "Dataset003_C", ("T1", "T2"))
    a, c = (open_pool(name) for name in ("1", "3"))
    with pytest.raises(UserError, match=r"Dataset001_A has the channels T1, FLAIR but Dataset003_C has T1, T2"):
        common_channels([a, c])
    with pytest.raises(UserError, match="Dataset003_C has T1, T2"):
        prepare_views(c, channel_names=a.channel_names)
    assert not (turned.preprocessed / "Dataset003_C").exists()


@pytest.mark.parametrize("sources", [["1"], ["2"], ["1", "2"], ["2", "1"]])
def test_encoder_of_another_order_sees_its_own(turned, capsys, sources):
    """Whichever order an encoder learned, equal images get equal embeddings."""
    write_pool(turned, "Dataset004_Target", FLAIR_FIRST, first_seed=50)
    succeeds(capsys, pretrain.main, ["-s", *sources, *TINY])
    (file,) = turned.results.rglob("checkpoint_final.pth")
    assert load_checkpoint(file)["views"]["channel_names"] == list(T1_FIRST if sources[0] == "1" else FLAIR_FIRST)
    encoder = load_encoder(file, device="cpu")
    rows = [embed(encoder, prepare_views(open_pool(name))).rows for name in ("1", "2")]
    assert np.array_equal(*rows)
    succeeds(capsys, select.main, ["-d", "4", "-s", *sources, "-b", "2", "-device", "cpu"])
    succeeds(capsys, select.main, ["-d", "4", "-s", "1", "--encoder", file, "-b", "2", "-device", "cpu", "--overwrite"])


def test_embeddings_follow_names_that_were_corrected(turned, capsys):
    """The files stay as they are; which of them is which channel is another matter."""
    succeeds(capsys, pretrain.main, ["-s", "1", *TINY])
    file = turned.encoder("Dataset001_A")
    before = compared_by(file, "1")[0][0]
    write_dataset_json(turned.raw / "Dataset001_A", channel_names={"0": "FLAIR", "1": "T1"}, dataset={})
    assert not np.array_equal(compared_by(file, "1")[0][0], before)


def test_views_in_a_given_order_follow_names_that_were_corrected(turned):
    """The views that were made of the wrong names are not taken again."""
    before = np.array(prepare_views(open_pool("1"), channel_names=T1_FIRST).rows)
    write_dataset_json(turned.raw / "Dataset001_A", channel_names={"0": "FLAIR", "1": "T1"}, dataset={})
    after = prepare_views(open_pool("1"), channel_names=T1_FIRST)
    assert after.channel_names == T1_FIRST and np.array_equal(after.rows, before[:, :, ::-1])


def test_encoder_of_other_channels_is_refused(turned, capsys):
    succeeds(capsys, pretrain.main, ["-s", "1", *TINY])
    file = turned.encoder("Dataset001_A")
    write_pool(turned, "Dataset003_C", ("T1", "T2"))
    argv = ["-d", "3", "-b", "1", "--encoder", file, "-device", "cpu"]
    fails(capsys, select.main, argv, file, "2 channels (T1, FLAIR)", "Dataset003_C has 2 (T1, T2)", "--encoder")


def test_encoder_of_views_of_a_former_version_is_refused(turned, capsys):
    succeeds(capsys, pretrain.main, ["-s", "1", *TINY])
    file = turned.encoder("Dataset001_A")
    content = load_checkpoint(file)
    content["views"]["version"] -= 1
    save_checkpoint(file, content)
    fails(capsys, select.main, ["-d", "2", "-b", "1", "--encoder", file, "-device", "cpu"], file, "older version")


def test_encoder_without_names_is_taken_by_its_normalisation(turned, capsys):
    succeeds(capsys, pretrain.main, ["-s", turned.images("Dataset001_A"), *TINY])
    (file,) = turned.results.rglob("checkpoint_final.pth")
    succeeds(capsys, select.main, ["-d", "2", "-b", "1", "--encoder", file, "-device", "cpu"])
    write_dataset_json(turned.raw / "Dataset002_B", channel_names={"0": "CT", "1": "T1"}, dataset={})
    argv = ["-d", "2", "-b", "1", "--encoder", file, "-device", "cpu", "--overwrite"]
    fails(capsys, select.main, argv, file, "2 channels", "--encoder")


@pytest.mark.parametrize("above_zero", [False, True])
def test_of_many_channels_the_first_tell_whether_they_hold_one_value(above_zero):
    """Time points or wavelengths: one number holds a bit for each, and has 53."""
    told = {"axis": 0, "orientation": "LPS", "spacing": (1.0, 1.0, 1.0), "size": (5, 5, 5), "across": 2}
    facts = CaseFacts(**told, open=5, of=5, constant=(0, 51, 60, 1100), above_zero=above_zero, slices=(1, 3))
    assert CaseFacts.of_row(facts.row()) == replace(facts, constant=(0, 51))
