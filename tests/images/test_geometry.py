"""One anatomy, however its file is stored, gives one view; a slice is found again in its file."""

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_xssr.images.extract import Look, choose_slices, extract_views
from nnunetv2_xssr.images.geometry import Geometry, display, stored_orientation
from nnunetv2_xssr.images.pools import Case
from nnunetv2_xssr.images.reading import read_image


def body(size=(12, 20, 24)):
    """An image without any symmetry in LPS order (inferior-superior, anterior-posterior, right-left)."""
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in size), indexing="ij")
    inside = (z - 0.5) ** 2 + (y - 0.5) ** 2 + (x - 0.5) ** 2 < 0.2
    return np.where(inside, 100 + 60 * z + 30 * y + 10 * x, 0).astype(np.float32)


def stored(array, spacing, axes, flips):
    """The image as a file with other axes and directions would hold it, read back as nnU-Net's reader reads it."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    letter = {0: "RL", 1: "AP", 2: "IS"}
    code = "".join(letter[axis][::-1][flip] for axis, flip in zip(axes, flips, strict=True))
    turned = sitk.DICOMOrient(image, code)
    stuff = {"spacing": turned.GetSpacing(), "origin": turned.GetOrigin(), "direction": turned.GetDirection()}
    return sitk.GetArrayFromImage(turned)[None], {"sitk_stuff": stuff, "spacing": list(turned.GetSpacing())[::-1]}


STORED = [(axes, flips) for axes in permutations(range(3)) for flips in product((0, 1), repeat=3)]


@pytest.mark.parametrize("axes, flips", STORED)
def test_every_storage_gives_the_same_canonical_image(axes, flips):
    array, spacing = body(), (3.0, 1.0, 2.0)
    image, properties = stored(array, spacing, axes, flips)
    geometry = Geometry.of(properties)
    assert np.array_equal(geometry.canonical(image)[0], array)
    assert np.allclose(geometry.canonical_spacing, spacing)


@pytest.mark.parametrize("axes, flips", STORED[::5])
@pytest.mark.parametrize("axis", range(3))
def test_a_slice_is_found_again_in_its_file(axes, flips, axis):
    array = body()
    image, properties = stored(array, (1.0, 1.0, 1.0), axes, flips)
    geometry = Geometry.of(properties)
    for index in (0, 3, array.shape[axis] - 1):
        if axis == geometry.stored:
            place = geometry.in_file(np.array([index]), array.shape[axis])[0]
            found = geometry.along_third(image[0])[place]
            assert sorted(found.ravel()) == sorted(np.take(array, index, axis=axis).ravel())


@pytest.mark.parametrize("axes, flips", STORED[::7])
def test_views_do_not_depend_on_the_storage(axes, flips):
    array, spacing = body(), (3.0, 1.0, 1.0)
    expected = extract_views(array[None], ("T1",), 4, geometry=Geometry(spacing, known=True), look=Look(pixel=0.25))
    image, properties = stored(array, spacing, axes, flips)
    views = extract_views(image, ("T1",), 4, geometry=Geometry.of(properties), look=Look(pixel=0.25))
    assert np.array_equal(views, expected)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("code", ["RAS", "RPS", "LAS", "PLS", "ALS", "PRS", "ARS"])
def test_flat_files_are_turned_as_volumes_are(tmp_path, code, ending):
    """As slices are that somebody has taken out of volumes."""
    image = sitk.GetImageFromArray(body()[5:6])
    image.SetSpacing((1.0, 2.0, 3.0))
    seen = []
    for number, stored_as in enumerate(("LPS", code)):
        case = Case(identifier="flat", files=(tmp_path / f"{number}{ending}",))
        sitk.WriteImage(sitk.DICOMOrient(image, stored_as)[:, :, 0], str(case.files[0]))
        array, properties = read_image(case, SimpleITKIO())
        geometry = Geometry.of(properties)
        seen.append(extract_views(array, ("T1",), 1, geometry=geometry, look=Look(pixel=0.5)))
        assert not geometry.known and stored_orientation(properties) is None
    assert np.array_equal(*seen)


@pytest.mark.parametrize("axis", range(3))
def test_slices_lie_along_the_axis_of_acquisition(axis):
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 4.0
    geometry = Geometry(tuple(spacing), known=True)
    assert geometry.acquired == axis
    assert choose_slices(body()[None], 3, geometry=geometry).axis == axis
    assert Geometry(tuple(spacing)).acquired == 0  # a file that tells no directions is left as it is


def test_nearly_isotropic_volumes_are_axial():
    assert Geometry((1.0, 1.1, 1.0), known=True).acquired == 0


def test_pictures_are_shown_as_radiologists_look_at_them():
    up, back, left = np.meshgrid(range(4), range(5), range(6), indexing="ij")
    for axis, row_part, column_part in ((0, back, left), (1, -up, left), (2, -up, back)):
        rows, columns = (display(np.take(part, 0, axis), axis) for part in (row_part, column_part))
        assert (np.diff(rows, axis=0) > 0).all() and (np.diff(columns, axis=1) > 0).all()


def test_nibabel_readers_tell_the_same_geometry(tmp_path):
    import nibabel
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    affine = np.array([[0, 0, -2.0, 5], [-1.0, 0, 0, 7], [0, 3.0, 0, -4], [0, 0, 0, 1]])
    file = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(body().T, affine), file)
    third = np.moveaxis(body().T, 2, 0)  # the slices of the file
    seen = []
    for reader in (SimpleITKIO(), NibabelIO(), NibabelIOWithReorient()):
        image, properties = reader.read_images([str(file)])
        geometry = Geometry.of(properties)
        seen.append((geometry.canonical(image), geometry.canonical_spacing))
        for place, slice_ in enumerate(third):
            assert sorted(geometry.along_third(image[0])[place].ravel()) == sorted(slice_.ravel())
        where = geometry.in_file(np.arange(len(third)), len(third))
        canonical = np.moveaxis(geometry.canonical(image)[0], geometry.stored, 0)
        assert all(sorted(canonical[i].ravel()) == sorted(third[k].ravel()) for i, k in enumerate(where))
    for image, spacing in seen[1:]:
        assert np.array_equal(image, seen[0][0]) and np.allclose(spacing, seen[0][1])
