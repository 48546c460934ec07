"""Slices of files that nnU-Net's reader turns: they are counted as in the file, where an annotator draws."""

import re

import nibabel
import numpy as np
import pytest
import tifffile
from making import read_worklist, succeeds, write_dataset_json
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from slicing import sliced

from nnunetv2_xssr.annotation.slice_places import SlicePlace, is_turned_by_napari, slice_places
from nnunetv2_xssr.commands import collect, select
from nnunetv2_xssr.images.extract import Look
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.views import prepare_views

NAME = "Dataset034_Reoriented"
# From head to feet and back, sagittal and coronal stacks, and the plane turned too.
ORIENTATIONS = ["RAS", "LPS", "RAI", "LPI", "ASR", "PIL", "LSA", "RSP"]
SIZE = {"R": 22, "L": 22, "A": 26, "P": 26, "S": 18, "I": 18}


def write_stored(path, orientation, seed=0):
    """A body with noise whose file is stored in this orientation; its values tell the place along the third axis."""
    shape = tuple(SIZE[code] for code in orientation)
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = (i**2 + j**2 + (k - 0.2) ** 2 < 0.5) * (100 + 10 * np.arange(shape[2]))
    image = body + np.random.default_rng(seed).normal(0, 1, shape)
    ras = nibabel.Nifti1Image(np.zeros([SIZE[code] for code in "RAS"]), np.diag([1.0, 1.5, 2.0, 1.0]))
    turned = ras.as_reoriented(ornt_transform(io_orientation(ras.affine), axcodes2ornt(orientation)))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), turned.affine), path)
    assert "".join(nibabel.aff2axcodes(turned.affine)) == orientation


@pytest.fixture
def reoriented(empty):
    for i, orientation in enumerate(ORIENTATIONS):
        write_stored(empty.images(NAME) / f"{orientation}_0000.nii.gz", orientation, seed=i)
    more = {"overwrite_image_reader_writer": "NibabelIOWithReorient", "dataset": {}, "numTraining": 0}
    write_dataset_json(empty.raw / NAME, ".nii.gz", channel_names={"0": "MRI"}, **more)
    return empty


def test_views_show_the_slices_of_the_file(reoriented):
    pool = open_pool("34")
    views = sliced(pool)
    for case, rows in zip(pool.cases, views.rows, strict=True):
        stored = nibabel.load(case.files[0]).get_fdata()
        places = list(views.facts[case.identifier].slices)
        assert len(set(places)) == 8
        scaled = (stored - stored.mean()) / stored.std()
        shown = np.asarray(rows, float).mean(axis=(1, 2, 3))
        # A view has a margin where a slice is not square.
        assert np.corrcoef(shown, scaled.mean(axis=(0, 1))[places])[0, 1] > 0.999, case.identifier


def test_whole_cases_are_read_as_nnunet_reads_them(reoriented):
    pool = open_pool("34")
    assert type(pool.reader()).__name__ == "NibabelIOWithReorient"
    assert prepare_views(pool).cache != prepare_views(pool, look=Look(axis="file")).cache


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
def test_slices_as_tools_count_them(reoriented, reader):
    """napari 0.9.2 with napari-nifti 0.0.20 and MedVol 0.0.22 shows slice 0 on its slider at the head.

    It turns files whose axes run otherwise than those of the patient, and fails to save their labels.
    """
    write_dataset_json(reoriented.raw / NAME, ".nii.gz", {"0": "MRI"}, overwrite_image_reader_writer=reader, dataset={})
    pool = open_pool("34")
    for case in pool.cases:
        stored = nibabel.load(case.files[0])
        stored.affine[:3, 3] -= 12  # so that some slices lie on either side of 0
        nibabel.save(nibabel.Nifti1Image(stored.get_fdata(dtype=np.float32), stored.affine), case.files[0])
        *across, size = stored.shape
        for k, place in slice_places(case, pool, [0, 5, size - 1]).items():
            letter = case.identifier[2]
            middle = stored.affine @ [*((n - 1) / 2 for n in across), k, 1]
            mm = middle["RLAPSI".index(letter) // 2]
            letters = {"R": "RL", "L": "RL", "A": "AP", "P": "AP", "S": "SI", "I": "SI"}[letter]
            assert place.itk_snap == k + 1
            turned = not re.fullmatch("[RL][AP][SI]", case.identifier)
            assert is_turned_by_napari(case, pool) == turned
            assert place.napari == (None if turned else size - 1 - k if letter == "S" else k)
            assert place.position == f"{letters[int(mm < -0.05)]} {abs(mm):.1f}", case.identifier


def test_slices_of_stacks_have_no_position(empty):
    path = empty.images(NAME) / "a_0000.tif"
    path.parent.mkdir(parents=True)
    tifffile.imwrite(path, np.zeros((5, 6, 7), np.uint8))
    write_dataset_json(empty.raw / NAME, ".tif", overwrite_image_reader_writer="Tiff3DIO", dataset={}, numTraining=0)
    pool = open_pool("34")
    assert slice_places(pool.cases[0], pool, [3]) == {3: SlicePlace(itk_snap=4, napari=3, position="")}


def test_from_worklist_to_collected_labels(reoriented, capsys):
    argv = ["-d", "34", "--unit", "slice", "-b", "8", "-device", "cpu"]
    succeeds(capsys, select.main, argv)
    handover = reoriented.raw / NAME / "annotate" / "round_01"
    places = {row["case"]: int(row["slice"]) for row in read_worklist(handover / "worklist.csv")}
    assert sorted(places) == sorted(ORIENTATIONS)
    note = " ".join((handover / "README.txt").read_text().split())
    turned = re.search("napari-nifti mixes up the axes of these images.*?tool: (.*?gz)[.] ", note)[1]
    assert sorted(turned.split(", ")) == [f"images/{case}_0000.nii.gz" for case in ("ASR", "LSA", "PIL", "RSP")]
    for case, place in places.items():
        path = handover / "labels" / f"{case}.nii.gz"
        template = nibabel.load(path)
        assert np.allclose(template.affine, nibabel.load(reoriented.images(NAME) / f"{case}_0000.nii.gz").affine)
        label = np.asarray(template.dataobj)
        assert (label[:, :, place] == 0).all() and (np.delete(label, place, axis=2) == 2).all()
        label[5:9, 5:9, place] = 1
        if case == "ASR":  # and on a slice that nobody asked for
            label[5:9, 5:9, place + 1] = 1
        nibabel.save(nibabel.Nifti1Image(label, template.affine), path)
    capsys.readouterr()
    assert collect.main(["-d", "34"]) == 2
    out = capsys.readouterr().out
    assert f"ASR.nii.gz: is not all 2 (ignore) on slice {places['ASR'] + 1}, but only on {places['ASR']} " in out
    assert sorted(path.name for path in (reoriented.raw / NAME / "labelsTr").iterdir()) == sorted(
        f"{case}.nii.gz" for case in places if case != "ASR"
    )
