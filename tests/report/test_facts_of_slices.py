"""The facts of a report on slices of volumes: against the record, and re-computed from views and embeddings."""

import json
from dataclasses import replace

import numpy as np
import pytest
from making import SOURCE, fails, succeeds, volume, write_dataset_json, write_pictures
from slicing import CASES, SHAPE, VOLUMES, candidates, draw, picks, run, save, slice_names, sliced

from nnunetv2_xssr.commands import collect, report
from nnunetv2_xssr.encoders.embedding import embedder, kept_layout
from nnunetv2_xssr.encoders.mae import load_encoder
from nnunetv2_xssr.encoders.pooling import compare
from nnunetv2_xssr.images.extract import extract_views
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.images.reading import read_image
from nnunetv2_xssr.records.workspace import Workspace
from nnunetv2_xssr.report.facts import gather
from nnunetv2_xssr.report.selection_data import load_record, load_selection_data
from nnunetv2_xssr.selection.standardise import standardise


def facts_of(capsys):
    return json.loads(succeeds(capsys, report.main, ["-d", "31", "--json"]))


def dots(selection, *kinds):
    return sorted(dot["identifier"] for dot in selection["map"]["dots"] if dot["kind"] in kinds)


def test_facts_are_of_slices(volumes, capsys):
    out = run(capsys, "--max_per_volume", "2", budget="6")
    assert f"wrote {volumes.record(VOLUMES).parent / 'report.html'}" in out
    told = facts_of(capsys)
    (selection,) = told["selections"]
    assert told["unit"] == "slice" and told["views_per_case"] == 1 and selection["pool_size"] == 48
    every = slice_names(*CASES)
    assert dots(selection, "pick", "pool") == sorted(every)
    chosen = [f"{pick.case}/{pick.slice}" for pick in picks(volumes)]
    assert [pick["identifier"] for pick in selection["picks"]] == chosen and len(set(chosen)) == 6
    names = {dot["identifier"]: dot["name"] for dot in selection["map"]["dots"]}
    for pick in selection["picks"]:
        assert pick["name"] == names[pick["identifier"]] == f"{pick['case']}, slice {pick['slice']}"
        assert all(near["name"] == names[near["identifier"]] for near in pick["most_alike"])
    other = next(name for name in every if name not in chosen)
    assert names[other] == other.replace("/", ", slice ")
    assert " slice " in selection["budget"]["knee_in_words"]
    assert " slices would bring" in selection["budget"]["next_in_words"]


@pytest.mark.parametrize(("channel", "told"), [("CT", True), ("T1", False)])
def test_page_tells_the_window_of_ct_where_there_is_ct(volumes, capsys, channel, told):
    write_dataset_json(volumes.raw / VOLUMES, ".nii.gz", channel_names={"0": channel}, numTraining=0, dataset={})
    run(capsys, "--encoder", "intensity")
    page = (volumes.record(VOLUMES).parent / "report.html").read_text(encoding="utf-8")
    assert ("CT is shown in the window" in page) is told


def test_most_alike_slices(volumes, capsys):
    run(capsys)
    encoder = load_encoder(volumes.encoder(VOLUMES), device="cpu")
    views = sliced(dataset_pool(VOLUMES), encoder.look)
    kept = np.concatenate([embedder(encoder, views)(one) for one in views.rows])[:, None]
    compared = compare([kept], kept_layout(encoder, 1), embedding="auto", unit="slice")
    z = standardise(*compared.features, **compared.how)[0].astype(np.float64)
    every = slice_names(*CASES)
    for pick in facts_of(capsys)["selections"][0]["picks"]:
        apart = np.sqrt(((z - z[every.index(pick["identifier"])]) ** 2).sum(axis=1))
        nearest = [i for i in np.argsort(apart) if every[i] != pick["identifier"]][:4]
        assert [near["identifier"] for near in pick["most_alike"]] == [every[i] for i in nearest]
        assert [near["distance"] for near in pick["most_alike"]] == pytest.approx(apart[nearest], abs=1e-6)


def test_a_pick_is_shown_by_its_own_slice(volumes, capsys):
    run(capsys)
    kept = load_selection_data(load_record(Workspace(VOLUMES)))
    pool, encoder = dataset_pool(VOLUMES), load_encoder(volumes.encoder(VOLUMES), device="cpu")
    for pick in gather(kept)["selections"][0]["picks"]:
        case = pool.cases[CASES.index(pick["case"])]
        image, properties = read_image(case, pool.reader())
        geometry, look = Geometry.of(properties), replace(encoder.look, axis="file")
        of_volume = extract_views(image, ("T1",), 8, geometry=geometry, look=look)
        view = candidates(pool)[case.identifier].index(pick["slice"])
        np.testing.assert_array_equal(kept.target.views(pick["identifier"]), of_volume[view : view + 1])


def test_slices_of_excluded_and_broken_volumes_are_not_shown(volumes, capsys):
    broken = volumes.images(VOLUMES) / "v_1_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:100])
    listed = volumes.root / "list.txt"
    listed.write_text("v_0\n")
    run(capsys, "--exclude", listed, "--skip_broken")
    (selection,) = facts_of(capsys)["selections"]
    assert dots(selection, "pick", "pool") == sorted(slice_names(*CASES[2:]))


def test_copies_in_thin_volumes_are_not_shown(volumes, capsys):
    for i, case in enumerate(CASES):
        save(volumes.images(VOLUMES) / f"{case}_0000.nii.gz", volume(i)[0][6:9])
    run(capsys)
    (selection,) = facts_of(capsys)["selections"]
    shown = dots(selection, "pick", "pool")
    assert selection["pool_size"] == 18 == len(shown)
    assert shown == [f"{case}/{place}" for case in CASES for place in range(3)]


def test_second_round_shows_what_was_drawn_as_labelled(volumes, capsys):
    whole = np.zeros(SHAPE, np.uint8)
    whole[6:10, 6:10, 6:10] = 1
    save(volumes.raw / VOLUMES / "labelsTr" / "v_5.nii.gz", whole)
    run(capsys, "--max_per_volume", "2", budget="4")
    drawn = [f"{pick.case}/{pick.slice}" for pick in picks(volumes)]
    taken = {pick.case for pick in picks(volumes)}
    draw(volumes, *taken)
    succeeds(capsys, collect.main, ["-d", "31"])
    run(capsys, "--max_per_volume", "2", budget="2")
    (selection,) = facts_of(capsys)["selections"]
    labelled = sorted([*drawn, *slice_names("v_5")])
    assert dots(selection, "labelled") == sorted(selection["labelled"]) == labelled
    untouched = sorted(slice_names(*(case for case in CASES if case not in {*taken, "v_5"})))
    assert dots(selection, "pick", "pool") == untouched
    assert selection["pool_size"] == len(labelled) + len(untouched)
    page = (volumes.record(VOLUMES).parent / "report.html").read_text("utf-8")
    assert page.count('class="dot labelled"') == len(labelled) + 1  # and one in the legend


def test_sources_of_volumes_and_of_pictures(volumes, capsys):
    write_pictures(volumes.raw / SOURCE, 3, first_seed=100, prefix="s")
    write_dataset_json(volumes.raw / SOURCE, channel_names={"0": "T1"})
    for i in range(2):
        save(volumes.images("Dataset032_Archive") / f"a_{i}_0000.nii.gz", volume(50 + i)[0])
    write_dataset_json(volumes.raw / "Dataset032_Archive", ".nii.gz", channel_names={"0": "T1"})
    run(capsys, "-s", "1", "32")
    told = facts_of(capsys)
    names = sorted(dot["name"] for dot in told["selections"][0]["map"]["dots"] if dot["kind"] == "source")
    places = candidates(dataset_pool("Dataset032_Archive"))
    of_volumes = [f"{case}, slice {place}" for case in ("a_0", "a_1") for place in places[case]]
    assert names == sorted([*of_volumes, "s_00", "s_01", "s_02"])
    assert told["sources"] == {SOURCE: 3, "Dataset032_Archive": 16}


def test_record_of_a_version_that_kept_no_facts_is_not_reported_on(volumes, capsys):
    run(capsys)
    record = volumes.selection(VOLUMES)
    del record["provenance"]["facts_cache"]
    volumes.record(VOLUMES).write_text(json.dumps(record))
    fails(capsys, report.main, ["-d", "31"], volumes.record(VOLUMES), "older version", "nnUNetv2_xssr_select")
