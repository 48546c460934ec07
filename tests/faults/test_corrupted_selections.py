"""Changed bytes of anything that verify looks at: it says so, and never that all is whole."""

import json
import shutil

import numpy as np
import pytest
import torch
from making import SOURCE, TARGET, prepared
from mutating import outcome
from scenes import drawn

from nnunetv2_xssr.commands import collect, verify

CACHES = f"preprocessed/{TARGET}/xssr/caches"
FILES = {
    "record": f"preprocessed/{TARGET}/xssr/xssr/selection.json",
    "manifest": f"preprocessed/{TARGET}/xssr/xssr/manifest.json",
    "split": f"preprocessed/{TARGET}/splits_xssr.json",
    "image": f"raw/{TARGET}/imagesTr/*.png",
    "image of the source": f"raw/{SOURCE}/imagesTr/*.png",
    "collected label": f"raw/{TARGET}/labelsTr/*.png",
    "image in the hand-over": f"raw/{TARGET}/annotate/round_01/images/*.png",
    "views": f"{CACHES}/views/rows_*.npy",
    "facts": f"{CACHES}/facts/rows_*.npy",
    "features": f"{CACHES}/embeddings/rows_*.npy",
    "features of the source": f"preprocessed/{SOURCE}/xssr/caches/embeddings/rows_*.npy",
    "encoder": f"results/{SOURCE}/XSSR_MAE__2d/checkpoint_final.pth",
}


def flip(part):
    def change(content):
        at = int(part * (len(content) - 1))
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return change


def zero(part):
    def change(content):
        at = int(part * (len(content) - 1))
        return content[:at] + bytes(len(content[at : at + 16])) + content[at + 16 :]

    return change


CHANGES = {
    **{f"flip at {part}": flip(part) for part in np.round(np.linspace(0, 1, 21), 2).tolist()},
    **{f"zero at {part}": zero(part) for part in (0.1, 0.35, 0.6, 0.85)},
    "swap the halves": lambda content: content[len(content) // 2 :] + content[: len(content) // 2],
    "cut off a byte": lambda content: content[:-1],
    "cut off half": lambda content: content[: len(content) // 2],
    "cut off all": lambda content: b"",
    "extend": lambda content: content + b"\0",
}
FEW = {"flip at 0.5", "cut off half"}  # the rest with test-all


@pytest.fixture(scope="module")
def collected(_ready, tmp_path_factory):
    """A selection whose labels were all collected."""
    root = tmp_path_factory.mktemp("corrupted") / "nnunet"
    shutil.copytree(_ready.root, root)
    with prepared(root) as workspace:
        drawn(workspace)
        assert collect.main(["-d", "2"]) == 0
    return workspace


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FILES)
def test_verify_says_so(collected, capsys, monkeypatch, faults, name, few):
    for variable, folder in collected.environment().items():
        monkeypatch.setenv(variable, folder)
    path = sorted(collected.root.glob(FILES[name]))[0]
    before, said = path.read_bytes(), meaning(path)
    for words in [one for one in CHANGES if (one in FEW) == few]:
        path.write_bytes(CHANGES[words](before))
        same = meaning(path) == said
        code, problem = verified(capsys)
        path.write_bytes(before)
        silent = [f"{words}: verify says that all is whole"] * (code == 0 and not same)
        faults.note("corruption", name, "", silent_uses=silent, tracebacks=[f"{words}: {problem}"] * bool(problem))
    assert verified(capsys) == (0, None)
    faults.check()


def verified(capsys):
    """Exit code of verify, and what went wrong in it."""
    codes = []

    def main(argv):
        codes.append(verify.main(argv))
        return codes[-1]

    problem = outcome(capsys, main, ["-d", "2"])
    return (codes or [None])[0], problem


def meaning(path):
    """What a file says, where not every byte does: the values of JSON, all tensors of weights."""
    try:
        if path.suffix == ".json":
            return json.loads(path.read_bytes())
        if path.suffix == ".pth":
            weights = torch.load(path, weights_only=True)["weights"]
            return {name: tensor.numpy().tobytes() for name, tensor in weights.items()}
    except Exception:
        return None
    return path.read_bytes()
