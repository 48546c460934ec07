"""Small generated datasets, and what tests ask of commands."""

import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

CHECKOUT = Path(__file__).resolve().parent.parent
VARIABLES = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
SOURCE, TARGET = "Dataset001_Source", "Dataset002_Target"


@dataclass(frozen=True)
class Workspace:
    """nnU-Net's three folders below one folder."""

    root: Path

    @property
    def raw(self):
        return self.root / "raw"

    @property
    def preprocessed(self):
        return self.root / "preprocessed"

    @property
    def results(self):
        return self.root / "results"

    def environment(self):
        return {variable: str(self.root / folder) for variable, folder in VARIABLES.items()}

    def make_folders(self):
        for folder in VARIABLES.values():
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        return self

    def images(self, name=TARGET):
        return self.raw / name / "imagesTr"

    def encoder(self, name=SOURCE):
        return self.results / name / "XSSR_MAE__2d" / "checkpoint_final.pth"

    def record(self, name=TARGET):
        return self.preprocessed / name / "xssr" / "xssr" / "selection.json"

    def split(self, name=TARGET):
        return self.preprocessed / name / "splits_xssr.json"

    def forget_selection(self):
        """As if nothing had been selected yet; caches and encoders stay."""
        for file in (self.record(), self.record().with_name("manifest.json")):
            file.unlink()
        self.record().with_name("select.yaml").unlink(missing_ok=True)
        return self

    def results_of_select(self, name=TARGET):
        """The bytes of the record and of the split, None where there is none."""
        return [f.read_bytes() if f.is_file() else None for f in (self.record(name), self.split(name))]

    def selection(self, name=TARGET):
        return json.loads(self.record(name).read_text())


def picture(seed, size=(40, 48), shift=0.0, channels=None):
    """A smooth random picture, uint8, (height, width) or (height, width, channels)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    out = []
    for _ in range(channels or 1):
        cy, cx, r = rng.uniform(10, 30), rng.uniform(10, 30), rng.uniform(4, 12)
        blob = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / r**2)
        out.append(60 + 40 * shift + 120 * blob + rng.normal(0, 6, size))
    pixels = np.clip(np.stack(out, axis=-1), 0, 255).astype(np.uint8)
    return pixels if channels else pixels[..., 0]


def write_picture(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_volume(path, array):
    """Array of shape (z, y, x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


def volume(seed, size=(16, 20, 20)):
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[0 : size[0], 0 : size[1], 0 : size[2]]
    centre = rng.uniform(7, 11, 3)
    distance = np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
    image = 100 * np.exp(-((distance / 6) ** 2)) + rng.normal(0, 4, size)
    return image.astype(np.float32), distance


def write_dataset_json(folder, ending=".png", channel_names=None, **more):
    content = {
        "channel_names": channel_names or {"0": "xray"},
        "labels": {"background": 0, "blob": 1},
        "numTraining": len(list((folder / "labelsTr").glob("*"))),
        "file_ending": ending,
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))


def write_pictures(folder, n, first_seed, labelled=0, shift=0.0, prefix="case", size=(40, 48)):
    """n grey .png cases ``<prefix>_00`` and so on, the first ``labelled`` of them with a label."""
    for i in range(n):
        pixels = picture(first_seed + i, size, shift)
        write_picture(folder / "imagesTr" / f"{prefix}_{i:02d}_0000.png", pixels)
        if i < labelled:
            write_picture(folder / "labelsTr" / f"{prefix}_{i:02d}.png", (pixels > 110).astype(np.uint8))


def write_source_and_target(raw):
    """The two datasets that most tests use: 6 source cases, 10 unlabelled target cases of two domains."""
    write_pictures(raw / SOURCE, 6, first_seed=100, prefix="s")
    write_dataset_json(raw / SOURCE)
    write_pictures(raw / TARGET, 10, first_seed=200, shift=1.0, prefix="t")
    write_dataset_json(raw / TARGET, domains={f"t_{i:02d}": "AB"[i % 2] for i in range(10)})


def _draw_nothing(path, *args, **options):
    path.touch()


def shorten_pretraining(patch):
    """One epoch of two batches of four views by default, half as many autoencoders, and pictures that are empty."""
    from nnunetv2_xssr.pretrain import engine, settings, training

    patch.setattr(engine, "BATCHES_PER_EPOCH", 2)
    patch.setattr(training, "MEMBERS", 2)
    patch.setattr(engine, "draw_progress", _draw_nothing)
    patch.setattr(training, "draw_reconstructions", _draw_nothing)
    defaults = {"epochs": 1, "batch_size": 4, "seed": 0, "accumulate": 1}
    patch.setattr(settings.Settings.__init__, "__kwdefaults__", defaults)


@contextlib.contextmanager
def prepared(root):
    """A workspace for commands that run once, before the tests that copy what they write."""
    from nnunetv2_xssr.trainer_link import linking

    workspace = Workspace(root).make_folders()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in workspace.environment().items():
            patch.setenv(name, value)
        link = root / linking.LINK_MODULE.name
        link.write_bytes(linking.LINK_MODULE.read_bytes())
        patch.setattr(linking, "link_path", lambda: link)
        shorten_pretraining(patch)
        yield workspace


def fails(capsys, main, argv, *parts, not_parts=()):
    """Run a command that must end with exit code 2 and one sentence on stderr that holds all ``parts``."""
    capsys.readouterr()
    code = main([str(a) for a in argv])
    printed = capsys.readouterr()
    sentence = only_sentence(printed.err)
    assert code == 2, printed.err
    for part in parts:
        assert str(part) in sentence, f"{part!r} is not in: {sentence}"
    for part in not_parts:
        assert str(part) not in sentence, f"{part!r} is in: {sentence}"
    return sentence


def only_sentence(stderr):
    """The one error sentence on stderr, which may follow progress bars and nothing else."""
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if ": error: " in line]
    assert len(errors) == 1 and lines[-1] == errors[0], stderr
    return errors[0]


def read_worklist(path):
    """The rows of a worklist as scripts read it."""
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))


def succeeds(capsys, main, argv):
    """Run a command that must end well; return what it printed."""
    capsys.readouterr()
    code = main([str(a) for a in argv])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def run_python(code_or_args, env=None, cwd=None, timeout=240):
    """Run a Python process with quiet threads; a string is a program, a list the arguments."""
    args = ["-c", code_or_args] if isinstance(code_or_args, str) else [str(a) for a in code_or_args]
    return subprocess.run(
        [sys.executable, *args],
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def copy_of_nnunet(folder):
    """Copy nnU-Net without our link into a folder for PYTHONPATH, where links can be made and removed freely."""
    import nnunetv2

    original = Path(nnunetv2.__path__[0])
    skip = shutil.ignore_patterns("__pycache__", "xssr_trainer_link.py", "tests")
    shutil.copytree(original, folder / "nnunetv2", ignore=skip)
    return folder


def trainer_folder(site):
    return site / "nnunetv2" / "training" / "nnUNetTrainer"


def command(name, *argv):
    """A program that runs one of our commands."""
    argv = [str(a) for a in argv]
    return f"import sys\nfrom nnunetv2_xssr.commands.{name} import main\nsys.exit(main({argv!r}))"


def compared_by(encoder_file, *names):
    """What select compares the cases of these datasets by, the target first, and how."""
    from nnunetv2_xssr.encoders.embedding import embed, kept_layout
    from nnunetv2_xssr.encoders.mae import load_encoder
    from nnunetv2_xssr.encoders.pooling import compare
    from nnunetv2_xssr.images.pools import open_pool
    from nnunetv2_xssr.images.views import prepare_views

    encoder = load_encoder(encoder_file, device="cpu")
    pools = [prepare_views(open_pool(name), look=encoder.look) for name in names]
    kept = [embed(encoder, views).rows for views in pools]
    compared = compare(kept, kept_layout(encoder, pools[0].rows.shape[2]), embedding="auto")
    return [np.array(rows) for rows in compared.features], compared.how
