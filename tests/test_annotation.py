"""From a folder of images to labelled rounds: the hand-over, collect, the next round, status."""

import json
import os
import shlex
import shutil
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
    write_dataset_json,
    write_picture,
    write_volume,
)
from slicing import SELECT as SELECT_SLICES
from slicing import VOLUMES
from slicing import draw as draw_slices

from nnunetv2_xssr.annotation.project import project_status
from nnunetv2_xssr.annotation.reasons import reason
from nnunetv2_xssr.commands import collect, select, status
from nnunetv2_xssr.commands.next_steps import next_steps
from nnunetv2_xssr.records.selection import SelectionRecord
from nnunetv2_xssr.records.trained_fold import TrainedFold
from nnunetv2_xssr.trainers.xssr_trainer import XSSRTrainer

SELECT = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"]
COLLECT = ["-d", "2"]
OF_ALL = ["README.txt", "labels.ctbl", "labels.json", "labels.label", "worklist.csv", "worklist.html"]


def handover(workspace, number=1, name=TARGET, selection="xssr"):
    folder = workspace.raw / name / "annotate"
    return (folder if selection == "xssr" else folder / selection) / f"round_{number:02d}"


def picked(workspace, name=TARGET, selection="xssr"):
    record = workspace.preprocessed / name / "xssr" / selection / "selection.json"
    return SelectionRecord.load(record).picked


def blob(value=1, to=9):
    label = np.zeros((40, 48), np.uint8)
    label[3:to, 4:12] = value
    return label


def draw(workspace, *cases, number=1, value=1, selection="xssr"):
    """Labels from the annotator."""
    for case in cases:
        folder = handover(workspace, number, selection=selection)
        write_picture(folder / "labels" / f"{case}.png", blob(value))


def folds(workspace):
    return json.loads(workspace.split().read_text())


def described(workspace, name=TARGET):
    return json.loads((workspace.raw / name / "dataset.json").read_text())


def state(capsys, *argv):
    return json.loads(succeeds(capsys, status.main, ["-d", "2", "--json", *argv]))


def preprocess(
    workspace,
    plans="nnUNetPlans",
    planner="ExperimentPlanner",
    configurations=("2d",),
    data="{plans}_{}",
    name=TARGET,
):
    """What nnU-Net leaves of its planning and preprocessing of all labels that there are."""
    folder, labels = workspace.preprocessed / name, workspace.raw / name / "labelsTr"
    identifiers = {one: data.format(one, plans=plans) for one in configurations}
    described = {one: {"data_identifier": identifier} for one, identifier in identifiers.items()}
    described["small"] = {"inherits_from": configurations[0]}
    content = {"plans_name": plans, "experiment_planner_used": planner, "configurations": described}
    (folder / f"{plans}.json").write_text(json.dumps(content))
    for label in labels.iterdir():
        for identifier in identifiers.values():
            (folder / identifier).mkdir(exist_ok=True)
            (folder / identifier / f"{label.name.split('.')[0]}.pkl").write_bytes(b"")
    shutil.copytree(labels, folder / "gt_segmentations", dirs_exist_ok=True)


def train(workspace, network="XSSRTrainer__nnUNetPlans__2d", fold=0, finished=True, selection="xssr", **parts):
    """What a trained fold leaves: its checkpoint, and the cases that the trainer froze."""
    folder = workspace.results / TARGET / network / f"fold_{fold}"
    folder.mkdir(parents=True, exist_ok=True)
    split = json.loads((workspace.preprocessed / TARGET / f"splits_{selection}.json").read_text())
    TrainedFold(selection=selection, **{**split[0 if fold == "all" else fold], **parts}).write(
        folder / "xssr_fold.json"
    )
    (folder / f"checkpoint_{'final' if finished else 'latest'}.pth").write_bytes(b"")
    return folder


def collected(workspace, capsys, selection="xssr"):
    """The cases of the last selection, all of which are labelled now."""
    cases = picked(workspace, selection=selection)
    draw(workspace, *cases, selection=selection)
    succeeds(capsys, collect.main, [*COLLECT, "--name", selection])
    return sorted(cases)


def steps(capsys, *argv):
    lines = succeeds(capsys, status.main, [*COLLECT, *argv]).splitlines()
    return [line.strip() for line in lines[lines.index("next:") + 1 :]]


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ------------------------------------------------------------------------------------------------ a folder of images
@pytest.fixture
def archive(workspace):
    """A plain folder of eight pictures, as large as those of the source."""
    for i in range(8):
        write_picture(workspace.root / "archive" / f"IMG {i}.png", picture(900 + i))
    return workspace.root / "archive"


def new(archive, *more, name="123_New", channels=("xray",), labels=("lung", "heart")):
    make = ["-i", archive, "--channel_names", *channels, "--labels", *labels, "-d", name]
    return [*make, "-s", "1", "-b", "2", "-device", "cpu", *more]


def test_dataset_of_a_folder(workspace, archive, capsys):
    before = tree(archive)
    out = succeeds(capsys, select.main, new(archive))
    assert "Dataset123_New: 2 of 8 cases are picked for annotation" in out
    assert described(workspace, "Dataset123_New") == {
        "channel_names": {"0": "xray"},
        "labels": {"background": 0, "lung": 1, "heart": 2},
        "numTraining": 0,
        "file_ending": ".png",
        "dataset": {},
    }
    images = tree(workspace.images("Dataset123_New"))
    assert images == {f"IMG {i}_0000.png": before[f"IMG {i}.png"] for i in range(8)}
    assert tree(archive) == before
    first = picked(workspace, "Dataset123_New")
    write_picture(archive / "IMG 9.png", picture(990))
    (workspace.images("Dataset123_New") / ".DS_Store").write_bytes(b"x")
    (workspace.raw / "Dataset123_New" / "dataset.json").write_text(
        json.dumps(
            {**described(workspace, "Dataset123_New"), "labels": {"background": 0, "lung": 1, "heart": 2, "ignore": 3}}
        )
    )
    succeeds(capsys, select.main, new(archive, "--overwrite", name="Dataset123_New"))
    assert len(tree(workspace.images("Dataset123_New"))) == 9 + 1
    assert len(picked(workspace, "Dataset123_New")) == len(first)


def test_images_are_copied_where_they_cannot_be_linked(workspace, archive, capsys, monkeypatch):
    def no_links(*_, **__):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    succeeds(capsys, select.main, new(archive))
    image = workspace.images("Dataset123_New") / "IMG 0_0000.png"
    assert image.stat().st_nlink == 1 and image.read_bytes() == (archive / "IMG 0.png").read_bytes()


def test_volumes_of_a_folder(workspace, capsys):
    for i in range(3):
        rng = np.random.default_rng(i)
        for channel in range(2):
            path = workspace.root / "volumes" / f"v{i}_000{channel}.nii.gz"
            write_volume(path, rng.normal(size=(9, 20, 20)).astype(np.float32))
    argv = ["-i", workspace.root / "volumes", "--channel_names", "T1", "T2", "--labels", "tumour", "-d", "123_V"]
    succeeds(capsys, select.main, [*argv, "-b", "1", "-device", "cpu"])
    assert len(tree(workspace.images("Dataset123_V"))) == 6
    case = picked(workspace, "Dataset123_V")[0]
    folder = handover(workspace, name="Dataset123_V")
    assert sorted(tree(folder / "images")) == [f"{case}_0000.nii.gz", f"{case}_0001.nii.gz"]
    blank = sitk.GetImageFromArray(np.ones((9, 20, 20), np.uint8))
    sitk.WriteImage(blank, str(folder / "labels" / f"{case}.nii.gz"))
    out = succeeds(capsys, collect.main, ["-d", "123"])
    assert "nnUNetv2_train Dataset123_V 3d_fullres 0 -tr XSSRTrainer" in out


def test_folder_that_does_not_make_the_dataset(workspace, archive, capsys):
    def refuses(*parts, **change):
        before = tree(workspace.raw)
        fails(capsys, select.main, new(change.pop("folder", archive), **change), *parts)
        assert tree(workspace.raw) == before

    refuses("-d must give", "123_Name", "'123'", name="123")
    refuses("number 002 is taken", TARGET, name="002_New")
    refuses("-i must be a folder", "nowhere", folder=workspace.root / "nowhere")
    refuses("--channel_names must name 1 channels", "got 2 (T1, T2)", channels=("T1", "T2"))
    refuses("--labels must name", "each once", labels=("lung", "lung"))
    refuses("--labels must name", "without background", labels=("background", "lung"))
    for name in ("", "two\nlines", "lung "):
        refuses("a label of --labels is called", "a name must", labels=(name,))
        refuses("a channel of --channel_names is called", "a name must", channels=(name,))
    for option in ("--channel_names", "--labels"):
        argv = [str(a) for a in new(archive)]
        at = argv.index(option)
        end = next(i for i in range(at + 1, len(argv)) if argv[i].startswith("-"))
        fails(capsys, select.main, argv[:at] + argv[end:], f"-i needs {option}")


def test_folder_and_dataset_that_do_not_fit_each_other(workspace, archive, capsys):
    succeeds(capsys, select.main, new(archive))
    fails(capsys, select.main, new(archive, channels=("CT",)), "exists already with channel_names", "another number")
    fails(capsys, select.main, new(archive, labels=("liver",)), "exists already with labels", "liver")
    (archive / "IMG 0.png").unlink()
    fails(capsys, select.main, new(archive), "1 files that are not from -i (IMG 0_0000.png)", "leave -i out")
    write_picture(archive / "IMG 0.png", picture(1))
    fails(capsys, select.main, new(archive), "IMG 0_0000.png differs from", "delete the one that is wrong")


# ------------------------------------------------------------------------------------------------------ hand-over
def test_handover(again):
    folder = handover(again)
    cases = picked(again)
    assert sorted(tree(folder)) == sorted(
        [*OF_ALL, *(f"images/{case}_0000.png" for case in cases), *(f"pictures/{case}.png" for case in cases)]
    )
    assert (folder / "labels").is_dir()
    assert "accepted" not in (folder / "worklist.html").read_text()  # there are no pre-labels
    for case in cases:
        copy, image = folder / "images" / f"{case}_0000.png", again.images() / f"{case}_0000.png"
        assert copy.read_bytes() == image.read_bytes() and not copy.samefile(image)
    rows = read_worklist(folder / "worklist.csv")
    record = SelectionRecord.load(again.record())
    (selection,) = record.selections
    for row, pick in zip(rows, selection.picks, strict=True):
        assert row == {
            "rank": str(pick.rank),
            "case": pick.case,
            **dict.fromkeys(("slice", "slice_itksnap", "slice_napari", "position"), ""),
            "files": f"images/{pick.case}_0000.png",
            "label": f"labels/{pick.case}.png",
            "domain": pick.domain,
            "group": "",
            "reason": reason(pick, alpha=selection.alpha),
            "minutes": "",
            "selection": record.id,
        }
    note = (folder / "README.txt").read_text()
    assert "1       blob" in note and f"labels/{cases[0]}.png" in note
    for tool in ("3D Slicer", "ITK-SNAP", "MITK", "Right-click on the segmentation"):
        assert tool in note
    assert [x["name"] for x in json.loads((folder / "labels.json").read_text())] == ["background", "blob"]


def test_dataset_without_usable_labels(workspace, capsys):
    path = workspace.raw / TARGET / "dataset.json"
    for labels, words in ((None, "names no labels"), ({"background": 0, "a": 1, "ignore": 1}, "do not fit nnU-Net")):
        description = {**json.loads(path.read_text()), "labels": labels}
        path.write_text(json.dumps(description))
        fails(capsys, select.main, SELECT, words, "dataset.json")


def test_replaced_selection_replaces_the_images(again, capsys):
    succeeds(capsys, select.main, [*SELECT, "--overwrite", "--strategy", "random", "--seed", "5"])
    images = sorted(tree(handover(again) / "images"))
    assert images == sorted(f"{case}_0000.png" for case in picked(again))


def test_what_annotators_keep_beside_the_images_stays(again, capsys, tmp_path):
    images, case = handover(again) / "images", picked(again)[0]
    (images / "session.mrb").write_text("mine")
    write_picture(images / f"{case}_0000.png", picture(3))
    (tmp_path / "exclude.txt").write_text(case)
    succeeds(capsys, select.main, [*SELECT, "--overwrite", "--exclude", str(tmp_path / "exclude.txt")])
    log = again.record().with_name("select.log").read_text()
    assert "also holds session.mrb" in log and f"{case}_0000.png" in log
    expected = {"session.mrb", f"{case}_0000.png", *(f"{case}_0000.png" for case in picked(again))}
    assert set(tree(images)) == expected


def test_a_drawing_over_an_image_is_kept(again, capsys):
    image = handover(again) / "images" / f"{picked(again)[0]}_0000.png"
    write_picture(image, picture(3))
    before = image.read_bytes()
    succeeds(capsys, select.main, SELECT)
    assert image.with_name(f"{image.name}.kept_1").read_bytes() == before
    assert image.read_bytes() == (again.images() / image.name).read_bytes()


def test_nothing_is_removed_through_a_link(again, capsys):
    images = handover(again) / "images"
    shutil.rmtree(images)
    images.symlink_to(again.images())
    before = tree(again.images())
    succeeds(capsys, select.main, [*SELECT, "--overwrite", "--strategy", "random", "--seed", "5"])
    assert tree(again.images()) == before


def test_the_only_images_are_not_removed_through_a_link_further_up(again, capsys):
    """The hand-over lies elsewhere, and dataset.json names the images in it: there are no others."""
    round_01, elsewhere = handover(again), again.root / "elsewhere"
    round_01.rename(elsewhere)
    round_01.symlink_to(elsewhere)
    table = {}
    for image in sorted((elsewhere / "images").iterdir()):
        (again.images() / image.name).unlink()
        table[image.name.removesuffix("_0000.png")] = {"images": [str(image)]}
    write_dataset_json(again.raw / TARGET, dataset=table)
    before = tree(elsewhere / "images")
    succeeds(capsys, select.main, [*SELECT, "--overwrite", "--strategy", "random", "--seed", "5"])
    assert before.items() <= tree(elsewhere / "images").items()


def test_drawn_labels_are_not_replaced(again, capsys):
    draw(again, picked(again)[0])
    before = tree(again.raw), again.record().read_bytes()
    argv = [*SELECT, "--overwrite", "--seed", "1"]
    fails(capsys, select.main, argv, "1 labels of the selection", "nnUNetv2_xssr_collect")
    assert (tree(again.raw), again.record().read_bytes()) == before
    succeeds(capsys, select.main, SELECT)  # the same selection again harms nothing
    assert tree(again.raw) == before[0]


def test_rounds_whose_record_is_gone_keep_their_labels(again, capsys):
    draw(again, picked(again)[0])
    shutil.rmtree(again.preprocessed / TARGET)
    succeeds(capsys, select.main, SELECT)
    assert again.selection()["round"] == 2
    assert len(tree(handover(again, 1) / "labels")) == 1 and not tree(handover(again, 2) / "labels")


def test_study_has_no_handover(again, capsys):
    shutil.rmtree(handover(again))
    again.record().unlink()
    for i in range(10):
        write_picture(again.raw / TARGET / "labelsTr" / f"t_{i:02d}.png", np.zeros((40, 48), np.uint8))
    succeeds(capsys, select.main, ["-d", "2", "-s", "1", "-b", "2", "-device", "cpu"])
    assert not handover(again).exists()
    fails(capsys, collect.main, COLLECT, "nothing to collect", "every case has a label already")
    assert "a study" in succeeds(capsys, status.main, ["-d", "2"])
    assert state(capsys)["mode"] == "study"


# -------------------------------------------------------------------------------------------------------- collect
def test_labels_come_back_in_pieces(again, capsys):
    first, second, third = picked(again)
    draw(again, first)
    out = succeeds(capsys, collect.main, COLLECT)
    assert "labels collected from" in out and "labelled now: 1 of 10" in out
    assert f"still missing: {second}, {third}" in out
    assert folds(again) == [{"train": [first], "val": [first]}]
    assert list(described(again)["dataset"]) == [first] and described(again)["numTraining"] == 1
    draw(again, second, third)
    out = succeeds(capsys, collect.main, COLLECT)
    assert "still missing" not in out
    assert sorted(fold["val"] for fold in folds(again)) == [[case] for case in sorted([first, second, third])]
    assert "nnUNetv2_plan_and_preprocess -d 2 --verify_dataset_integrity" in out
    assert f"nnUNetv2_train {TARGET} 2d 0 -tr XSSRTrainer" in out


def test_what_does_not_fit_does_not_keep_the_rest_back(again, capsys):
    first, second, third = picked(again)
    draw(again, first)
    draw(again, second, value=9)
    draw(again, f"{third}_0000")
    assert collect.main(COLLECT) == 2
    printed = capsys.readouterr()
    folder = "annotate/round_01/labels"
    assert f"does not fit: {folder}/{second}.png: holds 9" in printed.out
    assert f"does not fit: {folder}/{third}_0000.png: no case has this name; is it {third}.png?" in printed.out
    assert "2 labels do not fit, as listed above" in printed.err
    assert list(described(again)["dataset"]) == [first]
    assert folds(again) == [{"train": [first], "val": [first]}]


@pytest.mark.parametrize(("n_labelled", "n_folds"), [(1, 1), (2, 2), (4, 4), (7, 5)])
def test_split_of_so_many_labels(again, capsys, n_labelled, n_folds):
    argv = [*SELECT[:4], "-b", "9", "-device", "cpu", "--overwrite"]
    succeeds(capsys, select.main, argv)
    labelled = sorted(picked(again)[:n_labelled])
    draw(again, *labelled)
    succeeds(capsys, collect.main, COLLECT)
    split = folds(again)
    assert len(split) == n_folds
    assert sorted(case for fold in split for case in fold["val"]) == labelled
    for fold in split:
        assert fold["train"] and (n_labelled == 1 or not set(fold["train"]) & set(fold["val"]))
        assert {*fold["train"], *fold["val"]} == set(labelled)


@pytest.mark.parametrize("given_again", ["whole", "of one case", "nothing", "dataset.json"])
def test_patients_of_earlier_rounds_are_not_torn_apart(again, capsys, given_again):
    table, patients = again.root / "cases.csv", {f"t_{i:02d}": f"p{i // 5}" for i in range(10)}
    rows = [f"{case},{patient}\n" for case, patient in patients.items()]
    table.write_text("case,patient\n" + "".join(rows))
    first = [] if given_again == "dataset.json" else ["--cases", table]
    succeeds(capsys, select.main, [*SELECT, "--overwrite", *first])
    draw(again, *picked(again))
    succeeds(capsys, collect.main, COLLECT)
    second = first if given_again in ("whole", "of one case") else []
    if given_again == "of one case":
        table.write_text("case,patient\n" + rows[0])
    succeeds(capsys, select.main, [*SELECT, *second])
    draw(again, *picked(again), number=2)
    if given_again == "dataset.json":  # told as late as that
        write_dataset_json(again.raw / TARGET, **{**described(again), "groups": patients})
    succeeds(capsys, collect.main, COLLECT)
    assert len({case for fold in folds(again) for case in fold["val"]}) == 6
    for fold in folds(again):
        train, val = ({patients[case] for case in fold[part]} for part in ("train", "val"))
        assert not train & val


def test_at_most_so_many_of_a_patient_over_all_rounds(again, capsys):
    table = again.root / "cases.csv"
    table.write_text("case,patient\n" + "".join(f"t_{i:02d},p{i // 2}\n" for i in range(10)))
    limit = ["--max_per_group", "1"]
    succeeds(capsys, select.main, [*SELECT, "--overwrite", *limit, "--cases", table])
    first = collected(again, capsys)
    succeeds(capsys, select.main, [*SELECT[:4], "-b", "2", "-device", "cpu", *limit])
    assert len({int(case[-2:]) // 2 for case in [*first, *picked(again)]}) == 5


def test_labels_that_a_list_of_labelled_cases_leaves_out_are_named(workspace, capsys):
    names = workspace.root / "labelled.txt"
    names.write_text("t_00\n")
    argv = [*SELECT[:4], "-b", "2", "-device", "cpu", "--labelled", names]
    succeeds(capsys, select.main, argv)
    first = collected(workspace, capsys)
    assert select.main([str(word) for word in argv]) == 0
    assert f"{first[0]}, {first[1]}, 2 of the picks of round 1, have a label" in capsys.readouterr().out
    assert sorted(picked(workspace)) == first
    names.write_text("\n".join(["t_00", *first]))
    assert select.main([str(word) for word in argv]) == 0
    assert "have a label that" not in capsys.readouterr().out
    assert workspace.selection()["round"] == 2 and not set(picked(workspace)) & set(first)


def test_patients_of_a_label_that_comes_late(again, capsys):
    table = again.root / "cases.csv"
    table.write_text("case,patient\n" + "".join(f"t_{i:02d},p{i // 5}\n" for i in range(10)))
    cases = ["--cases", table]
    succeeds(capsys, select.main, [*SELECT[:4], "-b", "4", "-device", "cpu", "--overwrite", *cases])
    first, *late = picked(again)
    draw(again, first)
    succeeds(capsys, collect.main, COLLECT)
    succeeds(capsys, select.main, [*SELECT[:4], "-b", "1", "-device", "cpu", "--overwrite", *cases])
    draw(again, *late)
    succeeds(capsys, collect.main, [*COLLECT, "-l", handover(again) / "labels"])
    assert len({case for fold in folds(again) for case in fold["val"]}) == 4
    for fold in folds(again):
        train, val = ({int(case[-2:]) // 5 for case in fold[part]} for part in ("train", "val"))
        assert not train & val


def test_collect_from_elsewhere(again, capsys):
    case = picked(again)[0]
    draw(again, case)
    elsewhere = (handover(again) / "labels").rename(again.root / "stick")
    succeeds(capsys, collect.main, [*COLLECT, "-l", elsewhere])
    assert (again.raw / TARGET / "labelsTr" / f"{case}.png").read_bytes() == (elsewhere / f"{case}.png").read_bytes()
    fails(capsys, collect.main, COLLECT, "no folder of labels", "give it with -l")


def test_empty_label_needs_consent(again, capsys):
    case = picked(again)[0]
    draw(again, case, value=0)
    assert collect.main(COLLECT) == 2 and described(again)["numTraining"] == 0
    fails(capsys, collect.main, [*COLLECT, "--allow_empty", "t_99"], "--allow_empty names t_99", TARGET)
    succeeds(capsys, collect.main, [*COLLECT, "--allow_empty"])
    assert described(again)["numTraining"] == 1


def test_collect_before_select(workspace, capsys):
    fails(capsys, collect.main, COLLECT, "nothing was chosen for annotation", "nnUNetv2_xssr_select")


def test_unlabelled_picks_are_refused_in_training_until_collected(again, capsys, monkeypatch):
    draw(again, picked(again)[0])
    plans = {"dataset_name": TARGET, "plans_name": "nnUNetPlans", "configurations": {"2d": {"data_identifier": "x"}}}
    with pytest.raises(SystemExit):
        XSSRTrainer(plans, "2d", 0, described(again))
    assert f"nnUNetv2_xssr_collect -d {TARGET}\n" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- rounds
def test_next_round_goes_on_from_the_labels(again, capsys):
    first = picked(again)
    draw(again, *first)
    succeeds(capsys, collect.main, COLLECT)
    out = succeeds(capsys, select.main, [*SELECT[:4], "-b", "2", "-device", "cpu"])
    assert "3 have a label already and cost nothing" in out
    record = again.selection()
    assert record["round"] == 2 and record["selections"][0]["labelled"] == sorted(first)
    assert len(picked(again)) == 2 and not set(picked(again)) & set(first)
    kept = SelectionRecord.load(again.record().with_name("selection_round_01.json"))
    assert kept.round == 1 and kept.picked == first
    assert sorted(tree(handover(again, 2) / "images")) == sorted(f"{case}_0000.png" for case in picked(again))
    draw(again, *picked(again), number=2)
    succeeds(capsys, collect.main, COLLECT)
    assert sorted(case for fold in folds(again) for case in fold["val"]) == sorted([*first, *picked(again)])
    assert [one["missing"] for one in state(capsys)["rounds"]] == [[], []]
    text = succeeds(capsys, status.main, COLLECT)
    assert "round 1: 3 picked, 3 labelled\n" in text and "round 2: 2 picked, 2 labelled\n" in text


def test_status_of_many_rounds_and_folds_stays_short(again, capsys):
    for number in range(1, 6):
        draw(again, *picked(again), number=number)
        succeeds(capsys, collect.main, COLLECT)
        succeeds(capsys, select.main, [*SELECT[:4], "-b", "1", "-device", "cpu"])
        for trainer in ("XSSRTrainer", "XSSRTrainer_5epochs"):
            (again.results / TARGET / f"{trainer}__nnUNetPlans__2d" / f"fold_{number}").mkdir(parents=True)
    text = succeeds(capsys, status.main, COLLECT)
    assert len(text.splitlines()) <= 12
    assert "rounds 1 to 5: 7 picked, 7 labelled" in text and "round 6: 1 picked, 0 labelled" in text
    assert "XSSRTrainer_5epochs__nnUNetPlans__2d: fold 1, 2, 3, 4, 5 begun" in text


def test_missing_labels_hold_the_next_round_back(again, capsys):
    first, second, third = picked(again)
    draw(again, first)
    succeeds(capsys, collect.main, COLLECT)
    before = tree(again.preprocessed / TARGET)
    sentence = fails(capsys, select.main, SELECT, "round 1", "2 of 3 cases", f"({second}, {third})", "--overwrite")
    assert "nnUNetv2_xssr_collect" in sentence
    assert tree(again.preprocessed / TARGET) == before
    succeeds(capsys, select.main, [*SELECT, "--overwrite"])
    record = again.selection()
    assert record["round"] == 2 and record["selections"][0]["labelled"] == [first]
    draw(again, second)  # one of round 1 that comes late is welcome all the same
    succeeds(capsys, collect.main, [*COLLECT, "-l", handover(again, 1) / "labels"])
    assert sorted(described(again)["dataset"]) == sorted([first, second])


def test_only_new_cases_are_embedded_in_the_next_round(again, capsys, monkeypatch):
    from nnunetv2_xssr.encoders import mae

    draw(again, *picked(again))
    succeeds(capsys, collect.main, COLLECT)
    write_picture(again.images() / "t_99_0000.png", picture(99))
    embedded = []
    original = mae.embed_views
    monkeypatch.setattr(mae, "embed_views", lambda *a: embedded.append(1) or original(*a))
    succeeds(capsys, select.main, SELECT)
    assert len(embedded) == 1 and again.selection()["selections"][0]["pool_size"] == 11


def test_interrupted_next_round_can_be_typed_again(again, capsys, monkeypatch):
    draw(again, *picked(again))
    succeeds(capsys, collect.main, COLLECT)
    first = again.record().read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(SelectionRecord, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert select.main(SELECT) == 130
    assert again.record().read_bytes() == first
    assert [one["number"] for one in state(capsys)["rounds"]] == [1]
    succeeds(capsys, select.main, SELECT)
    assert [one["number"] for one in state(capsys)["rounds"]] == [1, 2]


def test_everything_labelled(again, capsys):
    draw(again, *picked(again))
    succeeds(capsys, collect.main, COLLECT)
    succeeds(capsys, select.main, [*SELECT[:4], "-b", "7", "-device", "cpu"])
    draw(again, *picked(again), number=2)
    succeeds(capsys, collect.main, COLLECT)
    fails(capsys, select.main, SELECT, "every case of", "after round 2", "nothing is left to choose", "--overwrite")
    succeeds(capsys, select.main, [*SELECT, "--overwrite"])
    assert again.selection()["mode"] == "study"
    assert len(state(capsys)["rounds"]) == 2


def test_label_that_was_saved_over_its_image_is_pointed_out(again, capsys):
    first, second, third = picked(again)
    draw(again, second)
    for case in (first, second):
        write_picture(handover(again) / "images" / f"{case}_0000.png", blob())
    out = succeeds(capsys, collect.main, COLLECT)
    assert f"{first}_0000.png is not the image of {first} any more; if a label was saved over it, move it" in out
    assert f"{second}_0000.png" not in out and f"{third}_0000.png" not in out


# --------------------------------------------------------------------------------------------------------- status
def test_nothing_is_proposed_where_nothing_is_left(again, capsys):
    out = list(set(f"t_{i:02d}" for i in range(10)) - set(picked(again)))
    (again.root / "out.txt").write_text("\n".join(out))
    succeeds(capsys, select.main, [*SELECT, "--overwrite", "--exclude", again.root / "out.txt"])
    collected(again, capsys)
    preprocess(again)
    train(again)
    assert steps(capsys) == ["nothing: no case is left to choose"]


def test_labels_that_were_collected_wait_no_more(again, capsys):
    first, second, third = picked(again)
    draw(again, first)
    succeeds(capsys, collect.main, COLLECT)
    assert state(capsys)["rounds"][0]["returned"] == 0
    assert steps(capsys)[0].startswith("annotate the images in")
    write_picture(handover(again) / "labels" / f"{second}_label.png", blob())
    assert state(capsys)["rounds"][0]["returned"] == 1 and steps(capsys)[0].startswith("nnUNetv2_xssr_collect")


def test_status_tells_the_next_step(workspace, capsys):
    def told():
        lines = succeeds(capsys, status.main, COLLECT).splitlines()
        assert len(lines) <= 12
        return "\n".join(lines), [line.strip() for line in lines[lines.index("next:") + 1 :]]

    text, steps = told()
    assert "nothing chosen yet" in text and steps == ["nnUNetv2_xssr_select -d 2 -s SOURCE -b 5%"]
    succeeds(capsys, select.main, SELECT)
    text, steps = told()
    cases = picked(workspace)
    assert f"round 1: 3 picked, 0 labelled, 3 missing ({', '.join(cases)})" in text
    assert steps == [
        f"annotate the images in {handover(workspace)}, as its README.txt says",
        "nnUNetv2_xssr_collect -d 2",
    ]
    draw(workspace, *cases)
    text, steps = told()
    assert "3 files wait in" in text and steps == ["nnUNetv2_xssr_collect -d 2"]
    succeeds(capsys, collect.main, COLLECT)
    text, steps = told()
    assert "3 picked, 3 labelled" in text and "3 folds of 3 cases, 3 not preprocessed" in text
    plan, train_step = steps
    assert plan == "nnUNetv2_plan_and_preprocess -d 2 --verify_dataset_integrity"
    assert train_step.startswith(f"nnUNetv2_train {TARGET} 2d 0 -tr XSSRTrainer")
    preprocess(workspace)
    assert told()[1] == [train_step]
    train(workspace, finished=False)
    assert "XSSRTrainer__nnUNetPlans__2d: fold 0 begun" in told()[0] and told()[1] == [train_step]
    train(workspace)
    text, steps = told()
    assert "fold 0 finished" in text and "present split" not in text
    assert steps == [f"nnUNetv2_xssr_select -d 2 -s {SOURCE} -b 3"]


def test_fold_is_current_while_it_was_trained_on_the_cases_of_the_split(again, capsys):
    cases = collected(again, capsys)
    preprocess(again)
    folder = train(again)

    def trained():
        return state(capsys)["trained"]

    assert trained() == [{"name": "XSSRTrainer__nnUNetPlans__2d/fold_0", "finished": True, "current": True}]
    for path in folder.iterdir():  # copied from another computer
        os.utime(path, (1, 1))
    succeeds(capsys, collect.main, COLLECT)
    succeeds(capsys, select.main, SELECT[:4] + ["-b", "1", "-device", "cpu"])
    assert trained()[0]["current"]
    train(again, train=cases[:1])
    assert not trained()[0]["current"]
    assert "fold 0 finished, not on the present split" in succeeds(capsys, status.main, COLLECT)
    train(again, fold="all", train=cases, val=cases)
    assert [fold["current"] for fold in trained()] == [False, True]
    (folder / "xssr_fold.json").unlink()
    assert not trained()[0]["current"]


def test_folds_of_other_selections_do_not_count(again, capsys):
    succeeds(capsys, select.main, [*SELECT, "--name", "other"])
    collected(again, capsys, "other")
    preprocess(again)
    train(again, "XSSRTrainer_other__nnUNetPlans__2d", selection="other")
    train(again, "XSSRTrainer_50epochs_other__nnUNetPlans__2d", selection="other")
    train(again, "XSSRTrainer_another__nnUNetPlans__2d", selection="other")
    assert state(capsys)["trained"] == []
    names = [
        fold["name"]
        for fold in json.loads(succeeds(capsys, status.main, [*COLLECT, "--name", "other", "--json"]))["trained"]
    ]
    assert names == ["XSSRTrainer_50epochs_other__nnUNetPlans__2d/fold_0", "XSSRTrainer_other__nnUNetPlans__2d/fold_0"]


def test_next_steps_of_a_named_selection(again, capsys):
    succeeds(capsys, select.main, [*SELECT, "--name", "other"])
    assert steps(capsys, "--name", "other")[-1] == "nnUNetv2_xssr_collect -d 2 --name other"
    collected(again, capsys, "other")
    preprocess(again)
    (step,) = steps(capsys, "--name", "other")
    assert step.startswith(f"nnUNetv2_train {TARGET} 2d 0 -tr XSSRTrainer_other")
    train(again, "XSSRTrainer_other__nnUNetPlans__2d", selection="other")
    assert steps(capsys, "--name", "other") == [f"nnUNetv2_xssr_select -d 2 --name other -s {SOURCE} -b 3"]


RESENC = {"plans": "nnUNetResEncUNetMPlans", "planner": "nnUNetPlannerResEncM", "data": "nnUNetPlans_{}"}


def test_cases_that_other_plans_preprocessed(again, capsys):
    collected(again, capsys)
    preprocess(again, **RESENC)
    assert state(capsys)["not_preprocessed"] == 0
    (step,) = steps(capsys)
    assert step.startswith(f"nnUNetv2_train {TARGET} 2d 0 -tr XSSRTrainer -p nnUNetResEncUNetMPlans")
    shutil.rmtree(again.preprocessed / TARGET / "nnUNetPlans_2d")
    assert state(capsys)["not_preprocessed"] == 3
    plan, step = steps(capsys)
    assert plan.startswith("nnUNetv2_plan_and_preprocess -d 2 -pl nnUNetPlannerResEncM ")
    assert "-overwrite_plans_name nnUNetResEncUNetMPlans" in plan and "-p nnUNetResEncUNetMPlans" in step
    preprocess(again)  # nnU-Net's default goes first
    assert " -p" not in steps(capsys)[-1] and state(capsys)["not_preprocessed"] == 0


def test_volumes_that_were_preprocessed_in_2d_alone(volumes, capsys):
    succeeds(capsys, select.main, [*SELECT_SLICES, "-b", "4"])
    cases = picked(volumes, VOLUMES)
    draw_slices(volumes, *cases)
    out = succeeds(capsys, collect.main, ["-d", "31"])
    assert "nnUNetv2_train Dataset031_Volumes 3d_fullres 0" in out
    preprocess(volumes, name=VOLUMES)
    (step,) = steps(capsys, "-d", "31")
    assert step.startswith("nnUNetv2_train Dataset031_Volumes 2d 0")
    preprocess(volumes, name=VOLUMES, configurations=("2d", "3d_fullres"))
    (step,) = steps(capsys, "-d", "31")
    assert step.startswith("nnUNetv2_train Dataset031_Volumes 3d_fullres 0")


def test_next_steps_keep_the_network_that_was_trained(again, capsys):
    collected(again, capsys)
    preprocess(again)
    preprocess(again, **RESENC)
    train(again, "XSSRTrainer_50epochs__nnUNetResEncUNetMPlans__small", train=[])
    (step,) = steps(capsys)
    assert step.startswith(f"nnUNetv2_train {TARGET} small 0 -tr XSSRTrainer_50epochs -p nnUNetResEncUNetMPlans")


def test_next_steps_ask_for_the_weights_that_a_training_began_with(again, capsys):
    collected(again, capsys)
    preprocess(again)
    train(again, "XSSRTrainer_pretrained_frozen_50epochs__nnUNetPlans__2d", train=[])
    (step,) = steps(capsys)
    assert "-tr XSSRTrainer_pretrained_frozen_50epochs -pretrained_weights FILE" in step


def test_corrected_labels_are_named_until_they_are_preprocessed(again, capsys):
    first, *_ = collected(again, capsys)
    preprocess(again, configurations=("2d", "3d_fullres"))
    train(again)
    label = again.raw / TARGET / "labelsTr" / f"{first}.png"
    before = label.stat()
    write_picture(label, blob(to=20))
    os.utime(label, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert state(capsys)["changed"] == [first]
    text = succeeds(capsys, status.main, COLLECT)
    assert f"labels that changed after nnU-Net preprocessed them: {first}\n" in text
    copies = again.preprocessed / TARGET / "gt_segmentations"
    remove, again_step, train_step = steps(capsys)
    assert remove == f"rm -r {copies}"
    assert again_step == "nnUNetv2_preprocess -d 2 -plans_name nnUNetPlans -c 2d 3d_fullres"
    assert train_step.startswith("nnUNetv2_train")
    shutil.rmtree(copies)
    assert state(capsys)["not_preprocessed"] == 3  # not only half of what was said
    preprocess(again)
    assert state(capsys)["changed"] == [] and state(capsys)["not_preprocessed"] == 0


def test_label_that_is_collected_again_is_a_changed_one(again, capsys):
    first, *_ = collected(again, capsys)
    preprocess(again)
    (again.raw / TARGET / "labelsTr" / f"{first}.png").unlink()
    write_picture(handover(again) / "labels" / f"{first}.png", blob(to=20))
    assert f"rm -r {again.preprocessed / TARGET / 'gt_segmentations'}" in succeeds(capsys, collect.main, COLLECT)
    assert state(capsys)["changed"] == [first]


def test_next_steps_are_quoted_for_a_shell(again, capsys):
    first, *_ = collected(again, capsys)
    preprocess(again)
    project = replace(
        project_status("2"), dataset="Dataset002_My Target", changed=[first], preprocessed_labels="/my data/gt"
    )
    remove, _, train_step = (shlex.split(step) for step in next_steps(project, device="cuda"))
    assert remove == ["rm", "-r", "/my data/gt"]
    assert train_step == ["nnUNetv2_train", "Dataset002_My Target", "2d", "0", "-tr", "XSSRTrainer"]


def test_labels_of_cases_that_were_not_chosen_are_not_taken(again, capsys):
    first, *_ = picked(again)
    returned, by_hand = [f"t_{i:02d}" for i in range(10) if f"t_{i:02d}" not in picked(again)][:2]
    draw(again, first, returned)
    write_picture(again.raw / TARGET / "labelsTr" / f"{by_hand}.png", blob())
    out = succeeds(capsys, collect.main, COLLECT)
    assert f"not asked for and left alone: {returned}.png, 1 in all" in out
    assert list(described(again)["dataset"]) == [first] and folds(again) == [{"train": [first], "val": [first]}]
    assert not (again.raw / TARGET / "labelsTr" / f"{returned}.png").exists()


def test_labels_of_another_selection_are_not_trained_on(again, capsys):
    succeeds(capsys, select.main, [*SELECT, "--name", "other", "--strategy", "random", "--seed", "3"])
    others = collected(again, capsys, "other")
    first, *_ = picked(again)
    draw(again, first)
    succeeds(capsys, collect.main, COLLECT)
    assert {case for fold in folds(again) for case in fold["val"]} == {first, *(set(others) & set(picked(again)))}


def test_options_of_collect(again, capsys):
    case = picked(again)[0]
    draw(again, f"{case}_0000", value=255)
    assert collect.main(COLLECT) == 2 and "--fix_names" in capsys.readouterr().out
    assert collect.main([*COLLECT, "--fix_names"]) == 2 and "--values 255=1" in capsys.readouterr().out
    succeeds(capsys, collect.main, [*COLLECT, "--fix_names", "--values", "255=1", "128=1"])
    assert list(described(again)["dataset"]) == [case]
    for values, words in (
        (["255"], "--values must be whole numbers such as 255=1"),
        (["255=1", "255=0"], "each number once on the left"),
        (["255=x"], "got '255=x'"),
        (["255=7"], f"--values must end in a label of {TARGET}, which are 0 (background), 1 (blob); got 255=7"),
    ):
        fails(capsys, collect.main, [*COLLECT, "--values", *values], words)


def test_fold_without_cases_is_not_trained_next(again, capsys):
    first, second, third = collected(again, capsys)
    preprocess(again)
    left = [{"train": [second, third], "val": []}, {"train": [third], "val": [second]}]
    again.split().write_text(json.dumps(left))
    assert steps(capsys)[0].startswith(f"nnUNetv2_train {TARGET} 2d 1 -tr XSSRTrainer")


def test_status_tells_coverage_and_alpha(again, capsys):
    selection = SelectionRecord.load(again.record()).selections[0]
    words = f"mean distance to the nearest pick: {selection.mean_distance:.3f} (random picks: "
    (line,) = [line for line in succeeds(capsys, status.main, COLLECT).splitlines() if line.startswith(words)]
    assert f"; alpha = {selection.alpha:g} (" in line


def test_status_counts_the_same_in_json(again, capsys):
    facts = state(capsys)
    assert (facts["dataset"], facts["cases"], facts["domains"], facts["labelled"]) == (TARGET, 10, 2, 0)
    assert facts["rounds"][0]["missing"] == picked(again) and facts["sources"] == [SOURCE]
    selection = again.selection()["selections"][0]
    assert facts["mean_distance"] == selection["mean_distance"] and facts["alpha"] == selection["alpha"]
    assert facts["not_labelled"] == facts["in_split"] == facts["folds"] == 0  # before labels are collected


def test_label_put_into_the_dataset_by_hand_is_to_be_collected(again, capsys):
    case = picked(again)[0]
    draw(again, case)
    shutil.copytree(handover(again) / "labels", again.raw / TARGET / "labelsTr")
    shutil.rmtree(handover(again) / "labels")
    (handover(again) / "labels").mkdir()
    assert state(capsys)["uncollected"] == 1
    succeeds(capsys, collect.main, COLLECT)
    assert state(capsys)["uncollected"] == 0 and list(described(again)["dataset"]) == [case]


def test_rounds_are_called_by_their_numbers(again, capsys):
    """Hand-overs of rounds whose record is gone keep their numbers."""
    draw(again, *picked(again))
    again.forget_selection()
    for _ in range(2):
        succeeds(capsys, select.main, SELECT)
        number = again.selection()["round"]
        draw(again, *picked(again), number=number)
        succeeds(capsys, collect.main, COLLECT)
    text = succeeds(capsys, status.main, ["-d", "2"])
    assert number == 3 and "round 2: 3 picked, 3 labelled\nround 3: 3 picked, 3 labelled\n" in text
