"""A disk that is full, and folders that cannot be written: a sentence, and the command is typed again."""

import os

import pytest
from forking import Command
from scenes import SCENES, Contents, Undisturbed, command_of

BYTES = (0, 1000, 30000)  # that a file may have
FOLDERS = ("raw", "preprocessed", "results", "")


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES, indirect=True)
def test_full_and_then_not(scene, stage, faults):
    name, put = scene
    argv = command_of(stage, name)
    run = Undisturbed(stage, argv)
    put()
    for n in BYTES:
        command = Command(stage, argv, file_size=n)
        wrong = run.judge_refusal(command, command.end(), Contents(stage))
        faults.note("full disk", name, f"files of {n} bytes", **wrong)
    again = Command(stage, argv)
    faults.note("full disk", name, "", 0, **run.judge_again(again, again.end(), Contents(stage)))
    faults.check()


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES, indirect=True)
def test_not_writable_and_then_writable(scene, stage, faults):
    name, put = scene
    argv = command_of(stage, name)
    run = Undisturbed(stage, argv)
    put()
    for folder in FOLDERS:
        kept = protect(stage.root / folder)
        command = Command(stage, argv, unprivileged=True)
        code = command.end()
        for path, mode in kept.items():
            path.chmod(mode)
        faults.note("not writable", name, folder or "all", **run.judge_refusal(command, code, Contents(stage)))
    again = Command(stage, argv)
    faults.note("not writable", name, "", 0, **run.judge_again(again, again.end(), Contents(stage)))
    faults.check()


def protect(folder):
    """Let nobody write a folder and all in it, and return the modes of before."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*")) if path.exists()}
    for path, mode in modes.items():
        os.chmod(path, mode & ~0o222)
    return modes
