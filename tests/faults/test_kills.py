"""Killed at any moment and typed again, every command that writes ends as if nothing had happened."""

import signal

import pytest
from forking import Command
from scenes import SCENES, Contents, Undisturbed, command_of

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ATTEMPTS = 30  # at times spread over the whole run
IN_A_ROW = 5  # kills before the command may end


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES, indirect=True)
def test_killed_and_typed_again(scene, stage, faults):
    name, put = scene
    argv = command_of(stage, name)
    run = Undisturbed(stage, argv)
    for attempt in range(ATTEMPTS):
        group, place = divmod(attempt, IN_A_ROW)
        number = SIGNALS[(group + place) % len(SIGNALS)]
        if place == 0:
            put()
        command = Command(stage, argv)
        killed = command.kill(number, after=0.9 * run.seconds * (attempt * 7 % ATTEMPTS) / ATTEMPTS)
        wrong = run.judge_end(command, command.end(), Contents(stage))
        faults.note("kill", name, number.name, killed, **wrong)
        if place == IN_A_ROW - 1:
            again = Command(stage, argv)
            wrong = run.judge_again(again, again.end(), Contents(stage))
            faults.note("kill", name, number.name, 0, **wrong)
    faults.check()
