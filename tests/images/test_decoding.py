"""Images as stored are what nnU-Net's readers read, of every kind of file, and what is damaged is never read."""

import gzip
import json
from itertools import product

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from imagecodecs import png_encode
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from PIL import Image

from nnunetv2_xssr.images.decoding import decode, told_by_header
from nnunetv2_xssr.images.pools import Case
from nnunetv2_xssr.images.reading import BrokenImage, read_image

NIFTI_READERS = [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient]
KEPT = ["uint8", "int8", "uint16", "int16", "float32"]
TYPES = [*KEPT, "uint32", "int32", "float64", "int64", ">i2", ">f4", ">u4"]
RNG = np.random.default_rng(0)


def nifti(path, voxels, *, affine=None, scale=None, version=1):
    """Write voxels of shape (x, y, z) in their own type; scale is written into the header as it is."""
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    header = kind.header_class(endianness=">" if voxels.dtype.str[0] == ">" else "<")
    header.set_data_dtype(voxels.dtype)
    turned = np.array([[0, -1.5, 0, 7], [0, 0, 2, -3], [-0.7, 0, 0, 11], [0, 0, 0, 1]])
    image = kind(voxels, turned if affine is None else affine, header)
    nibabel.save(image, path)
    if scale is not None:
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "rb") as file:
            content = bytearray(file.read())
        content[112:120] = np.array(scale, header.endianness + "f4").tobytes()
        with opener(path, "wb") as file:
            file.write(content)
    return path


def voxels(dtype="int16", shape=(7, 6, 5)):
    return RNG.integers(0, 120, shape).astype(dtype)


def read(reader, *files):
    return read_image(Case(identifier="a", files=files), reader())


def same(ours, theirs):
    """Compare properties, whose values are arrays, tuples and numbers."""
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if isinstance(value, dict):
            same(value, theirs[key])
        else:
            assert type(value) is type(theirs[key]) and np.array_equal(value, theirs[key]), key


def check(reader, *files, dtype=None):
    """The same array and properties as the reader's, of this type if it is decoded here."""
    image, properties = read(reader, *files)
    theirs, of_theirs = reader().read_images([str(file) for file in files])
    assert np.array_equal(image.astype(np.float32), theirs)
    same(properties, of_theirs)
    decoded = decode(files, reader())
    assert (None if decoded is None else decoded[0].dtype.name) == dtype
    return image


def kept(dtype):
    return dtype if dtype in KEPT else {">i2": "int16"}.get(dtype, "float32")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_of_every_type(tmp_path, reader, dtype, ending):
    file = nifti(tmp_path / f"a{ending}", voxels(dtype))
    check(reader, file, dtype=None if dtype == "int64" or reader is SimpleITKIOWithReorient else kept(dtype))


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, NibabelIOWithReorient])
@pytest.mark.parametrize(
    ("scale", "decoded"),
    [
        ((1, 0), "int16"),
        ((np.nan, 0), "int16"),
        ((0, 0), "int16"),
        ((0.37, -12.3), "float32"),
        ((-2, 3), "float32"),
        ((1, -1024), "float32"),
        ((0, 5), None),  # ITK adds 5, nibabel does not
        ((np.nan, np.nan), None),
    ],
)
def test_nifti_of_every_scale(tmp_path, reader, scale, decoded):
    check(reader, nifti(tmp_path / "a.nii.gz", voxels(), scale=scale), dtype=decoded)
    if decoded == "float32":
        check(reader, nifti(tmp_path / "a.nii.gz", voxels("int32"), scale=scale), dtype=None)


@pytest.mark.parametrize(
    ("reader", "version"),
    [*((reader, 1) for reader in NIFTI_READERS), (NibabelIO, 2), (NibabelIOWithReorient, 2)],  # ITK does not know 2
)
@pytest.mark.parametrize("orientation", ["RAS", "LPI", "ASR", "PIL", "SLP"])
def test_nifti_of_every_orientation(tmp_path, reader, orientation, version):
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    affine[:3, 3] = 4, 5, 6
    image = nibabel.Nifti1Image(voxels(), affine)
    turned = image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(orientation)))
    file = nifti(tmp_path / "a.nii.gz", np.asarray(turned.dataobj), affine=turned.affine, version=version)
    check(reader, file, dtype=None if reader is SimpleITKIOWithReorient else "int16")


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SAL", "PIR"])
@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, NibabelIOWithReorient])
def test_headers_tell_what_reading_tells(tmp_path, reader, orientation):
    turn = ornt_transform(io_orientation(np.eye(4)), axcodes2ornt(orientation))
    file = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels(), np.diag([0.7, 1.5, 2.5, 1])).as_reoriented(turn), file)
    image, properties = reader().read_images([str(file)])
    shape, told = told_by_header([file], reader())
    assert shape == image.shape[1:]
    same(told, properties)


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, NibabelIOWithReorient])
@pytest.mark.parametrize("dtypes", [("int16",) * 3, ("int16", "uint8"), ("float32", "float64")])
def test_channels_in_several_files(tmp_path, reader, dtypes):
    files = [nifti(tmp_path / f"a_{i:04d}.nii.gz", voxels(dtype)) for i, dtype in enumerate(dtypes)]
    check(reader, *files, dtype=kept(dtypes[0]) if len({kept(dtype) for dtype in dtypes}) == 1 else None)


@pytest.mark.parametrize("reader", NIFTI_READERS)
def test_channels_that_do_not_lie_on_each_other(tmp_path, reader, capsys):
    files = [nifti(tmp_path / "a_0000.nii.gz", voxels()), nifti(tmp_path / "a_0001.nii.gz", voxels(shape=(7, 6, 4)))]
    with pytest.raises(BrokenImage, match="case a"):
        read(reader, *files)
    moved = np.diag([1.0, 1.0, 1.0, 1.0])
    moved[0, 3] = 2
    files = [nifti(tmp_path / f"a_{i:04d}.nii.gz", voxels(), affine=a) for i, a in enumerate((np.eye(4), moved))]
    check(reader, *files)  # nnU-Net only warns


@pytest.mark.parametrize("shape", [(7, 6), (7, 6, 1), (1, 6, 7), (7, 6, 5, 1), (7, 6, 5, 2)])
def test_nifti_of_other_dimensions(tmp_path, shape):
    file = nifti(tmp_path / "a.nii.gz", voxels(shape=shape), affine=np.diag([1.5, 2, 3, 1]))
    check(SimpleITKIO, file, dtype="int16" if len(shape) < 4 else None)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [*KEPT, "float64", "int32"])
@pytest.mark.parametrize("shape", [(5, 6, 7), (6, 7)])
def test_other_formats_of_itk(tmp_path, ending, dtype, shape):
    files = []
    for i in range(2):
        image = sitk.GetImageFromArray(voxels(dtype, shape))
        image.SetSpacing([0.5, 0.7, 3.0][: len(shape)])
        files.append(tmp_path / f"a_{i:04d}{ending}")
        sitk.WriteImage(image, str(files[-1]), True)
    check(SimpleITKIO, files[0], dtype=kept(dtype))
    check(SimpleITKIO, *files, dtype=kept(dtype))


def test_an_image_of_itk_stays_as_long_as_its_array(tmp_path):
    file = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(voxels(shape=(99, 99, 99))), str(file))
    image, _ = read(SimpleITKIO, file)
    before = image.copy()
    others = [np.full(image.shape, 7, np.int16) for _ in range(20)]
    assert np.array_equal(image, before) and len(others) == 20


@pytest.mark.parametrize(
    ("mode", "size"),
    [("L", ()), ("RGB", (3,)), ("RGBA", (4,)), ("I;16", ())],
)
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_pictures(tmp_path, mode, size, ending):
    dtype = "uint16" if mode == "I;16" else "uint8"
    pixels = RNG.integers(0, 255, (30, 40, *size)).astype(dtype)
    files = [tmp_path / f"a_{i:04d}{ending}" for i in range(2)]
    for i, file in enumerate(files):
        Image.fromarray(np.roll(pixels, i, axis=0)).save(file)
    image = check(NaturalImage2DIO, files[0], dtype=dtype)
    assert np.array_equal(image[:, 0], np.moveaxis(pixels[..., None] if not size else pixels, 2, 0))
    check(NaturalImage2DIO, *files, dtype=dtype)


@pytest.mark.parametrize("mode", ["1", "P", "RGB with one transparent colour", "P with transparency"])
def test_pictures_of_odd_kinds(tmp_path, mode):
    picture = Image.fromarray(RNG.integers(0, 255, (30, 40, 3)).astype(np.uint8))
    more = {"transparency": 3 if mode[0] == "P" else (1, 2, 3)} if "transparen" in mode else {}
    picture = picture.convert("P") if mode[0] == "P" else picture.convert("1") if mode == "1" else picture
    picture.save(tmp_path / "a.png", **more)
    check(NaturalImage2DIO, tmp_path / "a.png", dtype="float32" if mode == "1" else "uint8")


@pytest.mark.parametrize("shape", [(30, 40, 3), (30, 40, 4), (30, 40)])
def test_pictures_of_16_bits_are_what_nnunet_reads(tmp_path, shape):
    """Of colours Pillow, by which nnU-Net reads, keeps 8 bits, so that they may be called ``rgb_to_0_1``."""
    (tmp_path / "a.png").write_bytes(png_encode(RNG.integers(0, 65535, shape).astype(np.uint16)))
    check(NaturalImage2DIO, tmp_path / "a.png", dtype="uint8" if len(shape) > 2 else "uint16")


def saved_png(file, size=(90, 120, 3), **more):
    Image.fromarray(RNG.integers(0, 255, size).astype(np.uint8)).save(file, **more)
    return file.read_bytes()


@pytest.mark.parametrize("length", [4, 20, 40, 60, 0.25, 0.5, -40, -17])
def test_a_picture_that_is_cut_off_is_refused(tmp_path, length):
    content = saved_png(tmp_path / "a.png")
    end = int(length * len(content)) if 0 < length < 1 else length
    (tmp_path / "a.png").write_bytes(content[:end])
    with pytest.raises(BrokenImage, match="cannot be read"):
        read(NaturalImage2DIO, tmp_path / "a.png")


@pytest.mark.parametrize("place", [20, 0.1, 0.5, 0.9, -20])
def test_a_picture_with_another_byte_is_refused(tmp_path, place):
    content = bytearray(saved_png(tmp_path / "a.png"))
    content[int(place * len(content)) if 0 < place < 1 else place] ^= 4
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BrokenImage, match="cannot be read"):
        read(NaturalImage2DIO, tmp_path / "a.png")


def test_several_pictures_in_one_file_are_refused_as_nnunet_does(tmp_path):
    picture = Image.fromarray(RNG.integers(0, 255, (30, 40, 3)).astype(np.uint8))
    picture.save(tmp_path / "a.png", save_all=True, append_images=[picture.rotate(90)])
    try:
        theirs, _ = NaturalImage2DIO().read_images([str(tmp_path / "a.png")])
    except Exception:  # nnU-Net's own error is of any kind
        with pytest.raises(BrokenImage, match="cannot be read"):
            read(NaturalImage2DIO, tmp_path / "a.png")
    else:  # older versions of scikit-image take the first picture
        assert np.array_equal(read(NaturalImage2DIO, tmp_path / "a.png")[0], theirs)


def test_picture_with_two_channels_is_refused(tmp_path):
    Image.fromarray(RNG.integers(0, 255, (30, 40, 2)).astype(np.uint8), mode="LA").save(tmp_path / "a.png")
    with pytest.raises(BrokenImage, match="3 or 4"):
        read(NaturalImage2DIO, tmp_path / "a.png")


def test_stacks_in_tif(tmp_path):
    tifffile.imwrite(tmp_path / "a_0000.tif", voxels("uint8"))
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [3, 1, 1]}))
    check(Tiff3DIO, tmp_path / "a_0000.tif")


class Doubling(NibabelIO):
    """Somebody's own reader."""

    def read_images(self, image_fnames):
        image, properties = super().read_images(image_fnames)
        return 2 * image, properties


def test_readers_of_others_are_asked(tmp_path):
    file = nifti(tmp_path / "a.nii.gz", voxels())
    assert np.array_equal(check(Doubling, file), 2.0 * read(NibabelIO, file)[0])


# ------------------------------------------------------------------------------------------------------------- damage
def damaged(content, how):
    return {
        "half": content[: len(content) // 2],
        "without its last bytes": content[:-9],
        "without its length": content[:-2],
        "other bytes": content[: len(content) // 2] + b"\x55" * 7 + content[len(content) // 2 + 7 :],
        "other check sum": content[:-8] + b"abcd" + content[-4:],
        "header only": content[:300],
        "empty": b"",
    }[how]


@pytest.mark.parametrize(
    ("reader", "how"),
    [
        *product(NIFTI_READERS, ["half", "empty"]),
        *product(
            [SimpleITKIO, NibabelIO, NibabelIOWithReorient],  # of others nibabel reads no farther than the voxels
            ["without its last bytes", "without its length", "other bytes", "other check sum"],
        ),
    ],
)
@pytest.mark.parametrize("dtype", ["int16", "float64"])
def test_damaged_nii_gz(tmp_path, reader, dtype, how):
    file = nifti(tmp_path / "a.nii.gz", voxels(dtype, (40, 50, 60)))
    file.write_bytes(damaged(file.read_bytes(), how))
    with pytest.raises(BrokenImage, match="cannot be read"):
        read(reader, file)


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("how", ["half", "without its last bytes", "without its length", "header only", "empty"])
def test_damaged_nii(tmp_path, reader, how):
    file = nifti(tmp_path / "a.nii", voxels(shape=(40, 50, 60)))
    file.write_bytes(damaged(file.read_bytes(), how))
    with pytest.raises(BrokenImage, match="cannot be read"):
        read(reader, file)


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
def test_what_follows_the_voxels_does_not_matter(tmp_path, reader):
    for name, more in (("a.nii", b"notes"), ("b.nii.gz", bytes(99)), ("c.nii.gz", gzip.compress(b"notes"))):
        file = nifti(tmp_path / name, voxels())
        file.write_bytes(file.read_bytes() + more)
        check(reader, file, dtype="int16")


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_not_a_number(tmp_path, reader, value, dtype, ending):
    content = voxels(dtype)
    content[-1, -1, -1] = value
    with pytest.raises(BrokenImage, match="holds NaN or infinity"):
        read(reader, nifti(tmp_path / f"a{ending}", content))


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_not_a_number_in_other_formats(tmp_path, ending):
    content = voxels("float32")
    content[2, 2, 2] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(content), str(tmp_path / f"a{ending}"))
    with pytest.raises(BrokenImage, match="holds NaN or infinity"):
        read(SimpleITKIO, tmp_path / f"a{ending}")


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_one_value_only(tmp_path, ending, dtype):
    flat = np.full((5, 6, 7), 3, dtype)
    file = tmp_path / f"a{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(flat), str(file))
    with pytest.raises(BrokenImage, match="constant .every value is 3"):
        read(SimpleITKIO, file)
    flat[-1, -1, -1] = 4
    sitk.WriteImage(sitk.GetImageFromArray(flat), str(file))
    check(SimpleITKIO, file, dtype=dtype)
