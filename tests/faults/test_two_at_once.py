"""Two commands at once end as one after the other, in one order or the other."""

import shutil
from itertools import combinations_with_replacement

import pytest
from forking import Command
from scenes import (
    COLLECT,
    CPU,
    HSSL,
    PRETRAIN,
    SELECT,
    WEIGHTS,
    Contents,
    differing,
    drawn,
    planned,
    run_step,
    theirs,
    unreadable,
)

COMMANDS = {
    "select": [*SELECT, "-b", "4", "--overwrite"],
    "select --name": [*SELECT, "-b", "2", "--name", "b"],
    "collect": COLLECT,
    "report": ["report", "-d", "2"],
    "embed": ["embed", "-d", "2", "-s", "1", "-o", "f.npz", *CPU],
    "pretrain": PRETRAIN,
    "hssl_pretrain": HSSL,
    "weights": WEIGHTS,
    "link": ["link"],
    "link --remove": ["link", "--remove"],
    "status --clean": ["status", "-d", "2", "--clean"],
}
PAIRS = list(combinations_with_replacement(COMMANDS, 2))
# The first may end in a sentence: what it has preprocessed is removed, as the reference says.
TAKEN_FROM = {("hssl_pretrain", "status --clean")}


@pytest.fixture(scope="module")
def ends():
    """What the workspace holds after one command and after two, by their names."""
    return {}


@pytest.fixture
def base(bare, stage):
    """A workspace in which all commands have something to do, and functions that put it in place."""
    folder = stage.root.with_name("both")

    def put(after=()):
        kept = folder / "+".join(["base", *after])
        if not kept.exists():
            if after:
                put(after[:-1])
                Command(stage, COMMANDS[after[-1]]).end()
            else:
                bare()
                for step in (SELECT, drawn, planned, theirs):
                    run_step(stage, step)
            shutil.copytree(stage.root, kept)
        shutil.rmtree(stage.root)
        shutil.copytree(kept, stage.root)

    return put


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS, ids=" + ".join)
def test_two_at_once(base, stage, faults, ends, pair):
    for order in (pair, pair[::-1]):
        if order not in ends:
            base(order[:1])
            Command(stage, COMMANDS[order[1]]).end()
            ends[order] = Contents(stage).timeless
    for later in (0.0, 0.4):
        base()
        commands = [Command(stage, COMMANDS[pair[0]])]
        commands[0].join(later)
        commands.append(Command(stage, COMMANDS[pair[1]]))
        codes, found = [command.end() for command in commands], Contents(stage)
        now, said = found.timeless, [command.said[-2000:] for command in commands]
        ended = pair in TAKEN_FROM and codes[0] == 2
        other = [[]] if ended else [differing(now, ends[order]) for order in (pair, pair[::-1])]
        refused = [words for code, words in zip(codes, said, strict=True) if code and words.count(": error: ") != 1]
        faults.note(
            "two at once",
            pair[0],
            f"with {pair[1]}",
            losses=unreadable(found) + found.temporary() + refused,
            silent_uses=min(other, key=len),
            tracebacks=[command.said[-2000:] for command in commands if command.fell],
            hangs=said * (None in codes),
        )
    faults.check()
