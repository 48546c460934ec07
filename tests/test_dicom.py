"""DICOM series become volumes with their values and their place, or are named with a reason; nothing gets lost."""

import gzip
import json
import logging
import re
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK as sitk
from dicom_making import (
    AXIAL,
    CORONAL,
    MR,
    PET,
    SAGITTAL,
    SPACING,
    dataset,
    item,
    position,
    save,
    set_pixels,
    stored_voxels,
    write_frames,
    write_series,
)

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images import dicom
from nnunetv2_xssr.images.dicom import convert_dicom

COS, SIN = np.cos(0.3), np.sin(0.3)
OBLIQUE = ((COS, SIN * COS, SIN * SIN), (-SIN, COS * COS, COS * SIN))
ORIGIN = (-20.0, 30.5, 100.0)


@pytest.fixture
def tree(tmp_path):
    return tmp_path / "tree"


@pytest.fixture
def convert(tree, tmp_path):
    """Convert, and check that every file of the tree is converted or set aside with a reason."""

    def call(**options):
        try:
            volumes = convert_dicom(tree, tmp_path / "out", **options)
        except UserError as error:
            volumes = str(error)
        kept = record(tmp_path)
        aside = [file for one in kept["set_aside"] for file in one["files"]]
        n_files = sum(path.is_file() for path in tree.rglob("*"))
        n_slices = 0 if isinstance(volumes, str) else sum(read(v).GetSize()[2] for v in volumes)
        n_several = sum(pydicom.dcmread(f).get("NumberOfFrames", 1) - 1 for f in tree.rglob("*.multi"))
        assert len(set(aside)) == len(aside)
        assert len(aside) + n_slices == n_files + (n_several if n_slices else 0)
        assert all(one["reason"] for one in kept["set_aside"])
        return volumes

    return call


def record(tmp_path):
    return json.loads((tmp_path / "out" / "dicom.json").read_text())


def reasons(tmp_path):
    return [(one["where"], one["reason"]) for one in record(tmp_path)["set_aside"]]


def read(volume):
    return sitk.ReadImage(str(volume.image))


def check_volume(image, values, axes, origin=ORIGIN, spacing=SPACING):
    """Every voxel has its value at its place in the patient."""
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), values, rtol=1e-6)
    row, column = np.array(axes, float)
    for index in np.ndindex(2, 2, 2):
        i, j, k = (int(n * (size - 1)) for n, size in zip(index, image.GetSize(), strict=True))
        expected = position(origin, axes, k, spacing) + i * spacing[0] * row + j * spacing[1] * column
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((i, j, k)), expected, atol=1e-3)


# --- what is a volume


@pytest.mark.parametrize(
    ("options", "applied", "stored_as"),
    [
        pytest.param({"slope": (1, -1024)}, lambda v: v - 1024.0, np.int16, id="axial CT"),
        pytest.param({"slope": (0.5, 10)}, lambda v: v * 0.5 + 10, np.float32, id="CT of half units"),
        pytest.param({"slope": (100, 0)}, lambda v: v * 100.0, np.int32, id="CT beyond 16 bits"),
        pytest.param({"axes": SAGITTAL, "sop_class": MR}, lambda v: v, np.int16, id="sagittal MR"),
        pytest.param({"axes": CORONAL, "sop_class": MR}, lambda v: v, np.int16, id="coronal MR"),
        pytest.param({"slope": (2, 5), "sop_class": MR}, lambda v: v * 2.0 + 5, np.int16, id="MR with a slope"),
        pytest.param({"axes": OBLIQUE, "sop_class": MR}, lambda v: v, np.int16, id="oblique MR"),
        pytest.param({"name": "{:08d}"}, lambda v: v, np.int16, id="files without ending"),
        pytest.param({"name": "1.2.840.{}"}, lambda v: v, np.int16, id="files named by UID"),
        pytest.param({"slope": (1, 0), "Modality": "CT", "GantryDetectorTilt": "12"}, lambda v: v, np.int16, id="tag"),
    ],
)
def test_values_and_place(tree, convert, options, applied, stored_as):
    voxels = stored_voxels()
    write_series(tree / "patient" / "scan", voxels, **options)
    (volume,) = convert()
    assert volume.case == "patient_scan" and volume.image.name == "patient_scan_0000.nii.gz"
    image = read(volume)
    check_volume(image, applied(voxels), options.get("axes", AXIAL))
    assert sitk.GetArrayFromImage(image).dtype == stored_as


def test_slopes_that_differ_between_slices(tree, convert):
    """As in PET, where every slice is scaled to its own maximum."""
    voxels = np.abs(stored_voxels())

    def change(made, i):
        made.RescaleSlope, made.RescaleIntercept = str(1 if i == 0 else 0.25 * i), "0"

    write_series(tree, voxels, sop_class=PET, change=change)
    (volume,) = convert()
    factors = np.array([1, *(0.25 * i for i in range(1, len(voxels)))])
    check_volume(read(volume), voxels * factors[:, None, None], AXIAL)


def test_files_without_a_preamble(tree, convert):
    voxels = stored_voxels()
    for file in write_series(tree, voxels):
        file.write_bytes(file.read_bytes()[132:])
    (volume,) = convert()
    check_volume(read(volume), voxels, AXIAL)


def test_places_that_are_rounded_are_even(tree, convert):
    def change(made, i):
        made.ImagePositionPatient = [round(float(x), 1) for x in made.ImagePositionPatient]

    voxels = stored_voxels(size=(20, 8, 10))
    write_series(tree, voxels, spacing=(0.7, 0.5, 0.625), change=change)
    (volume,) = convert()
    assert read(volume).GetSpacing()[2] == pytest.approx(0.625, abs=0.01)


def test_series_over_several_folders(tree, convert):
    voxels = stored_voxels()
    for number, file in enumerate(write_series(tree / "P1", voxels)):
        (tree / "P1" / str(number % 2)).mkdir(exist_ok=True)
        shutil.move(file, tree / "P1" / str(number % 2) / file.name)
    (volume,) = convert()
    assert volume.case == "P1"
    check_volume(read(volume), voxels, AXIAL)


def test_real_files(tmp_path, tree, convert):
    """pydicom's: CT and MR of two patients with localizers, a DICOMDIR, and files that are cut off."""
    source = Path(pydicom.data.__file__).parent / "test_files" / "dicomdirtests"
    shutil.copytree(source, tree)
    (volume,) = convert()
    assert volume.case == "98892001_CT5N"
    slices = sorted(
        map(pydicom.dcmread, (tree / "98892001" / "CT5N").iterdir()), key=lambda d: d.ImagePositionPatient[2]
    )
    expected = np.stack([d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in slices])
    steps = np.diff([float(d.ImagePositionPatient[2]) for d in slices])
    spacing = (*map(float, reversed(slices[0].PixelSpacing)), steps.mean())
    check_volume(
        read(volume), expected, AXIAL, origin=[float(x) for x in slices[0].ImagePositionPatient], spacing=spacing
    )
    found = dict(reasons(tmp_path))
    assert found["98892001/CT2N, series 4"] == "a localizer"
    assert "orientations" in found["98892003/MR700, series 700"]
    assert "DICOMDIR" in found["TINY_ALPHA"] or "not DICOM" in found["TINY_ALPHA"]


# --- files of several frames


def places(order, axes=AXIAL):
    return [position(ORIGIN, axes, i) for i in order]


@pytest.mark.parametrize("axes", [AXIAL, SAGITTAL, OBLIQUE])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_frames_are_a_volume(tree, convert, axes, order):
    voxels = stored_voxels(size=(4, 8, 10))
    write_frames(tree / "scan.multi", voxels[list(order)], places(order, axes), axes=axes, slopes=[(2, -1000)] * 4)
    (volume,) = convert()
    check_volume(read(volume), voxels * 2.0 - 1000, axes)


def test_a_file_per_frame(tree, convert):
    voxels = stored_voxels(size=(4, 8, 10))
    for i in range(4):
        path = write_frames(tree / f"{i}", voxels[i : i + 1], places([i]))
        made = pydicom.dcmread(path)
        made.SeriesInstanceUID = "1.2.3.4"
        made.save_as(path)
    (volume,) = convert()
    check_volume(read(volume), voxels, AXIAL)


@pytest.mark.parametrize(
    ("positions", "slopes", "reason"),
    [
        (places((0, 1, 0, 1)), None, "2 images at each of 2 places"),
        (places((0, 1, 2, 4)), None, "1 of 5 slices are missing"),
        (places((0, 1, 2, 3.5)), None, "uneven distances"),
        ([p + [0, i * 0.5, 0] for i, p in enumerate(places(range(4)))], None, "gantry tilt of 11.3 degrees"),
        (places(range(3)), None, "does not give the place of every image"),
        (places(range(4)), [(1, 0), (1, 0), (2, 0), (1, 0)], "several rescale slopes"),
    ],
)
def test_frames_are_no_volume(tree, tmp_path, convert, positions, slopes, reason):
    """ITK alone would make a volume of most of these, at a wrong place."""
    slopes = slopes and slopes[: len(positions)]
    write_frames(tree / "scan.multi", stored_voxels(size=(4, 8, 10)), positions, slopes=slopes)
    assert reason in convert()
    assert reason in dict(reasons(tmp_path))["tree, series 1"]


# --- what is no volume


def localizer_of_three(folder):
    series = pydicom.uid.generate_uid()
    for number, axes in enumerate((AXIAL, SAGITTAL, CORONAL)):
        write_series(folder, stored_voxels(size=(1, 8, 10)), axes=axes, series=series, name=f"{number}")


def changed(change, **options):
    return lambda folder: write_series(folder, stored_voxels(), change=change, **options)


def without(*slices, of=8):
    def make(folder):
        for i, file in enumerate(write_series(folder, stored_voxels(size=(of, 8, 10)))):
            if i in slices:
                file.unlink()

    return make


def twice(element, values):
    """Two images at each place."""

    def make(folder):
        series = pydicom.uid.generate_uid()
        for number, value in enumerate(values):
            options = {} if element is None else {element: value}
            write_series(folder, stored_voxels(number), series=series, name=f"{number}_{{}}", **options)

    return make


def uneven(made, i):
    made.ImagePositionPatient = [0, 0, float(i**1.3)]


def tilted(made, i):
    made.ImagePositionPatient[1] += 0.4 * i


def jumping(made, i):
    made.ImagePositionPatient[0] += 3 * (i == 2)


def coloured(folder):
    for i in range(3):
        made = dataset("", "1.2.840.10008.5.1.4.1.1.7", series="1.2.3.9")
        set_pixels(made, np.full((8, 10, 3), i, np.uint8))
        save(made, folder / f"{i}.dcm")


def cut_off(folder, keep):
    files = write_series(folder, stored_voxels(size=(6, 64, 64)))
    content = files[-1].read_bytes()
    files[-1].write_bytes(content[: int(len(content) * keep)])


def cannot_be_decoded(folder):
    """The header says JPEG, the pixels are none."""
    for file in write_series(folder, stored_voxels(size=(6, 64, 64))):
        made = pydicom.dcmread(file)
        made.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
        made.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f" + b"no picture " * 20])
        made["PixelData"].is_undefined_length = True
        made.save_as(file)


def of_class(sop_class):
    return lambda folder: write_series(folder, stored_voxels(), sop_class=sop_class)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (localizer_of_three, "images of 3 orientations, as localizers have"),
        (changed(lambda made, i: setattr(made, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"])), "a localizer"),
        (without(3), r"1 of 8 slices are missing \(2.50 mm apart\)"),
        (without(6), "1 of 8 slices are missing"),
        (without(2, 3, 5), "3 of 8 slices are missing"),
        (changed(uneven), "slices at uneven distances"),
        (without(0, 1, 2, 4, 5, 6, 7), "a single image"),
        (twice("EchoTime", ["10", "80"]), r"2 images at each of 6 places \(echo time\)"),
        (twice("TemporalPositionIdentifier", ["1", "2", "3"]), r"3 images at each of 6 places \(temporal position\)"),
        (twice(None, [0, 0]), r"2 images at each of 6 places \(several times, echoes or copies\)"),
        (changed(tilted), r"shifted sideways by up to 2.0 mm \(gantry tilt of 9.1 degrees\)"),
        (changed(jumping), "shifted sideways by up to 3.0 mm"),
        (coloured, "colour images"),
        (lambda folder: cut_off(folder, 0.5), "files are cut off or damaged"),
        (lambda folder: cut_off(folder, 0.999), "files are cut off or damaged"),
        (cannot_be_decoded, "GDCM cannot decode|cut off, damaged"),
        (changed(lambda made, i: setattr(made, "NumberOfFrames", 2**31 - 1)), "give the place of every image"),
        (changed(lambda made, i: setattr(made, "PixelSpacing", [0.5, 0.5 + 0.1 * (i == 4)])), "several pixel spacings"),
        (changed(lambda made, i: set_pixels(made, np.zeros((8, 8 + i), np.int16))), "images of 6 sizes"),
        (changed(lambda made, i: delattr(made, "ImagePositionPatient") if i == 2 else None), "give the place of every"),
        (changed(lambda made, i: delattr(made, "ImageOrientationPatient")), "give the orientation of every image"),
        (changed(lambda made, i: delattr(made, "PixelSpacing")), "give the pixel spacing of every image"),
        (changed(lambda made, i: setattr(made, "ImageOrientationPatient", [1, 0, 0, 0.1, 1, 0])), "right angles"),
        (changed(lambda made, i: setattr(made, "PhotometricInterpretation", "MONOCHROME1")), "MONOCHROME1"),
        (
            changed(
                lambda made, i: delattr(made, "RescaleSlope") or delattr(made, "RescaleIntercept") if i == 2 else None,
                slope=(1, -1024),
            ),
            "some images have a rescale slope and intercept, others none",
        ),
        (changed(lambda made, i: setattr(made, "ModalityLUTSequence", item(ModalityLUTType="HU"))), "a modality LUT"),
        (
            lambda folder: write_series(folder, stored_voxels(), slope=(0, -1024)),
            "a rescale slope of 0 and an intercept of -1024",
        ),
        (changed(lambda made, i: None, slope=("1e300", 0)), "a rescale slope of 1e300"),
        (of_class("1.2.840.10008.5.1.4.1.1.66.4"), "a registration, segmentation or surface"),
        (of_class("1.2.840.10008.5.1.4.1.1.481.2"), "radiotherapy"),
    ],
)
def test_no_volume(tree, tmp_path, convert, make, reason):
    make(tree / "P2" / "odd")
    write_series(tree / "P1", stored_voxels())
    (volume,) = convert()
    assert volume.case == "P1"
    assert [one for one in reasons(tmp_path) if re.search(reason, one[1]) and one[0].startswith("P2/odd")]
    shutil.rmtree(tree / "P1")
    sentence = convert()
    assert re.search(reason, sentence) and "is a volume" in sentence and "dicom.json" in sentence


def test_other_files_are_named(tree, tmp_path, convert, caplog):
    write_series(tree / "P1", stored_voxels())
    (tree / "P1" / "notes.txt").write_text("x" * 300)
    (tree / "P1" / "empty").write_bytes(b"")
    (tree / "viewer").mkdir()
    (tree / "viewer" / "counts.bin").write_bytes(np.array([8, 4711] * 100, np.int32).tobytes())  # nearly a DICOM tag
    report = dataset("", "1.2.840.10008.5.1.4.1.1.88.11")
    save(report, tree / "P1" / "report")
    index = Path(pydicom.data.__file__).parent / "test_files" / "dicomdirtests" / "DICOMDIR"
    shutil.copy(index, tree / "DICOMDIR")
    with caplog.at_level("INFO", logger="nnunetv2_xssr"):
        (volume,) = convert()
    assert sorted(reasons(tmp_path)) == [
        ("P1", "a structured report"),
        ("P1", "not DICOM"),
        ("tree", "a DICOMDIR, an index of other files"),
        ("viewer", "not DICOM"),
    ]
    assert "1 DICOM series in 1 folders; 1 are converted, 0 of them before, and 0 set aside" in caplog.text
    assert "set aside: P1 (2 files: empty, notes.txt): not DICOM" in caplog.text


def test_copies_of_a_folder(tree, tmp_path, convert):
    write_series(tree / "P1", stored_voxels())
    shutil.copytree(tree / "P1", tree / "P1 copy")
    (volume,) = convert()
    assert volume.case == "P1"
    assert reasons(tmp_path) == [("P1 copy", "the same SOP Instance UID as in P1")]


# --- names and groups


def test_two_series_in_one_folder(tree, convert):
    one, two, three = (stored_voxels(seed) for seed in range(3))
    write_series(tree / "P1" / "CT", one, number=2, name="a{}")
    write_series(tree / "P1" / "CT", two, number=3, name="b{}", axes=SAGITTAL)
    write_series(tree / "P2" / "CT", three)
    volumes = {volume.case: volume for volume in convert()}
    assert list(volumes) == ["P1_CT_s2", "P1_CT_s3", "P2_CT"]
    check_volume(read(volumes["P1_CT_s2"]), one, AXIAL)
    check_volume(read(volumes["P1_CT_s3"]), two, SAGITTAL)
    check_volume(read(volumes["P2_CT"]), three, AXIAL)


def test_series_of_one_number_in_one_folder(tree, convert):
    for prefix in "ab":
        write_series(tree, stored_voxels(), number=1, name=f"{prefix}{{}}")
    names = [volume.case for volume in convert()]
    assert len(set(names)) == 2 and all(re.fullmatch("tree_s1_[0-9a-f]{6}", name) for name in names)


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        ((".",), ["tree"]),
        (("Müller, A/CT 1", "x/y/z"), ["Müller-A_CT-1", "x_y_z"]),
        (("a/b", "a_b"), ["a_b", "a_b_[0-9a-f]{6}"]),
        (("A", "b/../a"), ["A", "a_[0-9a-f]{6}"]),
        (("x" * 100 + "/" + "y" * 100,), ["x{100}_y{40}-[0-9a-f]{8}"]),
    ],
)
def test_names(tree, convert, folders, names):
    for folder in folders:
        write_series((tree / folder).resolve(), stored_voxels())
    found = [volume.case for volume in convert()]
    assert len(found) == len(names)
    assert all(re.fullmatch(name, one) for name, one in zip(names, found, strict=True)), found
    assert [volume.case for volume in convert()] == found


def test_a_series_keeps_its_name(tree, convert):
    write_series(tree / "P1", stored_voxels(), number=1, name="a{}")
    assert [volume.case for volume in convert()] == ["P1"]
    write_series(tree / "P1", stored_voxels(1), number=2, name="b{}")
    assert [volume.case for volume in convert()] == ["P1", "P1_s2"]


def test_groups_stand_for_patients(tree, convert):
    for folder, patient in (("a", "4711"), ("b", "4711"), ("c", "4712"), ("d", "")):
        write_series(tree / folder, stored_voxels(), patient=patient)
    known, other = (sha256(patient).hexdigest()[:12] for patient in (b"4711", b"4712"))
    assert [volume.group for volume in convert()] == [known, known, other, None]
    assert [volume.group for volume in convert(patient_ids=False)] == [None] * 4


def test_one_patient_of_all_series_is_no_group(tree, convert, caplog):
    """As anonymisation leaves them: with one group of all cases nothing could be trained and validated apart."""
    for folder in "abc":
        write_series(tree / folder, stored_voxels(), patient="ANON")
    with caplog.at_level(logging.INFO, "nnunetv2_xssr"):
        assert [volume.group for volume in convert()] == [None] * 3
    assert "all 3 volumes have one PatientID" in caplog.text


def test_patients_of_any_script(tree, convert):
    write_series(tree, stored_voxels(), patient="Größe-1", SpecificCharacterSet="ISO_IR 100")
    (volume,) = convert()
    assert re.fullmatch("[0-9a-f]{12}", volume.group)


def test_nothing_else_of_the_header_is_kept(tree, tmp_path, convert):
    write_series(tree / "x", stored_voxels(), patient="4711")
    write_frames(tree / "y.multi", stored_voxels(size=(4, 8, 10)), places(range(4)))
    for volume in convert():
        content = gzip.decompress(volume.image.read_bytes())
        assert not re.search(rb"(?i)doe|jane|4711|secret|1970|1\.2\.", content)
    text = (tmp_path / "out" / "dicom.json").read_text()
    assert not re.search(r"(?i)doe|jane|4711|secret|1970|1\.2\.", text)


# --- again, and interrupted


def written(tmp_path):
    return {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.nii.gz")}


def test_a_series_is_converted_once(tree, tmp_path, convert):
    write_series(tree / "a", stored_voxels())
    files = write_series(tree / "b", stored_voxels(1, size=(7, 8, 10)))
    late = files[-1].read_bytes()
    files[-1].unlink()
    first = convert()
    before = written(tmp_path)
    assert convert() == first and written(tmp_path) == before
    files[-1].write_bytes(late)  # the last slice came later
    (_, b) = convert()
    after = written(tmp_path)
    assert after["a_0000.nii.gz"] == before["a_0000.nii.gz"] and after["b_0000.nii.gz"] > before["b_0000.nii.gz"]
    check_volume(read(b), stored_voxels(1, size=(7, 8, 10)), AXIAL)


def test_a_series_that_was_written_anew_is_converted_again(tree, convert):
    """With the same names, UIDs and sizes, as after defacing or another reconstruction."""
    for file, pixels in zip(write_series(tree, stored_voxels()), stored_voxels(1), strict=True):
        convert()
        made = pydicom.dcmread(file)
        made.PixelData = pixels.tobytes()
        made.save_as(file)
    (volume,) = convert()
    check_volume(read(volume), stored_voxels(1), AXIAL)


def test_an_interrupted_conversion_goes_on(tree, tmp_path, convert, monkeypatch):
    for folder in "abc":
        write_series(tree / folder, stored_voxels())
    write, calls = sitk.WriteImage, []

    def stop_at_two(image, path, *rest):
        calls.append(path)
        write(image, path, *rest)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sitk, "WriteImage", stop_at_two)
        with pytest.raises(KeyboardInterrupt):
            convert_dicom(tree, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_0000.nii.gz", "dicom.json"]
    before = written(tmp_path)
    assert [volume.case for volume in convert()] == ["a", "b", "c"]
    assert written(tmp_path)["a_0000.nii.gz"] == before["a_0000.nii.gz"]


def test_two_conversions_write_the_same_bytes(tree, tmp_path):
    write_series(tree, stored_voxels())
    one, two = (convert_dicom(tree, tmp_path / name)[0].image.read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_record_of_a_newer_version(tree, tmp_path):
    write_series(tree, stored_voxels())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dicom.json").write_text('{"kind": "dicom_conversion", "format_version": 99}')
    with pytest.raises(UserError, match="upgrade"):
        convert_dicom(tree, tmp_path / "out")


def test_long_lists_are_cut_in_the_log_and_whole_in_the_record(tree, tmp_path, convert, caplog, monkeypatch):
    monkeypatch.setattr(dicom, "_MOST_LINES", 2)
    write_series(tree / "P", stored_voxels())
    for number in range(4):
        write_series(tree / str(number), stored_voxels(size=(1, 8, 10)))
    with caplog.at_level("INFO", logger="nnunetv2_xssr"):
        convert()
    assert caplog.text.count("a single image") == 2 and "set aside: 2 more" in caplog.text
    assert len(reasons(tmp_path)) == 4
