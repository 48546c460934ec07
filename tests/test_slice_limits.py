"""Where candidate slices lie: every so many millimetres, in a share of a file, a range per case, a region."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from making import fails, prepared, read_worklist, succeeds, write_dataset_json
from slicing import CASES, SELECT, VOLUMES, draw, labels, picks, run, save, sliced

from nnunetv2_xssr.commands import collect, select
from nnunetv2_xssr.encoders.mae import load_encoder
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images import reading, views
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.images.regions import Regions

LONG = (300, 12, 12)  # slices of 2 mm: 600 mm


def body(seed, shape=LONG):
    """Noise in a body that fills most of a volume."""
    image = np.random.default_rng(seed).normal(0, 5, shape)
    image[4:-4, 2:-2, 2:-2] += 100
    return image.astype(np.float32)


def write_mask(path, inside, shape=LONG, **geometry):
    mask = np.zeros(shape, np.uint8)
    mask[inside, 4:8, 4:8] = 1
    save(path, mask)
    if geometry:
        image = sitk.ReadImage(str(path))
        for name, value in geometry.items():
            getattr(image, name)(value)
        sitk.WriteImage(image, str(path))


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """Three long scans and a short one, whose slices have taught an encoder."""
    with prepared(tmp_path_factory.mktemp("scans")) as workspace:
        for i, case in enumerate(CASES[:4]):
            save(workspace.images(VOLUMES) / f"{case}_0000.nii.gz", body(i, LONG if i else (30, 12, 12)))
        write_dataset_json(workspace.raw / VOLUMES, ".nii.gz", channel_names={"0": "T1"}, numTraining=0, dataset={})
        assert select.main([*SELECT, "-b", "2"]) == 0
    return workspace


@pytest.fixture
def scans(ready, empty):
    """The same before a selection."""
    shutil.copytree(ready.images(VOLUMES).parent, empty.raw / VOLUMES, ignore=shutil.ignore_patterns("annotate"))
    shutil.copytree(ready.results, empty.results, dirs_exist_ok=True)
    return empty


def places(regions=None):
    found = sliced(dataset_pool(VOLUMES), regions=regions)
    return {case: list(facts.candidates) for case, facts in found.facts.items()}


def test_two_masks_of_a_case(scans):
    roi = scans.root / "roi"
    for name in ("v_0.nii.gz", "v_1.nii.gz", "v_2.nii.gz", "v_3.nii.gz", "v_3.nii"):
        write_mask(roi / name, [100])
    with pytest.raises(UserError, match=r"v_3\.nii\.gz and v_3\.nii beside it"):
        Regions.of(dataset_pool(VOLUMES), slice_range=None, roi=roi)


def test_long_scans_get_more_candidates(scans):
    found = places()
    assert {case: len(of_case) for case, of_case in found.items()} == {"v_0": 8, "v_1": 32, "v_2": 32, "v_3": 32}
    # What a volume gets does not depend on the others of its pool.
    for case in CASES[1:4]:
        (scans.images(VOLUMES) / f"{case}_0000.nii.gz").unlink()
    assert places() == {"v_0": found["v_0"]}


def test_whole_scans_get_more_views_too_and_the_encoder_decides_for_all(scans, capsys):
    scans.encoder(VOLUMES).unlink()
    succeeds(capsys, select.main, ["-d", "31", "-b", "2", "-device", "cpu"])
    index = next((scans.preprocessed / VOLUMES / "xssr" / "caches" / "views").glob("index_*.json"))
    assert json.loads(index.read_text())["settings"]["views"] == 32
    assert load_encoder(scans.encoder(VOLUMES), device="cpu").look.views == 32
    before = scans.results_of_select(VOLUMES)
    succeeds(capsys, select.main, ["-d", "31", "-b", "2", "-device", "cpu"])
    assert scans.results_of_select(VOLUMES) == before


def test_no_volume_is_read_for_its_places_again(scans, capsys, monkeypatch):
    run(capsys, budget="2")
    before, read = scans.results_of_select(VOLUMES), []
    draw(scans, *(pick.case for pick in picks(scans)))
    for module in (views, reading):
        monkeypatch.setattr(module, "read_image", lambda case, reader: read.append(case))
    run(capsys, budget="2")
    assert scans.results_of_select(VOLUMES) == before and read == []
    succeeds(capsys, collect.main, ["-d", "31"])
    run(capsys, budget="1")  # the next round, which knows the slices of the first
    assert read == [] and scans.selection(VOLUMES)["round"] == 2


@pytest.mark.parametrize(
    ("text", "first", "last"), [("20%-80%", 60, 239), ("0%-50%", 0, 149), ("90% - 100 %", 270, 299)]
)
def test_share_of_a_file(scans, text, first, last):
    found = places(Regions.of(dataset_pool(VOLUMES), slice_range=text, roi=None))["v_1"]
    assert found and first <= min(found) and max(found) <= last
    if text == "20%-80%":
        assert min(found) < 70 and max(found) > 230 and len(found) == 32


def test_share_counts_from_where_the_file_begins(empty):
    """A file that is stored from head to feet has its first slices at the head."""
    image = sitk.GetImageFromArray(body(0))
    image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1))
    path = empty.images(VOLUMES) / "v_0_0000.nii.gz"
    path.parent.mkdir(parents=True)
    sitk.WriteImage(image, str(path))
    write_dataset_json(empty.raw / VOLUMES, ".nii.gz", channel_names={"0": "T1"}, numTraining=0, dataset={})
    pool = dataset_pool(VOLUMES)
    _, properties = reading.read_image(pool.cases[0], pool.reader())
    assert Geometry.of(properties).flipped[0]
    found = places(Regions.of(pool, slice_range="0%-25%", roi=None))["v_0"]
    assert found and max(found) < 75


def test_range_per_case(scans, capsys):
    table = scans.root / "cases.csv"
    table.write_text("case;slice_from;slice_to\nv_0;;4\nv_1;100;110\nv_2;290;\n")
    out = run(capsys, "--cases", table, "--max_per_volume", "3", budget="12")
    assert "cases.csv: 3 of 4 cases have a range of slices" in out
    chosen = {case: [pick.slice for pick in picks(scans) if pick.case == case] for case in CASES[:4]}
    assert set(chosen["v_1"]) <= set(range(100, 111)) and set(chosen["v_2"]) <= set(range(290, 300))
    assert set(chosen["v_0"]) <= set(range(5)) and all(chosen.values())
    argv = [*SELECT, "-b", "12", "--max_per_volume", "3"]
    fails(capsys, select.main, argv, "other settings", "cases was True, now None")
    table.write_text("case;slice_from;slice_to\nv_0;;4\n")
    fails(capsys, select.main, [*argv, "--cases", table], "other provenance")


def test_finding_in_few_slices_can_be_chosen(scans, capsys):
    roi = scans.root / "roi"
    for case, inside in {"v_0": [3], "v_1": range(120, 125), "v_2": range(40, 45), "v_3": [200, 250]}.items():
        write_mask(roi / f"{case}.nii.gz", list(inside), LONG if case != "v_0" else (30, 12, 12))
    out = run(capsys, "--roi", roi, "--max_per_volume", "5", budget="9")
    assert f"{VOLUMES}: 9 of 13 slices are picked" in out
    assert "1 % of the slices lie in the region of interest; without --roi about 99 %" in out
    for pick in picks(scans):
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(roi / f"{pick.case}.nii.gz")))
        assert mask[pick.slice].any()
    before = scans.results_of_select(VOLUMES)
    run(capsys, "--roi", roi, "--max_per_volume", "5", budget="9")
    assert scans.results_of_select(VOLUMES) == before
    write_mask(roi / "v_3.nii.gz", [100, 120])
    argv = [*SELECT, "--roi", roi, "--max_per_volume", "5", "-b", "9"]
    fails(capsys, select.main, argv, "other provenance", "roi")
    succeeds(capsys, select.main, [*argv, "--overwrite"])
    assert {pick.slice for pick in picks(scans) if pick.case == "v_3"} <= {100, 120}


def test_empty_mask_leaves_a_volume_out_and_is_named(scans, capsys):
    roi = scans.root / "roi"
    for case in CASES[:4]:
        shape = LONG if case != "v_0" else (30, 12, 12)
        write_mask(roi / f"{case}.nii.gz", [] if case == "v_2" else [5, 6, 7, 8, 9], shape)
    out = run(capsys, "--roi", roi, budget="3")
    assert "no slice of 1 of 4 volumes may be chosen: v_2" in out
    assert {pick.case for pick in picks(scans)} == {"v_0", "v_1", "v_3"}
    argv = [*SELECT, "--roi", roi, "-b", "4", "--overwrite"]
    for case in ("v_0", "v_1", "v_3"):
        write_mask(roi / f"{case}.nii.gz", [], LONG if case != "v_0" else (30, 12, 12))
    fails(capsys, select.main, argv, "no slice of", "--roi")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda roi: (roi / "v_1.nii.gz").unlink(), ["has no mask of 1 of 4 cases (v_1)", "v_1.nii.gz"]),
        (lambda roi: write_mask(roi / "v_1.nii.gz", [3], (200, 12, 12)), ["v_1.nii.gz has the size 12 x 12 x 200"]),
        (lambda roi: write_mask(roi / "v_1.nii.gz", [3], SetOrigin=(5.0, -7.0, 99.0)), ["v_1.nii.gz has the origin"]),
        (lambda roi: write_mask(roi / "v_1.nii.gz", [3], SetSpacing=(1.0, 1.5, 3.0)), ["v_1.nii.gz has the spacing"]),
        (lambda roi: (roi / "v_1.nii.gz").write_bytes(b"x"), ["v_1.nii.gz cannot be read"]),
    ],
)
def test_mask_that_does_not_fit(scans, capsys, change, words):
    roi = scans.root / "roi"
    for case in CASES[:4]:
        write_mask(roi / f"{case}.nii.gz", [3, 4, 5, 6], LONG if case != "v_0" else (30, 12, 12))
    change(roi)
    argv = [*SELECT, "--roi", roi, "-b", "2", "--skip_broken"]
    fails(capsys, select.main, argv, *words)
    listed = scans.root / "list.txt"
    listed.write_text("v_1\n")
    succeeds(capsys, select.main, [*argv, "--exclude", listed])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--slice_range", "20-80"], ["--slice_range must be two percentages that rise", "'20-80'"]),
        (["--slice_range", "80%-20%"], ["two percentages that rise"]),
        (["--slice_range", "20%-180%"], ["two percentages that rise"]),
        (["--roi", "nowhere"], ["--roi must be a folder of masks", "nowhere"]),
        (["--slice_range", "0%-0.1%"], ["no slice of", "--slice_range"]),
    ],
)
def test_options_that_do_not_fit(scans, capsys, argv, words):
    fails(capsys, select.main, [*SELECT, "-b", "2", *argv], *words)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("v_1,9,3", ["whole numbers from 0", "'9' and '3' for case v_1"]),
        ("v_1,-1,", ["whole numbers from 0", "'-1'"]),
        ("v_1,1.5,", ["whole numbers from 0", "'1.5'"]),
        ("v_1,2,300", ["case v_1 has the slices 0 to 299", "slice_to 300"]),
        ("v_1,300,", ["case v_1 has the slices 0 to 299", "slice_from 300"]),
    ],
)
def test_ranges_that_do_not_fit(scans, capsys, rows, words):
    table = scans.root / "cases.csv"
    table.write_text(f"case,slice_from,slice_to\n{rows}\n")
    argv = [*SELECT, "-b", "2", "--cases", table]
    fails(capsys, select.main, argv, *words)


def test_limits_are_about_slices(workspace, capsys):
    argv = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"]
    fails(capsys, select.main, [*argv, "--slice_range", "20%-80%"], "--slice_range is about slices", "--unit slice")
    fails(capsys, select.main, [*argv, "--roi", workspace.root], "--roi is about slices", "--unit slice")
    table = workspace.root / "cases.csv"
    table.write_text("case,slice_to\nt_00,3\n")
    fails(capsys, select.main, [*argv, "--cases", table], "slice_to", "--unit slice")


def test_slices_drawn_before_other_limits_still_count(scans, capsys):
    run(capsys, "--slice_range", "0%-30%", budget="2")
    drawn = {pick.case: pick.slice for pick in picks(scans)}
    draw(scans, *drawn)
    succeeds(capsys, collect.main, ["-d", "31"])
    out = run(capsys, "--slice_range", "50%-100%", budget="1")
    assert "; 2 have a label already" in out and picks(scans)[0].case not in drawn


def test_a_scan_is_not_typical_of_itself(scans, capsys):
    """Slices of one volume that differ from all others stand for that volume alone."""
    image = body(9)
    image[:, ::2] *= -3
    save(scans.images(VOLUMES) / "v_3_0000.nii.gz", image)
    run(capsys, budget="4")
    said = {pick.case: (pick.stands_for > 1, pick.other_volumes) for pick in picks(scans)}
    assert said["v_3"] == (True, 0)
    why = {row["case"]: row["reason"] for row in read_worklist(labels(scans).parent / "worklist.csv")}
    assert why["v_3"].startswith("stands for its own volume")
    assert any("other volume" in reason for reason in why.values())
