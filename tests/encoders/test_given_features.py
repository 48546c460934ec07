"""Features made elsewhere: by --embeddings, and as nnUNetv2_xssr_embed writes them."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from making import SOURCE, TARGET, fails, picture, succeeds, write_picture

from nnunetv2_xssr.commands import embed, report, select, status
from nnunetv2_xssr.encoders.feature_files import FeatureFile, read_features, write_features
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.selection import select as select_rows

CASES, ARCHIVE = [f"t_{i:02d}" for i in range(10)], [f"s_{i:02d}" for i in range(6)]
BASE = ["-d", "2", "-b", "3", "-device", "cpu"]
ENDINGS = (".npz", ".npy", ".csv", ".parquet")


def features(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)


def write(path, cases, rows):
    """A file of features as somebody else would write it."""
    rows = np.asarray(rows)
    if path.suffix == ".npz":
        np.savez(path, cases=np.array(cases), features=rows)
    elif path.suffix == ".npy":
        np.save(path, rows)
        path.with_suffix(".txt").write_text("\ufeff" + "\r\n".join(cases) + "\n", "utf-8")
    elif path.suffix == ".csv":
        lines = [[case, *row] for case, row in zip(cases, rows.tolist(), strict=False)]
        header = ["case", *(f"f{i}" for i in range(rows.shape[1]))]
        path.write_text("\n".join(",".join(map(str, line)) for line in [header, *lines]) + "\n")
    else:
        pandas = pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
        pandas.DataFrame(rows, columns=[f"f{i}" for i in range(rows.shape[1])]).assign(case=cases).to_parquet(path)
    return path


def picked(workspace):
    return [pick["case"] for pick in workspace.selection()["selections"][0]["picks"]]


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_are_taken_by_name_and_in_the_order_of_the_pool(tmp_path, ending):
    file = write(tmp_path / f"f{ending}", CASES[::-1], features(10)[::-1])
    names, rows, _ = read_features(file, option="--embeddings", cases=CASES)
    assert names == CASES and rows.tobytes() == features(10).tobytes()


@pytest.mark.parametrize("ending", [".npz", ".csv"])
@pytest.mark.parametrize("widths", [None, [3, 2], [1, 3, 1]])
def test_what_is_written_is_read_to_the_last_digit(tmp_path, ending, widths):
    rows = features(10) * np.float32(1e-30)
    write_features(tmp_path / f"f{ending}", FeatureFile(CASES, rows, widths))
    cases, back, sorts = read_features(tmp_path / f"f{ending}", option="-o", cases=None)
    assert (cases, back.tobytes(), sorts) == (CASES, rows.tobytes(), widths)


@pytest.mark.parametrize(
    "columns", ["sort1_feature_1,sort1_feature_0", "sort1_feature_0,b", "sort2_feature_0,sort1_feature_0"]
)
def test_columns_of_other_names_are_of_one_sort(tmp_path, columns):
    (tmp_path / "f.csv").write_text(f"case,{columns}\na,1,2\nb,2,1\n")
    assert read_features(tmp_path / "f.csv", option="--embeddings", cases=None).widths is None


def test_a_feature_that_is_the_same_for_all_loses_nothing(tmp_path):
    rows = np.c_[features(10), np.full(10, 0.1)]
    assert (read_features(write(tmp_path / "f.npz", CASES, rows), option="-o", cases=None)[1] == np.float32(rows)).all()


def test_select_picks_by_them_and_reads_no_image(again, capsys):
    again.record().unlink()
    shutil.rmtree(again.raw / TARGET / "annotate")
    for image in [*again.images(SOURCE).glob("*"), *again.images().glob("*")]:
        image.write_bytes(b"nothing that could be read")
    pool = write(again.root / "pool.npz", CASES, features(10))
    source = write(again.root / "archive.csv", ARCHIVE, features(6, seed=1))
    out = succeeds(capsys, select.main, [*BASE, "-s", "1", "--embeddings", pool, "--source_embeddings", source])
    assert "No source" not in out
    expected = select_rows(features(10), budget=3, source=features(6, seed=1), components=32)
    assert picked(again) == [CASES[i] for i in expected.picks]
    record = again.selection()
    assert record["encoder"]["name"] == f"embeddings:{pool}" and record["encoder"]["pooling"] == "average"
    assert record["settings"]["source"] == [SOURCE]
    told = json.loads(succeeds(capsys, report.main, ["-d", "2", "--json"]))
    assert list(told["sources"].values()) == [6]
    page = (again.record().parent / "report.html").read_text()
    assert "is gone, or is another one since it was chosen" in page
    assert str(pool) in succeeds(capsys, status.main, ["-d", "2"])
    succeeds(capsys, status.main, ["-d", "2", "--clean"])
    succeeds(capsys, report.main, ["-d", "2"])


def test_the_report_shows_picks_by_their_images(again, capsys):
    again.record().unlink()
    succeeds(capsys, select.main, [*BASE, "--embeddings", write(again.root / "pool.npz", CASES, features(10))])
    page = (again.record().parent / "report.html").read_text()
    assert "is gone" not in page
    images = json.loads(re.search(r'<script type="application/json" id="images">(.*?)</script>', page, re.S)[1])
    assert sorted(images[""]) == sorted(picked(again))


def test_without_features_of_a_source_novelty_is_off(workspace, capsys):
    pool = write(workspace.root / "pool.npz", CASES, features(10))
    out = succeeds(capsys, select.main, [*BASE, "--embeddings", pool])
    assert "No source (-s)" in out and workspace.selection()["selections"][0]["alpha"] == 0


def test_the_source_need_not_be_here(workspace, capsys):
    pool = write(workspace.root / "pool.npz", CASES, features(10))
    source = write(workspace.root / "archive.npz", ["any", "name"], features(2, seed=1))
    succeeds(capsys, select.main, [*BASE, "--embeddings", pool, "--source_embeddings", source])
    assert list(workspace.selection()["provenance"]["source"])[0].startswith("archive_")


def test_one_feature_is_refused(workspace, capsys):
    """Rows are scaled to unit length: all cases on one side of the mean would be copies."""
    pool = write(workspace.root / "pool.npz", CASES, np.c_[np.full((10, 2), 0.1), features(10)[:, :1]])
    fails(capsys, select.main, [*BASE, "--embeddings", pool], f"{pool} has one feature that differs between cases")


def test_tiny_features_are_no_constants(workspace, capsys):
    pool = write(workspace.root / "pool.npz", CASES, features(10) * np.float32(1e-30))
    succeeds(capsys, select.main, [*BASE, "--embeddings", pool])
    assert picked(workspace) == [CASES[i] for i in select_rows(features(10), budget=3, components=32).picks]


def test_other_features_are_another_selection(workspace, capsys):
    pool = write(workspace.root / "pool.npz", CASES, features(10))
    argv = [*BASE, "--embeddings", pool]
    succeeds(capsys, select.main, argv)
    succeeds(capsys, select.main, argv)
    write(pool, CASES, features(10, seed=5))
    fails(capsys, select.main, argv, "other provenance", "--overwrite")
    succeeds(capsys, select.main, [*argv, "--overwrite"])


# --- nnUNetv2_xssr_embed


@pytest.mark.parametrize("ending", [".npz", ".csv"])
@pytest.mark.parametrize("sources", [["1"], ["1", "archive"], []])
def test_select_picks_the_same_with_what_embed_writes(workspace, capsys, ending, sources, monkeypatch):
    monkeypatch.chdir(workspace.root)
    for i in range(3):
        write_picture(workspace.root / "archive" / f"s_0{i}.png", picture(700 + i))
    of_source = ["-s", *sources] if sources else []
    options = ["--encoder", "intensity"]
    succeeds(capsys, select.main, [*BASE, *of_source, *options])
    expected = workspace.selection()["selections"]
    file = workspace.root / f"features{ending}"
    out = succeeds(capsys, embed.main, ["-d", "2", *of_source, *options, "-o", file, "-device", "cpu"])
    argv = out.split("next: nnUNetv2_xssr_select ")[1].split()
    assert argv[-2:] == ["-b", "5%"]
    succeeds(capsys, select.main, [*argv[:-2], "-b", "3", "-device", "cpu", "--overwrite"])
    assert workspace.selection()["selections"] == expected


def test_embed_writes_by_the_default_encoder_what_select_compares(workspace, capsys):
    succeeds(capsys, select.main, [*BASE, "-s", "1"])
    expected = workspace.selection()["selections"]
    file = workspace.root / "features.npz"
    succeeds(capsys, embed.main, ["-d", "2", "-s", "1", "-o", file, "-device", "cpu"])
    given = ["--embeddings", file, "--source_embeddings", workspace.root / "features_source.npz"]
    succeeds(capsys, select.main, [*BASE, "-s", "1", *given, "--overwrite"])
    assert workspace.selection()["selections"] == expected


def test_embed_replaces_nothing_and_knows_two_endings(workspace, capsys):
    (workspace.root / "f_source.npz").write_text("mine")
    argv = ["-d", "2", "-s", "1", "--encoder", "intensity", "-o"]
    fails(capsys, embed.main, [*argv, workspace.root / "f.npz"], "f_source.npz is there already", "another -o")
    fails(capsys, embed.main, [*argv, workspace.root / "f.txt"], "-o, by its ending, must be one of .npz, .csv")
    assert not (workspace.root / "f.npz").exists()


KILLED = """
import os, sys
from pathlib import Path
from nnunetv2_xssr.records.files import atomic_together
links, link = [], os.link

def killed(*names):
    links.append(link(*names))
    if len(links) == int(sys.argv[1]):
        os._exit(9)

os.link = killed
with atomic_together([Path("f_source.npz"), Path("f.npz")]) as temporary:
    for one in temporary:
        one.write_text("of before")
"""


def killed_after(n, folder):
    """Put files into their places, and be killed after so many of two."""
    assert subprocess.run([sys.executable, "-c", KILLED, str(n)], cwd=folder).returncode == 9


def test_embed_killed_between_its_files_can_be_typed_again(workspace, capsys):
    argv = ["-d", "2", "-s", "1", "--encoder", "intensity", "-device", "cpu", "-o"]
    names = ["f.npz", "f_source.npz"]
    succeeds(capsys, embed.main, [*argv, workspace.root / "f.npz"])
    undisturbed = [(workspace.root / name).read_bytes() for name in names]
    (folder := workspace.root / "killed").mkdir()
    killed_after(1, folder)
    said = succeeds(capsys, embed.main, [*argv, folder / "f.npz"])
    assert f"{folder / 'f_source.npz'} is of a run that was killed" in said
    assert sorted(path.name for path in folder.iterdir()) == names
    assert [(folder / name).read_bytes() for name in names] == undisturbed


def test_embed_killed_after_its_files_has_ended(workspace, capsys):
    killed_after(2, workspace.root)
    argv = ["-d", "2", "-s", "1", "--encoder", "intensity", "-o", workspace.root / "f.npz"]
    fails(capsys, embed.main, argv, "f.npz is there already")
    assert sorted(path.name for path in workspace.root.glob("*.npz")) == ["f.npz", "f_source.npz"]


def test_a_link_that_leads_nowhere_is_not_replaced(workspace, capsys):
    link = workspace.root / "f.npz"
    link.symlink_to("nowhere")
    argv = ["-d", "2", "--encoder", "intensity", "-o", link, "-device", "cpu"]
    fails(capsys, embed.main, argv, "f.npz is there already")
    assert link.is_symlink()


# --- what does not fit


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("cases", "change", "parts"),
    [
        (CASES[1:], None, ("lacks 1 of 10 cases", "t_00")),
        ([*CASES, "t_99"], None, ("1 cases that the pool does not have", "t_99")),
        ([*CASES, "t_03"], None, ("1 cases more than once", "t_03")),
        (CASES, np.nan, ("NaN or infinity in 1 cases", "t_02")),
        (CASES, np.inf, ("NaN or infinity in 1 cases", "t_02")),
    ],
)
def test_files_that_do_not_fit(either, capsys, ending, cases, change, parts):
    rows = features(len(cases))
    if change is not None:
        rows[2, 3] = change
    file = write(either.root / f"pool{ending}", cases, rows)
    fails(capsys, select.main, [*BASE, "--embeddings", file, "--overwrite"], file, *parts)


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("f.csv", "case,a\nt_00,red\n", ("could not convert string to float: 'red'",)),
        ("f.csv", "name,a\nt_00,1\n", ("no column case",)),
        ("f.csv", "case;a;b\nt_00;1;2\n", ("no column case", "separated by commas")),
        ("f.csv", ",case,a\n0,t_00,1\n", ("its column 1 has no name", "leave it out")),
        ("f.csv", "Unnamed: 0,case,a\n0,t_00,1\n", ("its column 1 has no name",)),
        ("f.csv", "case,a\nt_00.png,1\nt_01.png,2\n", ("lacks 10 of 10", "its own look like t_00.png")),
        ("f.csv", "case,a\nt_00,1e39\nt_01,2\n", ("infinity in 1 cases (t_00); numbers beyond 3e38 are",)),
        ("f.csv", "case,case\nt_00,1\n", ("several columns case",)),
        ("f.csv", "case,a\nt_00,1,2\n", ("a row has 3 columns in place of 2",)),
        ("f.csv", "", ("no column case",)),
        ("f.csv", "case\nt_00\n", ("one row of features per case",)),
        ("f.npz", "hello", ("is not as docs/encoders.md has it: it holds Python objects, or nothing of numpy",)),
        ("f.npy", "hello", ("is not as docs/encoders.md has it", "f.txt")),
        ("f.txt", "hello", (".npz, .npy, .csv, .parquet",)),
        ("none.npz", None, ("there is no file",)),
    ],
)
def test_files_that_cannot_be_read(either, capsys, name, text, parts):
    if text is not None:
        (either.root / name).write_text(text)
    fails(capsys, select.main, [*BASE, "--embeddings", either.root / name, "--overwrite"], name, *parts)


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"cases": CASES}, ("no array features",)),
        ({"cases": CASES, "features": features(9)}, ("10 cases and (9, 5)",)),
        ({"cases": CASES, "features": features(10)[:, 0]}, ("10 cases and (10,)",)),
        ({"cases": CASES, "features": features(10).astype(str)}, ("must hold numbers",)),
        ({"cases": CASES, "features": features(10).astype(object)}, ("is not as docs/encoders.md has it",)),
        ({"cases": CASES, "features": np.full((10, 2), 1e300)}, ("NaN or infinity in 10 cases",)),
        ({"cases": CASES, "features": np.full((10, 2), 3)}, ("the same features for all 10 cases",)),
        ({"cases": CASES, "features": features(10).astype(float) + [0, 0, 1e9, 0, 0]}, ("in 1 of 5", "number 3")),
        ({"cases": CASES, "features": np.arange(20).reshape(10, 2) + 2**62}, ("in 2 of 2",)),
        ({"cases": CASES, "features": features(10).astype(float) * 1e-60}, ("for single precision in 5 of 5",)),
        ({"cases": CASES, "features": features(10), "widths": [3, 3]}, ("widths", "add up to 5", "[3, 3]")),
        ({"cases": CASES, "features": features(10), "widths": [6, -1]}, ("widths", "1 or more", "[6, -1]")),
        ({"cases": CASES, "features": features(10), "widths": ["a"]}, ("is not as docs/encoders.md has it",)),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, parts):
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(UserError) as caught:
        read_features(tmp_path / "f.npz", option="--embeddings", cases=CASES)
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["-s", "1"], ("--source_embeddings FILE, or leave -s out",)),
        (["--encoder", "intensity"], ("--encoder is about images",)),
        (["--embedding", "grid"], ("--embedding is about images",)),
        (["--dim", "3"], ("--dim is about images",)),
        (["--unit", "slice"], ("leave --unit slice out",)),
        (["--source_embeddings", "other.npz"], ("other.npz has 2 features", "--embeddings has 5")),
        (["--source_embeddings", "sorts.npz"], ("sorts.npz has 5 features of 2 sorts [3, 2]", "--embeddings has 5")),
        (["-s", "1", "--source_embeddings", "few.npz"], ("few.npz lacks 2 of 6 cases", "s_04")),
    ],
)
def test_options_that_do_not_fit_together(either, capsys, monkeypatch, argv, parts):
    monkeypatch.chdir(either.root)
    write(either.root / "other.npz", ARCHIVE, features(6)[:, :2])
    write(either.root / "few.npz", ARCHIVE[:4], features(4))
    write_features(either.root / "sorts.npz", FeatureFile(ARCHIVE, features(6), [3, 2]))
    file = write(either.root / "pool.npz", CASES, features(10))
    fails(capsys, select.main, [*BASE, "--embeddings", file, "--overwrite", *argv], *parts)


def test_source_embeddings_alone(either, capsys):
    fails(capsys, select.main, [*BASE, "--source_embeddings", "s.npz", "--overwrite"], "give --embeddings FILE too")
