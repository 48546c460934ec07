"""Caches that no selection refers to go on request, and no others."""

import json

import pytest
from making import SOURCE, TARGET, fails, picture, succeeds, write_picture

from nnunetv2_xssr.commands import report, select, status

SELECT = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"]


def caches(workspace, name=TARGET):
    folder = workspace.preprocessed / name / "xssr" / "caches"
    return {str(file.relative_to(folder)) for file in folder.glob("*/*")}


def clean(capsys, number):
    return succeeds(capsys, status.main, ["-d", number, "--clean"])


def test_caches_of_selections_stay(again, capsys):
    before = caches(again), caches(again, SOURCE)
    assert all(len(files) == 6 for files in before)  # rows and index of views, facts and embeddings
    for number in "12":  # the source is that of the target's selection
        assert "all are needed, none was removed" in clean(capsys, number)
    assert (caches(again), caches(again, SOURCE)) == before


def test_caches_of_replaced_selections_go(again, capsys):
    before = caches(again)
    write_picture(again.images() / "t_03_0000.png", picture(999))
    succeeds(capsys, select.main, [*SELECT, "--overwrite"])
    after = caches(again) - before
    assert before < caches(again) and len(after) == 6
    out = clean(capsys, "2")
    assert caches(again) == after
    assert "MB that nothing needs any more" in out
    assert all(file in out for file in before) and not any(file in out for file in after)
    succeeds(capsys, report.main, ["-d", "2"])


def test_caches_of_every_name_and_round_stay(again, capsys):
    """Two selections of different images of one dataset, at once."""
    write_picture(again.images() / "t_03_0000.png", picture(999))
    succeeds(capsys, select.main, [*SELECT, "--name", "other"])
    again.record().rename(again.record().with_name("selection_round_01.json"))
    before = caches(again)
    assert len(before) == 12
    clean(capsys, "2")
    assert caches(again) == before


def test_folders_that_are_links_stay(again, capsys):
    folder, elsewhere = again.preprocessed / TARGET / "xssr" / "caches" / "views", again.root / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    again.forget_selection()
    assert "MB that nothing needs any more" in clean(capsys, "2")
    assert folder.is_symlink() and not list(elsewhere.iterdir())


def test_files_of_former_versions_go_and_files_of_others_stay(again, capsys):
    folder = again.preprocessed / TARGET / "xssr" / "caches"
    for name in ("views/index.json", "volumes/rows_0123456789ab.npy", "hssl_notes/case.npy", "views/notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    before = caches(again)
    clean(capsys, "2")
    assert before - caches(again) == {"views/index.json", "volumes/rows_0123456789ab.npy"}


def test_caches_of_hssl_and_of_plain_folders_go(again, capsys):
    """What a selection needs of a plain folder stays."""
    folder = again.root / "archive"
    for i in range(3):
        write_picture(folder / f"a_{i}.png", picture(i))
    encoder = ["--encoder", "intensity", "-device", "cpu"]
    succeeds(capsys, select.main, ["-d", "2", "-s", folder, "-b", "3", "--name", "other", *encoder])
    (pool,) = [path.name for path in again.preprocessed.iterdir() if path.name.startswith("archive")]
    needed = caches(again, pool)
    assert needed and "hssl" not in str(needed)
    made = [f"hssl_0123456789ab/a_0.{ending}" for ending in ("b2nd", "npy")] + ["views/rows_0123456789ab.npy"]
    for name in (TARGET, pool):
        for file in made:
            path = again.preprocessed / name / "xssr" / "caches" / file
            path.parent.mkdir(exist_ok=True)
            path.write_text("")
    before = caches(again)
    out = clean(capsys, "2")
    assert caches(again) == before - set(made) and caches(again, pool) == needed
    for name in (TARGET, pool):
        home = again.preprocessed / name / "xssr" / "caches"
        assert all(str(home / file) in out for file in made) and not (home / made[0]).parent.exists()


@pytest.mark.parametrize("damage", ["cut off", "of a newer version"])
def test_nothing_goes_where_a_record_cannot_be_read(again, capsys, damage):
    before = caches(again)
    succeeds(capsys, select.main, [*SELECT, "--name", "other"])
    record = again.preprocessed / TARGET / "xssr" / "other" / "selection.json"
    content = json.loads(record.read_text())
    record.write_text('{"kind": ' if damage == "cut off" else json.dumps({**content, "format_version": 99}))
    fails(capsys, status.main, ["-d", "2", "--clean"], record)
    assert caches(again) == before
