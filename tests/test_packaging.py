"""What an installation consists of."""

import configparser
import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from making import CHECKOUT

import nnunetv2_xssr

TOP = ("nnunetv2_xssr", "pretrain", "selection", "trainers")


def configuration():
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    return parser


def package_name(folder):
    """The import name of a folder of the checkout."""
    parts = folder.relative_to(CHECKOUT).parts
    return ".".join(parts if parts[0] == "nnunetv2_xssr" else ("nnunetv2_xssr", *parts))


def package_folders():
    return [init.parent for top in TOP for init in sorted((CHECKOUT / top).rglob("__init__.py"))]


def test_setup_cfg_lists_every_folder():
    listed = configuration()["options"]["packages"].split()
    assert sorted(listed) == sorted(package_name(folder) for folder in package_folders())
    holding_modules = {file.parent for top in TOP for file in (CHECKOUT / top).rglob("*.py")}
    assert holding_modules == set(package_folders())  # no folder lacks its __init__.py


def test_every_stage_is_mapped_into_the_name_space():
    mapped = dict(line.split(" = ") for line in configuration()["options"]["package_dir"].strip().splitlines())
    assert mapped == {package_name(CHECKOUT / top): top for top in TOP}


def test_wheel_holds_every_module(tmp_path):
    pytest.importorskip("build")
    source = tmp_path / "source"
    source.mkdir()
    for name in (*TOP, "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (CHECKOUT / name).is_dir() else shutil.copy
        copy(CHECKOUT / name, source / name)
    argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), "."]
    result = subprocess.run(argv, cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.endswith(".py")}
        extra = [name for name in archive.namelist() if ".dist-info/" not in name and not name.endswith(".py")]
        archive.extractall(tmp_path / "site")
    expected = {
        "/".join([*package_name(folder).split("."), file.name])
        for folder in package_folders()
        for file in folder.glob("*.py")
    }
    assert inside == expected
    pages = [f"nnunetv2_xssr/report/page.{ending}" for ending in ("css", "html", "js")]
    assert sorted(extra) == sorted(["nnunetv2_xssr/py.typed", *pages])
    # Imported from what the wheel installs, far from the checkout.
    code = "import nnunetv2_xssr.selection as s, nnunetv2_xssr.trainer_link as t; print(s.__file__, t.__file__)"
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    result = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(str(tmp_path / "site")) == 2


def test_sdist_holds_all_that_is_tracked(tmp_path):
    """It tests itself: whoever packages it needs no checkout."""
    pytest.importorskip("build")
    if not (CHECKOUT / ".git").exists():
        pytest.skip("no checkout: what is tracked is not known")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    tracked = [name for name in listing.stdout.split("\0") if (CHECKOUT / name).is_file()]
    for name in tracked:
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, tmp_path / "source" / name)
    argv = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path / "dist"), "."]
    result = subprocess.run(argv, cwd=tmp_path / "source", capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    (archive,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        inside = {name.partition("/")[2] for name in opened.getnames()}
    assert not sorted(set(tracked) - inside)


# Where conda-forge calls a package otherwise than PyPI does.
FORGE = {"torch": "pytorch", "matplotlib": "matplotlib-base", "blosc2": "python-blosc2", "isal": "python-isal"}


def requirement(line):
    """The name and the limits of a requirement, as conda-forge names it."""
    name, limits = re.fullmatch(r"([\w.-]+)\s*(.*)", line).groups()
    return FORGE.get(name, name.lower()), limits


def test_conda_recipe_says_what_setup_cfg_says():
    text = (CHECKOUT / "recipe" / "recipe.yaml").read_text(encoding="utf-8")
    for name, value in yaml.safe_load(text)["context"].items():
        text = text.replace(f"${{{{ {name} }}}}", value)
    recipe = yaml.safe_load(text)
    options = configuration()
    assert recipe["package"]["version"] == nnunetv2_xssr.__version__
    scripts = options["options.entry_points"]["console_scripts"].strip().splitlines()
    assert recipe["build"]["python"]["entry_points"] == scripts
    wanted = [line for line in options["options"]["install_requires"].splitlines() if line and not line.startswith("#")]
    python = f"python {options['options']['python_requires']}"
    assert sorted(map(requirement, recipe["requirements"]["run"])) == sorted(map(requirement, [python, *wanted]))


def test_conda_recipe_is_one_that_its_builder_reads():
    """A key, a requirement or a license that it does not know is an error."""
    builder = pytest.importorskip("rattler_build", reason="no py-rattler-build: the conda recipe is not read")
    (rendered,) = builder.Stage0Recipe.from_file(CHECKOUT / "recipe" / "recipe.yaml").render()
    recipe = rendered.recipe.to_dict()
    assert recipe["package"] == {"name": "nnunetv2_xssr", "version": nnunetv2_xssr.__version__}
    assert recipe["build"]["noarch"] == "python"


@pytest.mark.parametrize("linter, files", [("actionlint", ".github/workflows/*.yml"), ("hadolint", "Dockerfile")])
def test_linter_finds_nothing(linter, files):
    """It is no requirement of the tests, because its wheels are not there for every system."""
    if not shutil.which(linter):
        pytest.skip(f"no {linter}: {files} is not linted")
    found = sorted(map(str, CHECKOUT.glob(files)))
    result = subprocess.run([linter, *found], capture_output=True, text=True)
    assert found and result.returncode == 0, result.stdout + result.stderr


def test_workflows_leave_slow_tests_to_make_test_all():
    """They would take hours on every system."""
    workflows = [file.read_text(encoding="utf-8") for file in sorted(CHECKOUT.glob(".github/workflows/*.yml"))]
    calls = [line.strip() for text in workflows for line in text.splitlines() if "pytest" in line]
    assert calls and all('-m "not slow"' in call for call in calls)


def test_torch_is_new_enough_to_read_checkpoints():
    """`torch.serialization.safe_globals`, without which no checkpoint is read, came with 2.5."""
    required = configuration()["options"]["install_requires"].splitlines()
    (lowest,) = [line.removeprefix("torch>=") for line in required if line.startswith("torch>=")]
    assert tuple(map(int, lowest.split("."))) >= (2, 5)


def test_entry_points_can_be_imported_and_tell_their_use(capsys, monkeypatch):
    monkeypatch.setattr("nnunetv2_xssr.entry.end_on_ctrl_c", lambda: None)  # pytest's own Ctrl-C stays
    scripts = configuration()["options.entry_points"]["console_scripts"].strip().splitlines()
    names = []
    for line in scripts:
        name, target = line.split(" = ")
        module, function = target.split(":")
        main = getattr(importlib.import_module(module), function)
        with pytest.raises(SystemExit) as caught:
            main(["--help"])
        assert caught.value.code == 0
        assert f"usage: {name}" in capsys.readouterr().out
        names.append(name)
    assert set(names) >= {f"nnUNetv2_xssr_{c}" for c in ("pretrain", "select", "report", "link", "demo")}


def test_help_of_select_names_every_strategy(capsys):
    from nnunetv2_xssr.commands import select
    from nnunetv2_xssr.selection import STRATEGIES

    with pytest.raises(SystemExit):
        select.main(["--help"])
    text = capsys.readouterr().out
    assert not [name for name in STRATEGIES if name not in text]


def completed(command, line, folder=None, **environment):
    """As bash asks, by argcomplete's protocol: the line so far in the environment, the answer on descriptor 8."""
    line = f"nnUNetv2_xssr_{command} {line}"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": " ", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    code = f"import os; os.dup2(1, 8); from nnunetv2_xssr.commands.{command} import main; main([])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return sorted(result.stdout.split())


def test_shell_completes_options():
    assert completed("select", "--max_per") == ["--max_per_group", "--max_per_volume"]


def test_shell_completes_names_and_no_files(tmp_path):
    (tmp_path / "proposal.txt").write_text("")
    for number in ("007_Heart", "008_Lung"):
        (tmp_path / f"Dataset{number}").mkdir()
    at = {"folder": tmp_path, "nnUNet_raw": str(tmp_path)}
    assert completed("select", "--strategy pro", **at) == ["probcover"]
    assert completed("benchmark", "--strategies kmeans p", **at) == ["probcover"]
    assert completed("collect", "--fuse ", **at) == ["first", "majority", "staple"]
    assert completed("status", "-d ", **at) == ["Dataset007_Heart", "Dataset008_Lung"]
    assert completed("select", "-s p", **at) == ["proposal.txt"]
    assert completed("select", "-s Dataset007", **at)[0] == "Dataset007_Heart"
    assert completed("select", "--encoder i", **at) == ["intensity"]


def test_names_that_the_shell_completes_are_those_there_are():
    from nnunetv2_xssr.annotation.fusing import FUSIONS
    from nnunetv2_xssr.benchmark.plan import JUDGES
    from nnunetv2_xssr.commands.completion import ENCODERS, NAMES
    from nnunetv2_xssr.encoders.registry import SPELLINGS
    from nnunetv2_xssr.pretrain.processes import PRECISIONS
    from nnunetv2_xssr.selection import CRITERIA, STRATEGIES

    assert ENCODERS == tuple(re.sub("(?<=:).*", "", spelling) for spelling in SPELLINGS)
    assert {option: sorted(names) for option, names in NAMES.items()} == {
        "--strategy": sorted(STRATEGIES),
        "--strategies": sorted(set(STRATEGIES) - {"random"}),
        "--alpha_criterion": sorted(CRITERIA),
        "--unit": ["case", "slice"],
        "--fuse": sorted(FUSIONS),
        "--judge": sorted(JUDGES),
        "--precision": sorted(PRECISIONS),
    }


def test_help_is_fast_to_load():
    """Help needs neither torch nor nnU-Net."""
    code = (
        "import sys\n"
        "from nnunetv2_xssr.commands import link, pretrain, report, select\n"
        "heavy = {'torch', 'nnunetv2', 'sklearn', 'SimpleITK'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(os.sep))
    assert result.returncode == 0, result.stderr


def test_selection_needs_numbers_only():
    code = (
        "import sys, nnunetv2_xssr.selection\n"
        "heavy = {'torch', 'nnunetv2', 'SimpleITK'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(os.sep))
    assert result.returncode == 0, result.stderr


def test_the_checkout_itself_is_importable_from_its_root():
    """`python -m pytest` in the root finds the half package in the current folder first."""
    code = "import nnunetv2_xssr.selection, nnunetv2_xssr.pretrain, nnunetv2_xssr; print(nnunetv2_xssr.__version__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT)
    assert result.returncode == 0, result.stderr
