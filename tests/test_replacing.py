"""collect --replace: a corrected label takes the place of one that was collected before, which is kept."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk
from making import TARGET, fails, succeeds, write_dataset_json, write_picture
from PIL import Image
from test_annotation import COLLECT, SELECT, blob, collected, described, draw, handover, picked, preprocess, state
from test_collecting import VOLUMES, volume_label, volumes  # noqa: F401 (a fixture)

from nnunetv2_xssr.annotation.inspecting import inspect_labels
from nnunetv2_xssr.annotation.replacing import keep_labels
from nnunetv2_xssr.commands import collect, select
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.records.workspace import Workspace


def in_dataset(workspace, case):
    return np.array(Image.open(workspace.raw / TARGET / "labelsTr" / f"{case}.png"))


def corrected(workspace, case, to):
    folder = workspace.root / "corrected"
    write_picture(folder / f"{case}.png", blob(to=to))
    return folder


def kept(workspace):
    return sorted((workspace.raw / TARGET / "annotate" / "replaced").glob("*"))


def test_old_labels_are_kept_and_never_overwritten(again, capsys):
    first, *others = collected(again, capsys)
    preprocess(again)
    before = described(again)
    for number, to in enumerate((20, 30), start=1):
        folder = corrected(again, first, to)
        out = succeeds(capsys, collect.main, [*COLLECT, "-l", folder, "--replace", first])
        assert f"replaced: {first}; its old label is {kept(again)[-1]}" in out
        assert (in_dataset(again, first) == blob(to=to)).all()
        assert [path.name for path in kept(again)] == [f"{first}_{n:02d}.png" for n in range(1, number + 1)]
    olds = [np.array(Image.open(path)) for path in kept(again)]
    assert (olds[0] == blob()).all() and (olds[1] == blob(to=20)).all()
    assert described(again) == before and state(capsys)["changed"] == [first]
    assert all((in_dataset(again, case) == blob()).all() for case in others)


def test_a_label_that_an_interrupted_run_has_kept_is_kept_once(again, capsys):
    first, *_ = collected(again, capsys)
    keep_labels(Workspace(TARGET), [first], dataset_pool(TARGET))
    folder = corrected(again, first, 20)
    assert f"its old label is {kept(again)[0]}" in succeeds(
        capsys, collect.main, [*COLLECT, "-l", folder, "--replace", first]
    )
    assert len(kept(again)) == 1 and (in_dataset(again, first) == blob(to=20)).all()


def test_equal_voxels_change_nothing_and_one_line_says_so(again, capsys):
    first, second, _ = collected(again, capsys)
    label = again.raw / TARGET / "labelsTr" / f"{first}.png"
    before = label.read_bytes()
    Image.fromarray(blob()).save(handover(again) / "labels" / f"{first}.png", compress_level=0)
    line = f"equal to what was collected before, nothing done: {first}, 1 in all"
    assert succeeds(capsys, collect.main, COLLECT).count(line) == 1
    out = succeeds(capsys, collect.main, [*COLLECT, "--replace", first, second])
    assert f"nothing done: {first}, {second}, 2 in all" in out and "replaced:" not in out
    assert label.read_bytes() == before and kept(again) == []


def test_label_that_does_not_fit_replaces_nothing(again, capsys):
    first, *_ = collected(again, capsys)
    folder = corrected(again, first, 20)
    write_picture(folder / f"{first}.png", blob(value=7))
    assert collect.main([*COLLECT, "-l", str(folder), "--replace", first]) == 2
    assert "holds 7" in capsys.readouterr().out
    assert (in_dataset(again, first) == blob()).all() and kept(again) == []


def test_unreadable_old_label_is_replaced(again, capsys):
    first, *_ = collected(again, capsys)
    (again.raw / TARGET / "labelsTr" / f"{first}.png").write_bytes(b"broken")
    succeeds(capsys, collect.main, [*COLLECT, "--replace", first])
    assert (in_dataset(again, first) == blob()).all() and kept(again)[0].read_bytes() == b"broken"


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("nobody", ["--replace names nobody", TARGET]),
        ("FIRST", ["--replace names FIRST, but", "holds no new FIRST.png", "-l"]),
        ("SECOND", ["--replace names SECOND, whose label was never collected"]),
    ],
)
def test_what_cannot_be_replaced(again, capsys, named, words):
    first, second, _ = picked(again)
    draw(again, first)
    succeeds(capsys, collect.main, COLLECT)
    folder = corrected(again, second, 20)
    name = {"FIRST": first, "SECOND": second}.get(named, named)
    words = [word.replace("FIRST", first).replace("SECOND", second) for word in words]
    fails(capsys, collect.main, [*COLLECT, "-l", str(folder), "--replace", name], *words)
    assert list(described(again)["dataset"]) == [first] and kept(again) == []


def test_old_labels_of_a_named_selection_lie_beside_its_hand_overs(again, capsys):
    succeeds(capsys, select.main, [*SELECT, "--name", "other", "--strategy", "random", "--seed", "3"])
    first, *_ = collected(again, capsys, "other")
    draw(again, first, value=0, selection="other")
    argv = [*COLLECT, "--name", "other", "--allow_empty", "--replace", first]
    succeeds(capsys, collect.main, argv)
    assert [path.name for path in Workspace(TARGET, "other").replaced.iterdir()] == [f"{first}_01.png"]
    fails(capsys, select.main, [*SELECT, "--name", "replaced"], "--name", "replaced")


def test_other_compression_and_header_text_of_a_volume_are_equal(volumes):  # noqa: F811
    returned = volume_label(volumes)
    pool = dataset_pool(VOLUMES)
    (volumes / "labelsTr").mkdir()
    for case in ("v_0", "v_1"):
        (volumes / "labelsTr" / f"{case}.nii.gz").write_bytes((returned / f"{case}.nii.gz").read_bytes())
    table = {c: {"images": [f"imagesTr/{c}_0000.nii.gz"], "label": f"labelsTr/{c}.nii.gz"} for c in ("v_0", "v_1")}
    write_dataset_json(volumes, ".nii.gz", labels={"background": 0, "blob": 1}, dataset=table)
    pool = dataset_pool(VOLUMES)
    content = gzip.decompress((returned / "v_0.nii.gz").read_bytes())
    (returned / "v_0.nii.gz").write_bytes(gzip.compress(content[:148] + b"drawn anew".ljust(80) + content[228:], 1))
    changed = sitk.ReadImage(str(returned / "v_1.nii.gz"))
    changed[0, 0, 0] = 1
    sitk.WriteImage(changed, str(returned / "v_1.nii.gz"))
    found = inspect_labels(pool, folder=returned, chosen=["v_0", "v_1"], replace=["v_0", "v_1"])
    assert found.equal == ["v_0"] and list(found.fit) == ["v_1"] and not found.unfit
    (old,) = keep_labels(Workspace(VOLUMES), found.fit, pool).values()
    assert old.read_bytes() == (volumes / "labelsTr" / "v_1.nii.gz").read_bytes()
