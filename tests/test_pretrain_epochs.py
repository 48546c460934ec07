"""--pretrain_epochs of select: how long an encoder is pretrained, which is never one of another length."""

import re

import pytest
from making import fails, succeeds

from nnunetv2_xssr.commands import select
from nnunetv2_xssr.pretrain.checkpoint import load_checkpoint

CALL = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"]


def test_so_many_epochs_which_the_next_call_need_not_repeat(workspace, capsys):
    workspace.encoder().unlink()
    out = succeeds(capsys, select.main, [*CALL, "--pretrain_epochs", "3"])
    assert load_checkpoint(workspace.encoder())["training"]["epochs"] == 3
    before = workspace.encoder().read_bytes()
    # How long it takes is said after the first batches, and before most of it is over.
    told, wrote = re.search(r"pretraining takes about [\d.]+ (s|min)", out), out.index(f"wrote {workspace.encoder()}")
    assert told and told.start() < wrote
    succeeds(capsys, select.main, CALL)
    succeeds(capsys, select.main, [*CALL, "--pretrain_epochs", "3"])
    assert workspace.encoder().read_bytes() == before


@pytest.mark.parametrize("more", [[], ["--dry_run"]])
def test_an_encoder_of_another_length_is_neither_reused_nor_replaced(workspace, capsys, more):
    before = workspace.encoder().read_bytes()
    argv = [*CALL, "--pretrain_epochs", "3", *more]
    fails(capsys, select.main, argv, workspace.encoder(), "was pretrained for 1 epoch, not for --pretrain_epochs 3")
    assert workspace.encoder().read_bytes() == before
    assert not workspace.record().exists()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--pretrain_epochs", "0"], "--pretrain_epochs must be 1 or more; got 0"),
        (["--pretrain_epochs", "1", "--encoder", "intensity"], "--pretrain_epochs is for the encoder that select"),
        (["--pretrain_epochs", "1", "--embeddings", "x.npz"], "--pretrain_epochs is about images"),
    ],
)
def test_where_it_has_no_meaning(workspace, capsys, argv, sentence):
    fails(capsys, select.main, [*CALL, *argv], sentence)
