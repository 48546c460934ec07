"""What reading costs: one decompression, and memory of little more than the volume as stored."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from PIL import Image

from nnunetv2_xssr.images import nifti
from nnunetv2_xssr.images.extract import Look
from nnunetv2_xssr.images.memory import available_memory, memory_of
from nnunetv2_xssr.images.pools import Case
from nnunetv2_xssr.images.regions import Regions
from nnunetv2_xssr.images.views import _case_views

SHAPE = (96, 160, 160)


def volume(dtype="int16"):
    rng = np.random.default_rng(0)
    return np.pad(rng.integers(1, 900, [n - 8 for n in SHAPE]), 4).astype(dtype)


def case(*files):
    return Case(identifier="a", files=files)


def views(files, reader, channels, dim=2):
    channel_order = tuple(range(len(channels)))
    n_views = 1 if reader is NaturalImage2DIO else 8
    more = {"order": channel_order, "n_views": n_views, "dim": dim, "look": Look(), "regions": Regions()}
    return _case_views(case(*files), reader=reader(), channel_names=channels, **more)[0]


def peak(work):
    """Bytes of the arrays of numpy that are there at once during a second call, which imports and compiles nothing."""
    work()
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, NibabelIOWithReorient])
@pytest.mark.parametrize("channels", [("CT",), ("MRI",), ("T1", "T2")])
@pytest.mark.parametrize("dim", [2, 3])
def test_memory_of_volumes(tmp_path, monkeypatch, reader, channels, dim):
    monkeypatch.setattr("nnunetv2_xssr.images.resampling._PART", 2**14)  # as small as the volume is
    monkeypatch.setattr("nnunetv2_xssr.images.normalise._BLOCK", 2**14)
    monkeypatch.setattr("nnunetv2_xssr.images.padding._COARSE", 2**5)
    files = [tmp_path / f"a_{i:04d}.nii.gz" for i in range(len(channels))]
    for file in files:
        nibabel.save(nibabel.Nifti1Image(volume().T, np.diag([1.0, 1.0, 2.0, 1.0])), file)
    shown = 4 * views(files, reader, channels, dim).nbytes
    most = peak(lambda: views(files, reader, channels, dim))
    assert most < 1.3 * len(files) * volume().nbytes + shown


def test_memory_of_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr("nnunetv2_xssr.images.resampling._PART", 2**14)
    pixels = np.random.default_rng(0).integers(1, 255, (2500, 2400, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    channels = ("red", "green", "blue")
    most = peak(lambda: views([tmp_path / "a.png"], NaturalImage2DIO, channels))
    assert most < 1.3 * pixels.nbytes + 2**22


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_a_volume_is_decompressed_once(tmp_path, monkeypatch, dtype):
    nibabel.save(nibabel.Nifti1Image(volume(dtype).T, np.eye(4)), tmp_path / "a.nii.gz")
    read, original = [], nifti._read_exactly
    monkeypatch.setattr(nifti, "_read_exactly", lambda stream, to: read.append(to.nbytes) or original(stream, to))
    for forbidden in ("get_fdata", "__array__"):
        monkeypatch.delattr(nibabel.arrayproxy.ArrayProxy, forbidden, raising=False)
    monkeypatch.delattr(sitk, "ReadImage")
    views([tmp_path / "a.nii.gz"], SimpleITKIO, ("MRI",))
    assert sum(read) == volume(dtype).nbytes + 352


@pytest.mark.parametrize(
    ("reader", "ending", "write"),
    [
        (SimpleITKIO, ".nii.gz", lambda file: sitk.WriteImage(sitk.GetImageFromArray(volume()), str(file))),
        (NibabelIO, ".nii", lambda file: nibabel.save(nibabel.Nifti1Image(volume().T, np.eye(4)), file)),
        (SimpleITKIOWithReorient, ".nii", lambda file: nibabel.save(nibabel.Nifti1Image(volume().T, np.eye(4)), file)),
        (SimpleITKIO, ".mha", lambda file: sitk.WriteImage(sitk.GetImageFromArray(volume()), str(file))),
        (Tiff3DIO, ".tif", lambda file: tifffile.imwrite(file, volume())),
        (NaturalImage2DIO, ".png", lambda file: Image.fromarray(volume("uint8").reshape(-1, 160, 3)).save(file)),
    ],
)
def test_memory_is_told_by_the_header(tmp_path, reader, ending, write):
    file = tmp_path / f"a{ending}"
    write(file)
    stored = volume("uint8" if ending == ".png" else "int16").nbytes
    factor = 1.3 if ".nii" in ending and reader is not SimpleITKIOWithReorient else 5
    assert memory_of(case(file), reader()) == pytest.approx(factor * stored, rel=0.01)
    file.write_bytes(file.read_bytes()[:10])
    assert memory_of(case(file), reader()) < 1000  # reading will say what is wrong
    file.unlink()
    assert memory_of(case(file), reader()) == 0


@pytest.mark.slow
def test_the_benchmark_runs():
    script = Path(__file__).parents[2] / "benchmarks" / "reading.py"
    call = [sys.executable, script, "--size", "0.1", "--cases", "1", "--rounds", "1", "--kinds", "ct"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert "| CT, .nii.gz |" in done.stdout, done.stderr


def test_memory_of_this_machine():
    assert 2**20 < available_memory() < 2**50
