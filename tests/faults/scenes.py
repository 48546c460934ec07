"""The commands that write, each in a workspace in which it has something to do, and what they leave there."""

import io
import json
import shutil
import time
from functools import cached_property, lru_cache, partial

import numpy as np
import torch
from forking import Command
from making import SOURCE, TARGET, picture, write_dataset_json, write_picture, write_pictures
from plans import write_plans
from slicing import draw as draw_in_slices
from slicing import labels

from nnunetv2_xssr.records.files import TEMPORARY
from nnunetv2_xssr.records.workspace import Workspace as Files

CPU = ["-device", "cpu"]
SELECT = ["select", "-d", "2", "-s", "1", "-b", "3", *CPU]
NEW = ["select", "-d", "005_New", "-i", "new", "--channel_names", "xray", "--labels", "blob", "-s", "1", "-b", "2"]
NEW += CPU
SLICES = ["select", "-d", "31", "--unit", "slice", *CPU, "-b"]
COLLECT = ["collect", "-d", "2"]
BENCHMARK = ["benchmark", "-d", "2", "-s", "1", "-b", "2", "--strategies", "coreset", "--draws", "2", "--seeds", "1"]
BENCHMARK += ["--judge", "fast", "-o", "out", *CPU]
HSSL = ["hssl_pretrain", "-d", "2", "-c", "2d", "-s", "1", "2", "--epochs", "2", "--batch_size", "4", *CPU]
WEIGHTS = ["weights", "-i", "theirs.pth", "-d", "2", "-c", "2d", "-o", "ours.pth"]
PRETRAIN = ["pretrain", "-s", "1", "--epochs", "3", *CPU]


def study(workspace, n=10):
    """Label all cases."""
    write_pictures(workspace.raw / TARGET, n, first_seed=200, labelled=n, shift=1.0, prefix="t")
    write_dataset_json(workspace.raw / TARGET, domains={f"t_{i:02d}": "AB"[i % 2] for i in range(n)})


def no_encoder(workspace):
    shutil.rmtree(workspace.encoder().parent)


def no_embeddings(workspace):
    for name in (SOURCE, TARGET):
        shutil.rmtree(workspace.preprocessed / name / "xssr" / "caches")


def drawn(workspace):
    """Draw the labels of the picks of round 1."""
    for pick in workspace.selection()["selections"][0]["picks"]:
        pixels = picture(int(pick["case"][2:]) + 200, shift=1.0)
        label = Files(TARGET).raw / "annotate" / "round_01" / "labels" / f"{pick['case']}.png"
        write_picture(label, (pixels > 110).astype(np.uint8))


def redrawn(workspace):
    for label in sorted((Files(TARGET).raw / "annotate" / "round_01" / "labels").iterdir()):
        write_picture(label, (picture(7) > 120).astype(np.uint8))


def drawn_slices(workspace):
    draw_in_slices(workspace, *(label.name.removesuffix(".nii.gz") for label in labels(workspace).glob("*.nii.gz")))


def planned(workspace):
    write_plans(workspace.preprocessed / TARGET)


def theirs(workspace):
    """Weights of somebody else for the network of the plans."""
    from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans

    torch.manual_seed(7)
    network = TargetPlans.load(TARGET, configuration_name="2d").build_network(1)
    torch.save({"network_weights": network.state_dict()}, workspace.root / "theirs.pth")


def new_images(workspace):
    for i in range(6):
        write_picture(workspace.root / "new" / f"n_{i}.png", picture(300 + i))


# What is to be done in the workspace first, and the command.
SCENES = {
    "select, study": ([study], SELECT),
    "select, annotation": ([], SELECT),
    "select, all of it": ([no_encoder, no_embeddings], SELECT),
    "select --overwrite": ([SELECT], [*SELECT, "-b", "4", "--overwrite"]),
    "select, second round": ([SELECT, drawn, COLLECT], [*SELECT, "-b", "2"]),
    "select --raters": ([], [*SELECT, "--raters", "ann", "bob", "--overlap", "1"]),
    "select --embeddings": (
        [["embed", "-d", "2", "--encoder", "intensity", "-o", "f.npz", *CPU]],
        ["select", "-d", "2", "-b", "3", "--embeddings", "f.npz", *CPU],
    ),
    "select -i": ([new_images], NEW),
    "select --unit slice": ([], [*SLICES, "4"]),
    "select --unit slice --overwrite": ([[*SLICES, "4"]], [*SLICES, "3", "--overwrite"]),
    "collect": ([SELECT, drawn], COLLECT),
    "collect --replace": ([SELECT, drawn, COLLECT, redrawn], COLLECT),
    "collect, slices": ([[*SLICES, "4"], drawn_slices], ["collect", "-d", "31"]),
    "pretrain": ([no_encoder], PRETRAIN),
    "pretrain --c": ([no_encoder, no_embeddings], [*PRETRAIN, "--c"]),
    "hssl_pretrain": ([planned], [*HSSL, "--c"]),
    "embed": ([no_embeddings], ["embed", "-d", "2", "-s", "1", "-o", "f.npz", *CPU]),
    "embed, csv": ([], ["embed", "-d", "2", "--encoder", "intensity", "-o", "f.csv", *CPU]),
    "weights": ([planned, theirs], WEIGHTS),
    "benchmark": ([partial(study, n=24), no_embeddings], BENCHMARK),
    "report": ([SELECT], ["report", "-d", "2"]),
    "link": ([lambda workspace: (workspace.root / "xssr_trainer_link.py").unlink()], ["link"]),
    "link --remove": ([], ["link", "--remove"]),
    "status --clean": ([SELECT], ["status", "-d", "2", "--clean"]),
}
OF_VOLUMES = [name for name in SCENES if "slice" in name]


def command_of(workspace, name):
    """The command; of `collect --replace` with the cases that were picked."""
    _, argv = SCENES[name]
    if name == "collect --replace":
        argv = [*argv, "--replace", *(pick["case"] for pick in workspace.selection()["selections"][0]["picks"])]
    return argv


def prepare(workspace, name):
    """Do what must come before the command."""
    for step in SCENES[name][0]:
        run_step(workspace, step)


def run_step(workspace, step):
    """Run a command that must end well, or call a function."""
    if callable(step):
        step(workspace)
    else:
        command = Command(workspace, step)
        assert command.end() == 0, command.said


# ------------------------------------------------------------------------------------------- what lies in a workspace
class Contents:
    """What all files of a workspace hold, without what tells the time."""

    def __init__(self, workspace):
        files = (path for path in workspace.root.rglob("*") if path.is_file())
        self.files = {str(path.relative_to(workspace.root)): path.read_bytes() for path in files}

    @cached_property
    def timeless(self):
        """Name to content, without logs and the words of locks."""
        return {
            name: _timeless(name, content)
            for name, content in self.files.items()
            if not name.endswith((".log", ".xssr.lock", ".xssr.lock.json"))
        }

    def temporary(self):
        """Temporary files, which a command that ends leaves nowhere."""
        return sorted(name for name in self.files if f"/{TEMPORARY}" in f"/{name}" or name.startswith("tmp"))


@lru_cache(maxsize=32)
def _timeless(name, content):
    """A content without how fast a training was."""
    if not name.endswith(".pth") or TEMPORARY in name:
        return content
    checkpoint, whole = torch.load(io.BytesIO(content), weights_only=True), io.BytesIO()
    checkpoint.get("history", {}).pop("images_per_second", None)
    torch.save(checkpoint, whole)
    return whole.getvalue()


def unreadable(contents):
    """The files that are not whole, of those that have a form."""
    return [name for name, content in contents.files.items() if TEMPORARY not in name and not _whole(name, content)]


@lru_cache(maxsize=256)
def _whole(name, content):
    try:
        if name.endswith(".json"):
            json.loads(content)
        elif name.endswith(".npy"):
            np.load(io.BytesIO(content))
        elif name.endswith(".npz"):
            with np.load(io.BytesIO(content)) as arrays:
                {key: arrays[key] for key in arrays}
        elif name.endswith(".pth"):
            torch.load(io.BytesIO(content), weights_only=True)
    except Exception:
        return False
    return True


def differing(one, other):
    """The names of files that hold something else, or are only in one of two."""
    return sorted(name for name in one.keys() | other if one.get(name) != other.get(name))


class Undisturbed:
    """What a command begins with and leaves where nothing happens to it."""

    def __init__(self, workspace, argv):
        self.before, begun = Contents(workspace).timeless, time.monotonic()
        whole = Command(workspace, argv)
        assert whole.end() == 0, whole.said
        self.seconds, self.after = time.monotonic() - begun, Contents(workspace).timeless

    def judge_end(self, command, code, found):
        """What went wrong in a run that was disturbed: files that it need not touch are as they were, and all whole."""
        now, need_not = found.timeless, [name for name, old in self.before.items() if self.after.get(name) == old]
        dead = code is not None and code < 0  # whose processes may still say that nobody listens
        return {
            "losses": unreadable(found) + [name for name in need_not if now.get(name) != self.before[name]],
            "tracebacks": [command.said[-2000:]] * (command.fell and not dead),
            "hangs": [command.said[-2000:]] * (code is None),
        }

    def judge_refusal(self, command, code, found):
        """What went wrong where the system refuses something: what is not done is one sentence."""
        wrong = self.judge_end(command, code, found)
        if code == 0:
            return wrong | {"silent_uses": differing(found.timeless, self.after)}
        said = code == 2 and command.said.count(": error: ") == 1
        return wrong | {"losses": wrong["losses"] + [f"exit code {code}: {command.said[-2000:]}"] * (not said)}

    def judge_again(self, command, code, found):
        """What went wrong when the command was typed again, after which all must be as if nothing had happened."""
        wrong, other = self.judge_end(command, code, found), differing(found.timeless, self.after)
        if code == 0:
            return wrong | {"silent_uses": other + found.temporary()}
        return wrong | {"losses": wrong["losses"] + other + [command.said[-2000:]] * bool(other)}
