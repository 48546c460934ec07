"""Views: what the encoder sees of a case."""

import os
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from making import SOURCE, picture, volume, write_dataset_json, write_picture, write_volume

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images import views as views_module
from nnunetv2_xssr.images.extract import LEAST_VIEWS, VIEW_SIZE, Look, choose_slices, extract_views, extract_volume
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.reading import BrokenImage
from nnunetv2_xssr.images.scale import common_look
from nnunetv2_xssr.images.views import VIEWS_VERSION, prepare_views


def test_views_of_pictures(workspace):
    views = prepare_views(open_pool("2"))
    assert views.rows.shape == (10, 1, 1, VIEW_SIZE, VIEW_SIZE) and views.rows.dtype == np.float16
    assert views.channel_names == ("xray",) and views.broken == ()
    shown = np.asarray(views.rows, np.float32)
    assert np.abs(shown.mean(axis=(1, 2, 3, 4))).max() < 0.2  # z-scored
    assert shown.std(axis=(1, 2, 3, 4)) == pytest.approx(1, abs=0.3)


def body():
    """Two channels of a volume with noise, whose foreground lies in other slices of each; shape (2, 20, 300, 200)."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (20, 300, 200)), indexing="ij")
    inside = x**2 + y**2 + 2 * (z + 0.4) ** 2 < 0.6
    image = np.stack([np.where(inside, 40 + 300 * y, -1000), np.where(inside[::-1], 500 + 200 * x, 0)])
    return (image + np.random.default_rng(0).normal(0, 30, image.shape)).astype(np.float32)


def test_rules_have_their_version():
    """If you changed how views look, raise VIEWS_VERSION, so that no cache of older ones is used, and this digest."""
    views = *extract_views(body(), ("CT", "MRI"), 2).reshape(8, -1), *extract_volume(body(), ("CT", "MRI"))[0]
    digest = [(view.astype(float).mean(), view.astype(float).std()) for view in views]
    expected = [
        (0.208, 0.372),
        (0.113, 0.238),
        (0.068, 0.127),
        (-0.285, 0.206),
        (0.228, 0.385),
        (0.125, 0.249),
        (0.075, 0.132),
        (-0.285, 0.206),
        (0.018, 0.116),
        (0.01, 0.072),
        (0.006, 0.039),
        (-0.008, 0.084),
    ]
    assert VIEWS_VERSION == 7 and np.array(digest) == pytest.approx(np.array(expected), abs=1.5e-3)


def test_what_is_finer_than_a_pixel_of_a_view_is_averaged():
    """Of a pattern of single pixels no view shows waves that are not there."""
    y, x = np.mgrid[: 5 * VIEW_SIZE + 7, : 5 * VIEW_SIZE + 7]
    view = extract_views(((x + y) % 2).astype(np.float32)[None, None], ("MRI",), 1)
    assert np.abs(view.astype(np.float32)).max() < 0.3


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (lambda: setattr(views_module, "VIEWS_VERSION", 99), True),
        (lambda: setattr(views_module, "VIEW_SIZE", 64), True),
        (lambda: None, False),
    ],
)
def test_views_of_other_rules_are_not_taken_from_a_cache(workspace, monkeypatch, change, differs):
    for name in ("VIEWS_VERSION", "VIEW_SIZE"):
        monkeypatch.setattr(views_module, name, getattr(views_module, name))  # put back afterwards
    before = prepare_views(open_pool("2"))
    change()
    assert (prepare_views(open_pool("2")).cache != before.cache) == differs


@pytest.mark.parametrize(
    "change",
    [{"pixel": 0.5}, {"axis": "sagittal"}, {"views": 16}, {"window": (40.0, 400.0)}],
    ids=lambda one: [*one][0],
)
def test_views_of_another_look_are_not_taken_from_a_cache(empty, change):
    write_volume(empty.images("folder") / "a.nii.gz", 10 * volume(1, (16, 40, 40))[0])
    pool, look = open_pool(str(empty.images("folder"))), {"pixel": 1.0, "axis": "axial", "views": 8, "window": None}
    one, other = (prepare_views(pool, channel_names=("CT",), look=Look(**{**look, **more})) for more in ({}, change))
    assert other.cache != one.cache and not np.array_equal(other.rows, one.rows)
    for name, value in {**look, **change}.items():
        assert other.settings[name] == (list(value) if isinstance(value, tuple) else value)  # as encoders keep it


def test_views_by_another_reader_are_not_taken_from_a_cache(empty):
    """Readers turn volumes, each in its own way."""
    folder = empty.raw / "Dataset009_Readers"
    write_volume(folder / "imagesTr" / "v_0000.nii.gz", volume(1)[0])
    caches = set()
    for reader in ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"):
        write_dataset_json(folder, ending=".nii.gz", overwrite_image_reader_writer=reader)
        caches.add(prepare_views(open_pool("9")).cache)
    assert len(caches) == 3


def test_view_is_the_picture_scaled():
    """An image of the size of a view is only normalised; up and down are not exchanged."""
    image = picture(1, (VIEW_SIZE, VIEW_SIZE)).astype(np.float32)[None, None]
    view = extract_views(image, ("xray",), 1)[0, 0].astype(np.float32)
    expected = (image - image.mean()) / image.std()
    assert view == pytest.approx(expected[0, 0], abs=5e-3)


@pytest.mark.parametrize("size", [(40, 48), (300, 200), (5, 7)])
def test_every_size_becomes_a_view(size):
    rng = np.random.default_rng(0)
    view = extract_views(rng.normal(size=(2, 1, *size)).astype(np.float32), ("a", "b"), 1)
    assert view.shape == (1, 2, VIEW_SIZE, VIEW_SIZE) and np.isfinite(view).all()


def test_brightness_and_contrast_of_a_scanner_do_not_matter_but_hounsfield_units_do():
    image = volume(1)[0][None] + 50
    mri = [extract_views(one, ("MRI",), 2).astype(float) for one in (image, 3 * image + 7)]
    assert mri[1] == pytest.approx(mri[0], abs=5e-3)
    ct = [extract_views(one, ("CT",), 2).astype(float) for one in (image, image + 100)]
    assert np.abs(ct[1] - ct[0])[:, 1].mean() > 0.1  # soft tissue
    assert extract_views(image + 5000, ("CT",), 2).max() == 1  # the window ends


def test_image_is_not_changed_by_its_normalisation():
    image = volume(1)[0][None]
    before = image.copy()
    extract_views(image, ("CT",), 4)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_slices_lie_evenly_inside_the_foreground(n):
    body = np.ones((1, 60, 10, 10), np.float32)
    body[0, 20:44, 2:8, 2:8] = 9
    slices = choose_slices(body, n).places
    assert slices.shape == (n,)
    assert slices.min() >= 20 and slices.max() <= 43
    assert np.ptp(np.diff(slices)) <= 1 if n > 1 else True
    assert slices.mean() == pytest.approx(31.5, abs=1.0)


@pytest.mark.parametrize(
    ("slices", "spacing", "rows", "distinct"),
    [
        (40, 1.0, 32, 8),  # 40 mm: not fewer than eight
        (5, 5.0, 32, 5),  # no more than there are
        (100, 1.0, 32, 12),  # every 8 mm
        (50, 2.0, 16, 12),
        (100, 1.0, 8, 8),  # as many as the pool has rows
        (600, 1.0, 32, 32),
    ],
)
def test_a_slice_every_eight_millimetres(slices, spacing, rows, distinct):
    geometry = Geometry((spacing, 1.0, 1.0))
    body = np.ones((1, slices, 4, 4), np.float32) + (np.indices((4, 4)).sum(axis=0) == 2)
    chosen = choose_slices(body, rows, geometry=geometry)
    assert len(chosen.places) == rows and len(set(chosen.places.tolist())) == distinct
    apart = np.diff(np.unique(chosen.places)) * spacing
    assert np.ptp(apart) <= spacing
    assert np.ptp(np.bincount(chosen.places)[np.unique(chosen.places)]) <= 1  # repeated evenly


def test_views_of_a_volume_show_its_slices():
    image = volume(2, (16, 128, 128))[0]
    views = extract_views(image[None], ("MRI",), LEAST_VIEWS)
    assert views.shape == (LEAST_VIEWS, 1, VIEW_SIZE, VIEW_SIZE)
    scaled = (image - image.mean()) / image.std()
    for view, z in zip(views, choose_slices(image[None], LEAST_VIEWS).places, strict=True):
        assert view[0].astype(float) == pytest.approx(scaled[z], rel=1e-3, abs=5e-3)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("flat", ["a", "c", "abc"])
@pytest.mark.parametrize("dim", [2, 3])
def test_volumes_are_volumes_wherever_flat_cases_lie(empty, monkeypatch, ending, flat, dim):
    images = {name: volume(i, (1 if name in flat else 16, 20, 20))[0] for i, name in enumerate("abc")}
    for name, image in images.items():
        write_volume(empty.images("folder") / f"{name}{ending}", image)
    pool = open_pool(str(empty.images("folder")))
    read, original = [], views_module.read_image
    monkeypatch.setattr(views_module, "read_image", lambda case, reader: read.append(case) or original(case, reader))
    if flat == "abc":
        if dim == 3:
            with pytest.raises(UserError, match="--dim 3 needs volumes"):
                prepare_views(pool, channel_names=("MRI",), dim=dim)
        else:
            assert prepare_views(pool, channel_names=("MRI",)).rows.shape[:2] == (3, 1)
        return
    views = prepare_views(pool, channel_names=("MRI",), dim=dim)
    assert [case.identifier for case in read] == ["a", "b", "c"]  # each once
    for name, rows in zip("abc", views.rows, strict=True):
        image = images[name][None]
        expected = extract_volume(image, ("MRI",)) if dim == 3 else extract_views(image, ("MRI",), LEAST_VIEWS)
        assert np.array_equal(rows, expected)
    if dim == 2:
        shown = views.rows["abc".index(flat)]
        assert shown.shape[0] == LEAST_VIEWS and (shown == shown[:1]).all()  # its slice in every view


def test_pool_of_pictures_that_gets_a_volume(empty):
    """What was read as one view each is read again as several."""
    for i in range(3):
        write_volume(empty.images("folder") / f"{i}.nii.gz", volume(i, (1, 20, 20))[0])
    assert prepare_views(open_pool(str(empty.images("folder")))).rows.shape[:2] == (3, 1)
    write_volume(empty.images("folder") / "9.nii.gz", volume(9)[0])
    views = prepare_views(open_pool(str(empty.images("folder"))))
    assert views.rows.shape[:2] == (4, LEAST_VIEWS) and np.isfinite(views.rows).all()


def test_nothing_is_read_twice(workspace, monkeypatch):
    expected = np.array(prepare_views(open_pool("2")).rows)
    read, original = [], views_module.read_image
    monkeypatch.setattr(views_module, "read_image", lambda case, reader: read.append(case) or original(case, reader))
    again = prepare_views(open_pool("2"))
    assert read == []
    assert np.array_equal(again.rows, expected)


def test_broken_case_is_never_replaced_by_another(workspace):
    file = workspace.images() / "t_04_0000.png"
    file.write_bytes(b"")
    with pytest.raises(BrokenImage, match="t_04"):
        prepare_views(open_pool("2"))
    views = prepare_views(open_pool("2"), skip_broken=True)
    assert views.pool.identifiers == [f"t_{i:02d}" for i in range(10) if i != 4]
    assert len(views.rows) == 9 and len(views.hashes) == 9
    assert len(views.broken) == 1 and "t_04" in views.broken[0]
    write_picture(file, picture(5))
    fixed = prepare_views(open_pool("2"))
    assert len(fixed.pool) == 10 and fixed.broken == ()
    kept = [i for i in range(10) if i != 4]
    assert np.array_equal(np.array(fixed.rows)[kept], np.array(views.rows))


def test_changed_picture_is_read_again(workspace):
    before = np.array(prepare_views(open_pool("2")).rows)
    write_picture(workspace.images() / "t_02_0000.png", picture(321))
    after = np.array(prepare_views(open_pool("2")).rows)
    assert [i for i in range(10) if not np.array_equal(before[i], after[i])] == [2]


def test_a_picture_that_changes_while_it_is_read_is_not_kept_as_the_old_one(workspace, monkeypatch):
    """Else the views of the new one would be those of the old one, once that is put back."""
    read, path = views_module.read_image, workspace.images() / "t_03_0000.png"
    old, stat = path.read_bytes(), path.stat()

    def changed(case, reader):
        if case.identifier == "t_03":
            write_picture(path, picture(999, size=(50, 50)))
        return read(case, reader)

    shutil.rmtree(workspace.preprocessed)
    monkeypatch.setattr(views_module, "read_image", changed)
    with pytest.raises(UserError, match="case t_03: .*t_03_0000.png has changed while it was read"):
        prepare_views(open_pool("2"))
    monkeypatch.setattr(views_module, "read_image", read)
    path.write_bytes(old)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    kept = np.array(prepare_views(open_pool("2")).rows)
    shutil.rmtree(workspace.preprocessed)
    np.testing.assert_array_equal(kept, prepare_views(open_pool("2")).rows)


def test_rgb_out_of_range_names_the_case(empty):
    folder = empty.raw / "Dataset008_Rgb"
    write_volume(folder / "imagesTr" / "v_0_0000.nii.gz", 1000 * volume(1)[0])
    write_dataset_json(folder, ending=".nii.gz", channel_names={"0": "rgb_to_0_1"})
    with pytest.raises(BrokenImage, match="case v_0.*does not fit its normalisation"):
        prepare_views(open_pool("8"))


def test_rgb_in_range_is_divided():
    image = picture(1, (VIEW_SIZE, VIEW_SIZE)).astype(np.float32)[None, None]
    view = extract_views(image, ("rgb_to_0_1",), 1)[0, 0].astype(np.float32)
    assert view == pytest.approx(image[0, 0] / 255, abs=1e-3)


def test_folder_takes_the_channel_names_of_the_target(workspace):
    folder = open_pool(str(workspace.images(SOURCE)))
    assert prepare_views(folder, channel_names=("CT",)).settings["normalisation"] == ["CTNormalization"]
    assert prepare_views(folder).settings["normalisation"] == ["ZScoreNormalization"]


def test_pictures_that_tell_no_size_are_fitted_whatever_the_scale_of_others(workspace):
    """An encoder of volumes has a scale in millimetres, which a .png does not."""
    fitted, scaled = (prepare_views(open_pool("2"), look=look) for look in (None, Look(pixel=7.0)))
    assert np.array_equal(scaled.rows, fitted.rows)
    assert common_look([open_pool("2")], dim=2) == Look()


@pytest.mark.parametrize("spacing", [1.0, 4e-4, 4e-9])  # millimetres; of an electron microscope in metres
def test_the_median_case_of_a_pool_fills_its_view(empty, spacing):
    empty.images("folder").mkdir(parents=True)
    for i, size in enumerate((30, 40, 44)):
        image = sitk.GetImageFromArray(volume(i, (9, size, 20))[0])
        image.SetSpacing([spacing] * 3)
        sitk.WriteImage(image, str(empty.images("folder") / f"{i}.nii.gz"))
    pool = open_pool(str(empty.images("folder")))
    look = common_look([pool], dim=2)
    assert 1 <= look.pixel * VIEW_SIZE / (40 * spacing) < 1.11  # rounded up
    assert common_look([pool], dim=3) == Look()
