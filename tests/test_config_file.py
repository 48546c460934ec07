"""--config: options from a file, and the file that every select writes, which repeats it."""

import shutil
from itertools import pairwise

import pytest
import yaml
from making import SOURCE, fails, only_sentence, picture, succeeds, write_picture

from nnunetv2_xssr.commands import select, status, verify
from nnunetv2_xssr.commands.config_file import options_to_keep
from nnunetv2_xssr.commands.select import make_parser
from nnunetv2_xssr.pipeline.repeat import from_anywhere

CALL = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"]


def config(workspace):
    return workspace.record().with_name("select.yaml")


def refused(capsys, argv):
    """The sentence with which the parser ends the command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        select.main([str(word) for word in argv])
    assert ended.value.code == 2
    return only_sentence(capsys.readouterr().err)


def written(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text, "utf-8")
    return file


def test_a_run_is_repeated_by_the_file_beside_its_record_from_anywhere(workspace, capsys, monkeypatch, tmp_path):
    for i in range(3):
        write_picture(workspace.root / "archive" / f"{i}.png", picture(700 + i))
    (workspace.root / "bad.txt").write_text("t_03\n")
    monkeypatch.chdir(workspace.root)
    argv = ["-d", "2", "-s", "1", "archive", "-b", "50%", "--exclude", "bad.txt", "--encoder", "intensity"]
    succeeds(capsys, select.main, [*argv, "--max_per_group", "1", "--alpha", "0.25", "--cases", _groups(workspace)])
    kept, before = yaml.safe_load(config(workspace).read_text()), workspace.results_of_select()
    assert kept["s"] == ["1", str(workspace.root / "archive")] and kept["exclude"] == str(workspace.root / "bad.txt")
    assert kept["budget"] == "50%" and kept["max_per_group"] == 1 and "seed" not in kept
    file = config(workspace).rename(tmp_path / "elsewhere.yaml")
    workspace.forget_selection()
    monkeypatch.chdir(tmp_path)
    succeeds(capsys, select.main, ["--config", file])
    assert workspace.results_of_select() == before
    assert config(workspace).read_bytes() == file.read_bytes()


FILES = {"--encoder": "encoder.pth", "--embeddings": "features.csv"}


@pytest.mark.parametrize("option", FILES)
def test_a_file_is_the_same_however_it_is_typed(workspace, capsys, monkeypatch, option):
    """From another folder the same select is repeated, and not refused as one with other settings."""
    file = workspace.root / FILES[option]
    if option == "--encoder":
        shutil.copy(workspace.encoder(), file)
    else:
        file.write_text("case,a,b\n" + "".join(f"t_{i:02d},{i % 3},{i % 4}\n" for i in range(10)))
    monkeypatch.chdir(workspace.root)
    call = ["-d", "2", "-b", "3", "-device", "cpu", *(["-s", "1"] if option == "--encoder" else [])]
    succeeds(capsys, select.main, [*call, option, file.name])
    before = workspace.results_of_select()
    monkeypatch.chdir(workspace.raw)
    for argv in ([*call, option, file], [*call, option, f"../{file.name}"], ["--config", config(workspace)]):
        succeeds(capsys, select.main, argv)
        assert workspace.results_of_select() == before
    succeeds(capsys, verify.main, ["-d", "2"])


def test_a_model_of_timm_is_a_name_wherever_it_is_typed(tmp_path, monkeypatch):
    (tmp_path / "resnet18").mkdir()
    monkeypatch.chdir(tmp_path)
    assert from_anywhere({"encoder": "timm:resnet18"}) == {"encoder": "timm:resnet18"}
    assert from_anywhere({"encoder": "nnunet:resnet18"}) == {"encoder": f"nnunet:{tmp_path / 'resnet18'}"}


def _groups(workspace):
    file = workspace.root / "cases.csv"
    file.write_text("case,patient\n" + "".join(f"t_{i:02d},p{i}\n" for i in range(10)))
    return file


def test_what_is_typed_wins_and_is_told_once_an_option(workspace, capsys, tmp_path):
    file = written(tmp_path, "d: 2\ns: 1\nbudget: 5\nencoder: intensity\nseed: 3\n")
    out = succeeds(capsys, select.main, ["--config", file, "-b", "2", "--seed", "3"])
    assert out.count(" was typed, and wins over ") == 1
    assert f"--budget 2 was typed, and wins over 5 in {file}" in out
    record = workspace.selection()
    assert len(record["selections"][0]["picks"]) == 2 and record["settings"]["seed"] == 3
    assert list(record["provenance"]["source"]) == [SOURCE]


# Each holds the one before it nine times: written out, they would fill any memory.
LISTS_OF_LISTS = "budget: [&a [x]" + "".join(f", &{b} [{f'*{a}, ' * 9}]" for a, b in pairwise("abcdefghijkl")) + "]\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("target: 2\n", "no option 'target'; it is called 'd'"),
        ("b: 3\n", "no option 'b'; it is called 'budget'"),
        ("colour: red\n", "no option 'colour'; correct it to one of"),
        ("config: other.yaml\n", "no option 'config'"),
        ("dim: three\n", "dim must be a whole number; got 'three'"),
        ("dim: 7\n", "dim must be one of 2, 3; got '7'"),
        ("min_distance: far\n", "min_distance must be a number; got 'far'"),
        ("budget: [1, 2]\n", "budget must be one value; got ['1', '2']"),
        ("budget:\n", "budget must be one value; got ''"),
        ("s: {a: b}\n", "s must be a value or a list of values"),
        ("s: []\n", "s must be a value or a list of values"),
        ("skip-broken: 1\n", "skip-broken must be true or false; got '1'"),
        ("seed: 1\nseed: 2\n", "seed stands 2 times"),
        ("- d\n- s\n", "must have lines such as 'budget: 5%'"),
        ("", "must have lines such as"),
        (LISTS_OF_LISTS, "budget must be one value; got [['x'], [[...], [...], "),
        ("budget: " + "[" * 1000 + "]" * 1000, "nested too deeply"),
        ("d: [2\n", "is not YAML (expected ',' or ']'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_sentence(workspace, capsys, tmp_path, text, sentence):
    file = written(tmp_path, text)
    told = refused(capsys, ["--config", file, *CALL])
    assert sentence in told and str(file) in told
    assert not workspace.record().exists()


@pytest.mark.parametrize("what", ["missing.yaml", ".", "x" * 5000])
def test_a_file_that_is_none(workspace, capsys, tmp_path, what):
    assert str(tmp_path / what) in refused(capsys, ["--config", tmp_path / what, *CALL])


@pytest.mark.parametrize(
    "argv",
    [
        CALL,
        [*CALL, "--model", "--prelabel", "folder", "--skip_broken", "--domain_quota", "A=1", "B=2"],
        ["-d", "007_New", "-i", "images", "--channel_names", "yes", "--labels", "null", "1e3", "-b", "1h30min"],
        [*CALL, "--unit", "slice", "--slice_range", "20%-80%", "--raters", "ann", "bob", "--overlap", "10%"],
        [*CALL, "--alpha", "0.25", "--min_distance", "0.1", "--control", "1", "--pretrain_epochs", "2", "--axis=file"],
    ],
)
def test_whatever_is_typed_is_the_same_from_the_file(tmp_path, argv):
    parser = make_parser()
    args = parser.parse_args(argv)
    file = written(tmp_path, yaml.safe_dump(options_to_keep(parser, args)))
    again = parser.parse_args(["--config", str(file)])
    assert options_to_keep(parser, again) == options_to_keep(parser, args)
    paths = {"images", "prelabel", "config"}  # from the root
    assert {**vars(again), **dict.fromkeys(paths)} == {**vars(args), **dict.fromkeys(paths)}


@pytest.mark.parametrize("key", ["skip_broken", "skip-broken"])
def test_dashes_in_a_key_are_taken_for_underscores(tmp_path, key):
    file = written(tmp_path, f"d: 2\nbudget: 3\n{key}: true\n")
    assert make_parser().parse_args(["--config", str(file)]).skip_broken


def test_verify_and_status_know_the_file(workspace, capsys):
    succeeds(capsys, select.main, [*CALL, "--encoder", "intensity"])
    assert f"options: {config(workspace)}" in succeeds(capsys, status.main, ["-d", "2"])
    assert "options" in succeeds(capsys, verify.main, ["-d", "2"])
    text = config(workspace).read_text()
    config(workspace).write_text(text + "seed: 4\n")
    assert verify.main(["-d", "2"]) == 1
    assert f"the options in {config(workspace)} were changed" in capsys.readouterr().out
    config(workspace).write_text("# selection s0123456789abcde: another one\n")
    assert "select.yaml" in succeeds(capsys, status.main, ["-d", "2"]).split("are not of one selection")[0]
    config(workspace).unlink()
    assert verify.main(["-d", "2"]) == 1
    assert f"the options in {config(workspace)} are gone" in capsys.readouterr().out


def test_a_call_that_is_refused_writes_none(workspace, capsys):
    fails(capsys, select.main, ["-d", "2", "-s", "1", "-b", "99"], "99")
    assert not config(workspace).exists()
