"""Change the bytes of what the package reads, led by what the readers then do: python tests/faults/fuzz.py [MINUTES]

An hour by default; it needs atheris. Every reader must return, or end in one sentence. The first other end is printed
with the bytes that led to it, and stops the run; the bytes are kept in the folder ``fuzzed``.
"""

import contextlib
import io
import logging
import os
import resource
import sys
import tempfile
from functools import cache
from pathlib import Path

import atheris

os.environ["NUMBA_DISABLE_JIT"] = "1"  # numba does not understand what atheris adds
ROOT = Path(tempfile.mkdtemp(prefix="xssr_fuzz_"))
with atheris.instrument_imports(include=["nnunetv2_xssr", "yaml"]):
    import numpy as np
    import SimpleITK as sitk
    import torch
    from dicom_making import stored_voxels, write_series
    from making import TARGET, Workspace, prepared, write_source_and_target
    from PIL import Image

    from nnunetv2_xssr.annotation.label_check import check_label, label_values
    from nnunetv2_xssr.annotation.timesheets import read_minutes
    from nnunetv2_xssr.encoders.feature_files import read_features
    from nnunetv2_xssr.errors import UserError
    from nnunetv2_xssr.images.case_table import read_names, read_vetoes, with_case_table
    from nnunetv2_xssr.images.dicom_series import NoVolume, find_series
    from nnunetv2_xssr.images.pools import Case, ImagePool
    from nnunetv2_xssr.images.reading import read_image
    from nnunetv2_xssr.pretrain.hssl.foreign import read_foreign
    from nnunetv2_xssr.records.config import id_in_config, read_config
    from nnunetv2_xssr.records.dataset_json import read_dataset_json
    from nnunetv2_xssr.records.manifest import Manifest, id_in_report, id_in_worklist
    from nnunetv2_xssr.records.selection import SelectionRecord
    from nnunetv2_xssr.records.split import read_split

CASES = ("a", "b", "=c")


@cache
def pool(ending):
    """Three cases; the first has an image that is never changed."""
    files = {"a": (ROOT / f"image{ending}",)}
    return ImagePool(
        name=TARGET,
        cases=tuple(Case(identifier=name, files=files.get(name, ())) for name in CASES),
        file_ending=ending,
        channel_names=("xray",),
        dataset_json={
            "channel_names": {"0": "xray"},
            "labels": {"background": 0, "blob": 1},
            "file_ending": ending,
        },
    )


def image(ending):
    """Read the file as an image of the pool."""
    return lambda path: read_image(Case(identifier="a", files=(path,)), pool(ending).reader())


def label(ending):
    """Check the file as the label of the first case."""
    return lambda path: check_label(path, pool(ending).cases[0], pool(ending))


def labels(path):
    """What a dataset.json says of its labels."""
    label_values(read_dataset_json(path))


def tables(path):
    """Whatever a table may be."""
    with_case_table(pool(".png"), path)


def dicom(path):
    """All that a folder tells of its series, of which the file is one slice."""
    for series in find_series(path.parent)[0]:
        with contextlib.suppress(NoVolume):
            series.grid()


def features(path):
    """Of every case."""
    path.with_suffix(".txt").write_text("\n".join(CASES))
    read_features(path, option="--embeddings", cases=CASES)


READERS = {  # ending of the file to what reads it, for every kind
    "table of cases": (".csv", tables),
    "list of cases": (".txt", read_names),
    "vetoes": (".csv", read_vetoes),
    "worklist": (".csv", lambda path: (id_in_worklist(path), read_minutes(path, asked=[("a", None), ("b", 2)]))),
    "features, csv": (".csv", features),
    "features, npz": (".npz", features),
    "features, npy": (".npy", features),
    "dataset.json": (".json", labels),
    "split": (".json", read_split),
    "selection": (".json", SelectionRecord.load),
    "manifest": (".json", Manifest.load),
    "config": (".yaml", lambda path: (id_in_config(path), read_config(path))),
    "report": (".html", id_in_report),
    "weights": (".pth", read_foreign),
    "image, nii": (".nii", image(".nii")),
    "image, png": (".png", image(".png")),
    "image, dcm": ("dicom/a.dcm", dicom),
    "label, nii": ("label.nii", label(".nii")),
    "label, png": ("label.png", label(".png")),
    "label, seg.nrrd": ("label.seg.nrrd", label(".nii")),
    "labelmap": ("labelmap.txt", lambda path: label(".png")(ROOT / "SegmentationClass" / "a.png")),
    "mask": ("SegmentationClass/a.png", label(".png")),
}


def seeds():
    """Whole files of every kind."""
    with prepared(ROOT / "nnunet") as ready:
        from nnunetv2_xssr.commands import select

        write_source_and_target(ready.raw)
        words = ["-d", "2", "-s", "1", "-b", "3", "--encoder", "intensity", "-device", "cpu"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            select.main(words)
    workspace = Workspace(ROOT / "nnunet")
    record = workspace.record()
    return {
        "table of cases": [b"case,domain,group,cost,slice_from,slice_to\na,x,1,2.5,0,3\n", b"case;domain\n=c;y\n"],
        "list of cases": [b"a\nb\n"],
        "vetoes": [b"case,reason\na,blurred\n"],
        "worklist": [next(workspace.raw.rglob("worklist.csv")).read_bytes(), b"case,slice,minutes\na,,3\nb,2,1.5\n"],
        "features, csv": [b"case,0,1\na,1,0\nb,0,1\n=c,1,1\n"],
        "features, npz": [saved(np.savez, cases=np.array(CASES), features=np.eye(3))],
        "features, npy": [saved(np.save, np.eye(3, dtype=np.float32))],
        "dataset.json": [(workspace.raw / TARGET / "dataset.json").read_bytes()],
        "split": [b'[{"train": ["a"], "val": ["b"]}]'],
        "selection": [record.read_bytes()],
        "manifest": [record.with_name("manifest.json").read_bytes()],
        "config": [record.with_name("select.yaml").read_bytes()],
        "report": [b"<!doctype html><meta name=selection content=0123>"],
        "weights": [saved(lambda file: torch.save({"state_dict": {"a.weight": torch.zeros(2, 1)}}, file))],
        "image, nii": [written(".nii")],
        "image, png": [next(workspace.images().glob("*.png")).read_bytes()],
        "image, dcm": [slice_of_three()],
        "label, nii": [written(".nii")],
        "label, png": [saved(lambda file: Image.fromarray(np.eye(4, 6, dtype=np.uint8)).save(file, "PNG"))],
        "label, seg.nrrd": [segments()],
        "labelmap": [b"background:0,0,0::\nblob:255,0,0::\n"],
        "mask": [saved(lambda file: Image.new("RGB", (3, 2), (255, 0, 0)).save(file, "PNG"))],
    }


def slice_of_three():
    """The first of a series of CT, whose other two are never changed."""
    files = write_series(ROOT / "dicom", stored_voxels(size=(3, 4, 6)))
    first = files[0].read_bytes()
    files[0].unlink()
    return first


def segments():
    """What 3D Slicer saves."""
    image = sitk.GetImageFromArray(np.ones((1, 4, 6), np.uint8))
    for key, value in {"ID": "s", "Name": "blob", "LabelValue": "1", "Layer": "0"}.items():
        image.SetMetaData(f"Segment0_{key}", value)
    sitk.WriteImage(image, str(ROOT / "seed.seg.nrrd"))
    return (ROOT / "seed.seg.nrrd").read_bytes()


def saved(write, *args, **arrays):
    """The bytes of what writes to a file."""
    file = io.BytesIO()
    write(file, *args, **arrays)
    return file.getvalue()


def written(ending):
    """The bytes of a small image."""
    path = ROOT / f"seed{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(1, 4, 6)), str(path))
    return path.read_bytes()


def check(data):
    """One run: the first byte says which reader, the others are the file."""
    if not data:
        return
    name = list(READERS)[data[0] % len(READERS)]
    ending, read = READERS[name]
    path = ROOT / (ending if ending[0] != "." else f"a_0000{ending}")
    path.write_bytes(data[1:])
    try:
        read(path)
    except UserError as error:
        text = str(error)
        if "\n" in text.strip() or len(text) > 1000:
            raise RuntimeError(f"{name}: no one sentence: {text}") from None


def main():
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    kept, corpus = Path("fuzzed").resolve(), ROOT / "corpus"
    kept.mkdir(exist_ok=True)
    corpus.mkdir()
    (ROOT / "SegmentationClass").mkdir()
    os.environ.update({"nnUNet_raw": str(ROOT), "nnUNet_preprocessed": str(ROOT), "nnUNet_results": str(ROOT)})
    every = seeds()
    if every.keys() != READERS.keys():
        raise SystemExit(f"every reader needs its seeds: {every.keys() ^ READERS.keys()}")
    (ROOT / "labelmap.txt").write_bytes(every["labelmap"][0])
    (ROOT / "SegmentationClass" / "a.png").write_bytes(every["mask"][0])
    (ROOT / "image.nii").write_bytes(every["image, nii"][0])
    (ROOT / "image.png").write_bytes(every["label, png"][0])
    for number, name in enumerate(READERS):
        for i, content in enumerate(every[name]):
            (corpus / f"{number}_{i}").write_bytes(bytes([number]) + content)
    # What claims to be huge must not take the memory of the machine: libraries say then that there is none.
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    logging.disable(logging.CRITICAL)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    options = [f"-max_total_time={60 * minutes:.0f}", "-max_len=20000", "-rss_limit_mb=0", "-timeout=300"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={kept}/", str(corpus)], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
