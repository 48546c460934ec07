"""Slices of volumes: chosen one by one, drawn in templates, collected as sparse labels."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from making import (
    SOURCE,
    TARGET,
    fails,
    picture,
    read_worklist,
    succeeds,
    volume,
    write_dataset_json,
    write_picture,
    write_volume,
)
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from slicing import (
    CASES,
    SELECT,
    SHAPE,
    VOLUMES,
    candidates,
    draw,
    labels,
    load,
    picks,
    run,
    save,
    sliced,
    with_volumes,
)

from nnunetv2_xssr.annotation import handover
from nnunetv2_xssr.annotation.project import FoldState, project_status
from nnunetv2_xssr.annotation.sparse_labels import with_ignore
from nnunetv2_xssr.commands import collect, report, select, status
from nnunetv2_xssr.commands.next_steps import next_steps
from nnunetv2_xssr.encoders.embedding import embedder, kept_layout
from nnunetv2_xssr.encoders.mae import load_encoder
from nnunetv2_xssr.encoders.pooling import compare
from nnunetv2_xssr.images.extract import extract_views
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.images.reading import read_case
from nnunetv2_xssr.images.slices import slice_pool, volume_of
from nnunetv2_xssr.selection import Constraints
from nnunetv2_xssr.selection import select as select_rows

IGNORE = 2


def described(volumes):
    return json.loads((volumes.raw / VOLUMES / "dataset.json").read_text())


def refused(capsys, *words):
    assert collect.main(["-d", "31"]) == 2
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("does not fit: ")]
    assert all(word in line for word in words), line


def test_names_and_places(volumes):
    pool = dataset_pool(VOLUMES)
    case = pool.cases[0]
    # A staircase tells by its brightness which slice a view shows.
    steps = np.broadcast_to(1 + np.arange(16.0, dtype=np.float32)[:, None, None], SHAPE)
    save(case.files[0], steps)
    views = sliced(pool)
    of_slices = slice_pool(pool, candidates(pool))
    assert {volume_of(one.identifier) for one in of_slices.cases} == set(CASES)
    places = list(views.facts["v_0"].slices)
    assert [one.identifier for one in of_slices.cases[:8]] == [f"v_0/{place}" for place in places]
    assert len(places) == 8 and sorted(places) == places and places[-1] < SHAPE[0]
    shown = extract_views(read_case(case, pool.reader()), ("T1",), 8).mean(axis=(1, 2, 3)) * steps.std() + steps.mean()
    np.testing.assert_allclose(shown - 1, places, atol=0.01)


def test_slices_are_chosen_over_all_volumes(volumes, capsys):
    out = run(capsys)
    assert f"{VOLUMES}: 4 of 48 slices are picked for annotation" in out
    chosen = picks(volumes)
    assert len(chosen) == 4 == len({pick.case for pick in chosen})  # at most one of a volume
    assert all(0 <= pick.slice < SHAPE[0] for pick in chosen)
    record = volumes.selection(VOLUMES)
    assert record["selections"][0]["pool_size"] == 48 and record["settings"]["unit"] == "slice"
    assert sum(pick.stands_for for pick in chosen) == 48
    table = [line.split() for line in out.splitlines() if line.split()[1:2] and line.split()[1] in CASES]
    assert [(row[1], int(row[2])) for row in table] == [(pick.case, pick.slice) for pick in chosen]


@pytest.mark.parametrize(("argv", "expected"), [(["-b", "10%"], 4), (["-b", "30min", "--minutes_per_case", "12.5"], 2)])
def test_budgets_of_slices(volumes, capsys, argv, expected):
    """A percentage is of the slices that may be chosen, and a time counts minutes per slice."""
    out = succeeds(capsys, select.main, [*SELECT, *argv])
    assert f"{VOLUMES}: {expected} of 48 slices are picked for annotation" in out and len(picks(volumes)) == expected


def test_patients_limit_slices_too(volumes, capsys):
    table = volumes.root / "cases.csv"
    table.write_text("case,patient\n" + "".join(f"{case},p{i // 3}\n" for i, case in enumerate(CASES)))
    run(capsys, "--cases", table, "--max_per_volume", "2", "--max_per_group", "3", budget="12")
    chosen = Counter(pick.case for pick in picks(volumes)), Counter(pick.group for pick in picks(volumes))
    assert max(chosen[0].values()) == 2 and chosen[1] == {"p0": 3, "p1": 3}
    draw(volumes, *(pick.case for pick in picks(volumes)))
    succeeds(capsys, collect.main, ["-d", "31"])
    argv = [*SELECT, "--cases", table, "--max_per_group", "3", "-b", "1"]
    fails(capsys, select.main, argv, "leaves none of the", "max_per_group")


def test_record_is_what_the_selection_of_the_slices_gives(volumes, capsys):
    run(capsys)
    encoder = load_encoder(volumes.encoder(VOLUMES), device="cpu")
    views = sliced(dataset_pool(VOLUMES), encoder.look)
    kept = np.concatenate([embedder(encoder, views)(one) for one in views.rows])[:, None]
    compared = compare([kept], kept_layout(encoder, 1), embedding="auto", unit="slice")
    volume_numbers = np.repeat(np.arange(len(CASES)), 8)
    constraints = Constraints(volume=volume_numbers, max_per_volume=1)
    (rows,), how = compared.features, compared.how
    expected = select_rows(rows, 4, constraints=constraints, wholes=volume_numbers, **how).picks
    places = [list(facts.slices) for facts in views.facts.values()]
    named = [(CASES[i // 8], places[i // 8][i % 8]) for i in expected]
    assert [(pick.case, pick.slice) for pick in picks(volumes)] == named


def test_several_slices_of_a_volume(volumes, capsys):
    run(capsys, "--max_per_volume", "3", budget="18")
    chosen = [(pick.case, pick.slice) for pick in picks(volumes)]
    assert len(set(chosen)) == 18
    assert {case: [c for c, _ in chosen].count(case) for case in CASES} == dict.fromkeys(CASES, 3)
    for case in CASES:
        opened = np.flatnonzero((load(labels(volumes) / f"{case}.nii.gz") == 0).all(axis=(1, 2)))
        assert opened.tolist() == sorted(place for c, place in chosen if c == case)


def test_thin_volumes_give_no_slice_twice(volumes, capsys):
    for i, case in enumerate(CASES):
        save(volumes.images(VOLUMES) / f"{case}_0000.nii.gz", volume(i)[0][6:9])
    out = run(capsys, "--max_per_volume", "8", budget="18")
    chosen = [(pick.case, pick.slice) for pick in picks(volumes)]
    assert len(chosen) == len(set(chosen)) == 18 and "only" not in out
    argv = [*SELECT, "--max_per_volume", "8", "-b", "19", "--overwrite"]
    fails(capsys, select.main, argv, "between 1 and 18", "'19'")


def test_templates(volumes, capsys):
    run(capsys)
    chosen = {pick.case: pick.slice for pick in picks(volumes)}
    assert sorted(path.name for path in labels(volumes).iterdir()) == sorted(f"{case}.nii.gz" for case in chosen)
    for case, place in chosen.items():
        template = load(labels(volumes) / f"{case}.nii.gz")
        assert template.dtype == np.uint8 and (template[place] == 0).all()
        assert (np.delete(template, place, axis=0) == IGNORE).all()
        image = sitk.ReadImage(str(volumes.images(VOLUMES) / f"{case}_0000.nii.gz"))
        assert sitk.ReadImage(str(labels(volumes) / f"{case}.nii.gz")).GetOrigin() == image.GetOrigin()
    folder = labels(volumes).parent
    rows = read_worklist(folder / "worklist.csv")
    assert {row["case"]: int(row["slice"]) for row in rows} == chosen
    assert all(int(row["slice_itksnap"]) == int(row["slice"]) + 1 for row in rows)
    note = (folder / "README.txt").read_text()
    assert "2       ignore" in note and "holds 0 on the slices to draw, and 2 (ignore) on all others" in note
    assert max(map(len, note.splitlines())) <= 120
    assert "ignore" not in described(volumes)["labels"]  # as long as no such label is in the dataset


def test_templates_that_fit_stay_while_others_are_written(volumes, capsys, monkeypatch):
    run(capsys)
    before = {path.name: path.read_bytes() for path in labels(volumes).iterdir()}
    run(capsys, "--overwrite", budget="3")
    kept = {path.name: path.read_bytes() for path in labels(volumes).iterdir()}
    assert kept and kept.items() <= before.items()
    run(capsys, "--overwrite")
    with monkeypatch.context() as patch:  # killed as soon as the earlier templates have gone
        patch.setattr(handover, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert select.main([*SELECT, "-b", "3", "--overwrite"]) == 130
    assert {path.name: path.read_bytes() for path in labels(volumes).iterdir()} == kept


def test_templates_that_nobody_drew_in_are_missing(volumes, capsys):
    run(capsys)
    first, *others = [pick.case for pick in picks(volumes)]
    draw(volumes, first)
    assert "mean distance to the nearest pick: " in succeeds(capsys, status.main, ["-d", "31"])
    facts = json.loads(succeeds(capsys, status.main, ["-d", "31", "--json"]))
    assert facts["rounds"][0]["returned"] == 1 and len(facts["rounds"][0]["missing"]) == 4
    out = succeeds(capsys, collect.main, ["-d", "31", "--allow_empty"])
    assert f"still missing: {', '.join(others)}" in out
    assert list(described(volumes)["dataset"]) == [first]
    succeeds(capsys, collect.main, ["-d", "31", "--allow_empty", others[1]])  # by name it is an answer
    assert sorted(described(volumes)["dataset"]) == sorted([first, others[1]])


def test_sparse_labels_are_collected(volumes, capsys):
    run(capsys)
    cases = sorted(pick.case for pick in picks(volumes))
    draw(volumes, *cases)
    succeeds(capsys, collect.main, ["-d", "31"])
    description = described(volumes)
    assert description["labels"] == {"background": 0, "blob": 1, "ignore": IGNORE} and description["numTraining"] == 4
    assert LabelManager(description["labels"], None).ignore_label == IGNORE
    split = json.loads(volumes.split(VOLUMES).read_text())
    assert sorted(case for fold in split for case in fold["val"]) == cases


def test_drawn_beside_the_chosen_slice(volumes, capsys):
    run(capsys)
    pick = picks(volumes)[0]
    draw(volumes, pick.case)
    path = labels(volumes) / f"{pick.case}.nii.gz"
    label = load(path)
    other = (pick.slice + 1) % SHAPE[0]
    label[other, 3, 3] = 1
    save(path, label)
    refused(capsys, f"{pick.case}.nii.gz: is not all 2 (ignore) on slice {other}", f"only on {pick.slice} drawing")


def test_chosen_slice_that_is_not_drawn_whole(volumes, capsys):
    run(capsys)
    pick = picks(volumes)[0]
    draw(volumes, pick.case)
    path = labels(volumes) / f"{pick.case}.nii.gz"
    label = load(path)
    label[pick.slice, 0] = IGNORE
    save(path, label)
    refused(capsys, f"{pick.case}.nii.gz: slice {pick.slice} still holds 2 (ignore)")


def test_templates_are_written_without_decoding(volumes, capsys, monkeypatch):
    pool = dataset_pool(VOLUMES)
    expected = {case.identifier: pool.reader().read_images([str(case.files[0])])[0].shape[1:] for case in pool.cases}

    def refuse(*_):
        raise AssertionError("nnU-Net's reader is asked to decode")

    monkeypatch.setattr(type(pool.reader()), "read_images", refuse)
    run(capsys)
    for pick in picks(volumes):
        template = sitk.ReadImage(str(labels(volumes) / f"{pick.case}.nii.gz"))
        image = sitk.ReadImage(str(volumes.images(VOLUMES) / f"{pick.case}_0000.nii.gz"))
        assert sitk.GetArrayViewFromImage(template).shape == expected[pick.case]
        assert (template.GetSpacing(), template.GetOrigin()) == (image.GetSpacing(), image.GetOrigin())


def test_empty_slice(volumes, capsys):
    run(capsys)
    case = picks(volumes)[0].case
    path = labels(volumes) / f"{case}.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(path), sitk.sitkUInt16), str(path))  # saved again by another program
    refused(capsys, f"{case}.nii.gz: is empty")
    succeeds(capsys, collect.main, ["-d", "31", "--allow_empty"])
    assert list(described(volumes)["dataset"]) == [case]


def test_next_round_is_proposed_in_slices(volumes, capsys):
    run(capsys, "--max_per_volume", "8", budget="12")
    drawn = {pick.case for pick in picks(volumes)}
    assert len(picks(volumes)) == 12 > len(drawn)
    draw(volumes, *drawn)
    succeeds(capsys, collect.main, ["-d", "31"])
    trained = FoldState(name="XSSRTrainer__nnUNetPlans__2d/fold_0", finished=True, current=True)
    project = replace(project_status(VOLUMES), not_preprocessed=0, trained=[trained], left=2)
    (step,) = next_steps(project, device="cpu")
    assert step.startswith("nnUNetv2_xssr_select -d 31") and step.endswith("-b 12 --unit slice --max_per_volume 8")


def test_label_of_a_round_that_was_gone_on_from_still_fits(volumes, capsys):
    """Other slices of a volume may be asked for when the next round does not wait for its label."""
    run(capsys, budget="4")
    first, late = (pick.case for pick in picks(volumes)[:2])
    asked = next(pick.slice for pick in picks(volumes) if pick.case == late)
    draw(volumes, first)
    succeeds(capsys, collect.main, ["-d", "31"])
    run(capsys, "--overwrite", "--slice_range", "0%-45%" if asked > 8 else "55%-100%", budget="5")
    now = next(pick.slice for pick in picks(volumes) if pick.case == late)
    assert now != asked and (labels(volumes, 2) / f"{late}.nii.gz").is_file()
    both = load(labels(volumes, 2) / f"{late}.nii.gz")
    both[[now, asked]] = 0
    both[[now, asked], 4:9, 5:12] = 1
    save(labels(volumes, 2) / f"{late}.nii.gz", both)
    refused(capsys, f"not all 2 (ignore) on slice {asked}, but only on {now} drawing was asked for")
    draw(volumes, late)
    succeeds(capsys, collect.main, ["-d", "31", "-l", labels(volumes)])
    taken = load(volumes.raw / VOLUMES / "labelsTr" / f"{late}.nii.gz")
    assert (taken[asked] == 1).any() and (np.delete(taken, asked, axis=0) == 2).all()


def test_untouched_templates_of_an_earlier_round_are_no_empty_labels(volumes, capsys):
    run(capsys, budget="4")
    first, *others = [pick.case for pick in picks(volumes)]
    draw(volumes, first)
    succeeds(capsys, collect.main, ["-d", "31"])
    run(capsys, "--overwrite", budget="1")
    succeeds(capsys, collect.main, ["-d", "31", "--allow_empty", "-l", labels(volumes)])
    assert list(described(volumes)["dataset"]) == [first]
    late = next(case for case in others if case not in {pick.case for pick in picks(volumes)})
    draw(volumes, late)
    succeeds(capsys, collect.main, ["-d", "31", "-l", labels(volumes)])
    assert sorted(described(volumes)["dataset"]) == sorted([first, late])


def test_next_round_takes_other_volumes(volumes, capsys):
    run(capsys, "--max_per_volume", "2", budget="4")
    first = picks(volumes)
    drawn = {pick.case for pick in first}
    draw(volumes, *drawn)
    succeeds(capsys, collect.main, ["-d", "31"])
    out = run(capsys, "--max_per_volume", "2", budget="2")
    assert f"; {len(first)} have a label already" in out
    assert volumes.selection(VOLUMES)["round"] == 2
    second = {pick.case for pick in picks(volumes)}
    assert not second & drawn and volumes.selection(VOLUMES)["selections"][0]["labelled"] == sorted(drawn)
    draw(volumes, *second, number=2)
    succeeds(capsys, collect.main, ["-d", "31"])
    assert sorted(described(volumes)["dataset"]) == sorted(drawn | second)


def test_volumes_labelled_as_a_whole_count_with_all_their_slices(volumes, capsys):
    label = np.zeros(SHAPE, np.uint8)
    label[5:9, 5:9, 5:9] = 1
    save(volumes.raw / VOLUMES / "labelsTr" / "v_2.nii.gz", label)
    out = run(capsys)
    assert "8 have a label already" in out and "v_2" not in {pick.case for pick in picks(volumes)}
    draw(volumes, *{pick.case for pick in picks(volumes)})
    succeeds(capsys, collect.main, ["-d", "31"])
    assert "v_2" in described(volumes)["dataset"] and described(volumes)["numTraining"] == 5


def test_typing_it_again_keeps_what_was_drawn(volumes, capsys):
    run(capsys)
    chosen = [pick.case for pick in picks(volumes)]
    draw(volumes, chosen[0])
    drawn = (labels(volumes) / f"{chosen[0]}.nii.gz").read_bytes()
    run(capsys)
    assert (labels(volumes) / f"{chosen[0]}.nii.gz").read_bytes() == drawn
    argv = ["-d", "31", "-b", "2", "-device", "cpu", "--overwrite"]
    fails(capsys, select.main, argv, "holds 1 labels", f"{chosen[0]}.nii.gz")
    (labels(volumes) / f"{chosen[0]}.nii.gz").unlink()
    succeeds(capsys, select.main, argv)  # whole volumes: the templates are gone
    assert not list(labels(volumes).iterdir()) and not (labels(volumes).parent / "templates.json").exists()


def test_slices_of_excluded_and_broken_volumes(volumes, capsys):
    broken = volumes.images(VOLUMES) / "v_1_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:100])
    listed = volumes.root / "list.txt"
    listed.write_text("v_0\n")
    run(capsys, "--exclude", listed, "--skip_broken")
    assert {pick.case for pick in picks(volumes)} == {"v_2", "v_3", "v_4", "v_5"}


def test_patients_and_slices(volumes, capsys):
    table = volumes.root / "cases.csv"
    table.write_text("case,patient\n" + "".join(f"{case},p{i // 2}\n" for i, case in enumerate(CASES)))
    run(capsys, "--cases", table, budget="6")
    draw(volumes, *CASES)
    succeeds(capsys, collect.main, ["-d", "31"])
    for fold in json.loads(volumes.split(VOLUMES).read_text()):
        train, val = ({int(case[-1]) // 2 for case in fold[part]} for part in ("train", "val"))
        assert not train & val


def test_names_that_sound_like_slices(empty, capsys):
    """Nothing is told by words in a name."""
    names = ["a_slice_0001", "slice", "slice_3", "view 2 of 8", "x, slice 5", "0"]
    for i, name in enumerate(names):
        save(empty.images(VOLUMES) / f"{name}_0000.nii.gz", volume(i)[0])
    write_dataset_json(empty.raw / VOLUMES, ".nii.gz", channel_names={"0": "T1"}, numTraining=0, dataset={})
    run(capsys, "--max_per_volume", "2", budget="12")
    assert {pick.case for pick in picks(empty)} == set(names) == set(map(volume_of, names))
    facts = json.loads(succeeds(capsys, report.main, ["-d", "31", "--json"]))
    shown = {pick["identifier"]: pick["name"] for pick in facts["selections"][0]["picks"]}
    assert shown == {f"{pick.case}/{pick.slice}": f"{pick.case}, slice {pick.slice}" for pick in picks(empty)}
    draw(empty, *names)
    succeeds(capsys, collect.main, ["-d", "31"])
    assert sorted(described(empty)["dataset"]) == sorted(names)


def test_options_that_do_not_fit(workspace, capsys):
    with_volumes(workspace)

    def refuses(*argv_and_words):
        argv, words = argv_and_words[:-1], argv_and_words[-1]
        fails(capsys, select.main, ["-d", "31", "-device", "cpu", *argv], *words)

    def at(*argv):
        return ["-b", "3", "--unit", "slice", *argv]

    refuses("-b", "3", "--unit", "pixel", ["--unit must be one of case, slice", "'pixel'"])
    refuses("-b", "3", "--max_per_volume", "2", ["--max_per_volume counts slices"])
    refuses(*at("--max_per_group", "2"), ["--max_per_group needs to know the group"])
    refuses(*at("--max_per_volume", "0"), ["--max_per_volume must be 1 or more; got 0"])
    refuses("-b", "5%", "--unit", "slice", "--domain_quota", "A=2", ["numbers of --domain_quota add up to -b", "5%"])
    refuses("-b", "60min", "--unit", "slice", ["-b 60min needs the minutes per slice", "--minutes_per_case"])
    table = workspace.root / "cases.csv"
    table.write_text("case,cost\n" + "".join(f"{case},1\n" for case in CASES))
    refuses(*at("--cases", table), ["costs are those of whole cases"])
    flat = ["-d", "2", "-s", "1", "-b", "3", "--unit", "slice", "-device", "cpu"]
    fails(capsys, select.main, flat, "--unit slice needs volumes", TARGET)
    for case in CASES:
        write_volume(workspace.raw / VOLUMES / "labelsTr" / f"{case}.nii.gz", np.ones(SHAPE, np.uint8))
    refuses(*at(), [f"every case of {VOLUMES} has a label", "--labelled"])


def test_source_of_pictures(workspace, capsys):
    """A flat source serves volumes, too: each of its pictures is one view."""
    for i in range(4):
        write_picture(workspace.raw / SOURCE / "imagesTr" / f"x_{i}_0000.png", picture(i))
    write_dataset_json(workspace.raw / SOURCE, channel_names={"0": "T1"})
    workspace.encoder().unlink()  # which learned another channel
    with_volumes(workspace)
    write_dataset_json(workspace.raw / VOLUMES, ".nii.gz", channel_names={"0": "T1"}, numTraining=0, dataset={})
    run(capsys, "-s", "1")
    assert any(pick.novelty > 0 for pick in picks(workspace))


def test_one_slice_of_a_volume_is_named_as_what_leaves_no_other(volumes, capsys):
    out = run(capsys, budget="20")
    assert "only 6 of 20 slices picked: --max_per_volume, groups, quotas or the least distance leave no other" in out


def test_ignore_label_is_the_highest_value():
    assert with_ignore({"labels": {"background": 0, "a": 1, "b": 2}})["labels"]["ignore"] == 3
    regions = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
    assert with_ignore(regions)["labels"]["ignore"] == 3
    assert with_ignore({"labels": {"background": 0, "a": 1, "ignore": 2}})["labels"]["ignore"] == 2


def test_volume_that_is_asked_for_as_a_whole_after_all(volumes, capsys):
    run(capsys)
    succeeds(capsys, select.main, ["-d", "31", "-b", "6", "-device", "cpu", "--overwrite"])
    label = np.zeros(SHAPE, np.uint8)
    label[2:5, 2:5, 2:5] = 1
    save(labels(volumes) / "v_0.nii.gz", label)
    succeeds(capsys, collect.main, ["-d", "31"])
    assert list(described(volumes)["dataset"]) == ["v_0"]


def test_volume_whose_slice_was_dropped_is_drawn_as_a_whole_in_the_next_round(volumes, capsys):
    run(capsys, budget="2")
    first, second = (pick.case for pick in picks(volumes))
    draw(volumes, first)
    succeeds(capsys, collect.main, ["-d", "31"])
    succeeds(capsys, select.main, ["-d", "31", "-b", "5", "-device", "cpu", "--overwrite"])
    label = np.zeros(SHAPE, np.uint8)
    label[2:5, 2:5, 2:5] = 1
    save(labels(volumes, 2) / f"{second}.nii.gz", label)
    succeeds(capsys, collect.main, ["-d", "31"])
    assert sorted(described(volumes)["dataset"]) == sorted([first, second])
