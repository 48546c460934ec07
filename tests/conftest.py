"""Fixtures: generated datasets, an encoder pretrained for one epoch, and no access to the installed link."""

import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest
from command_shell import Shell
from fault_table import faults, pytest_terminal_summary  # noqa: F401
from making import (
    VARIABLES,
    Workspace,
    copy_of_nnunet,
    prepared,
    shorten_pretraining,
    trainer_folder,
    write_source_and_target,
)

# The same examples on every run, however busy the machine is.
hypothesis.settings.register_profile(
    "xssr",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("xssr")
_session = {}


def pytest_configure(config):
    # nnU-Net before 2.7 reads its variables once, when it is imported: they must be set before any test module is.
    _session["root"] = Path(tempfile.mkdtemp(prefix="xssr_tests_"))
    _session["old"] = {k: os.environ.get(k) for k in VARIABLES}
    os.environ.update(Workspace(_session["root"]).make_folders().environment())
    for name, value in (("nnUNet_n_proc_DA", "0"), ("nnUNet_def_n_proc", "1"), ("OMP_WAIT_POLICY", "PASSIVE")):
        os.environ.setdefault(name, value)


def pytest_unconfigure(config):
    shutil.rmtree(_session["root"], ignore_errors=True)
    for name, value in _session["old"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def session_workspace():
    """The folders that nnU-Net in this process uses."""
    return Workspace(_session["root"])


@pytest.fixture(autouse=True)
def link_elsewhere(tmp_path_factory, monkeypatch):
    """Commands find their link made, in a folder of the test: the installed one is never touched."""
    from nnunetv2_xssr.trainer_link import linking

    path = tmp_path_factory.mktemp("link") / linking.LINK_MODULE.name
    path.write_bytes(linking.LINK_MODULE.read_bytes())
    monkeypatch.setattr(linking, "link_path", lambda: path)
    return path


@pytest.fixture(autouse=True)
def short_pretraining(monkeypatch):
    """By default one epoch of two batches of four views."""
    shorten_pretraining(monkeypatch)


@pytest.fixture(scope="session")
def _ready(tmp_path_factory):
    """Source and target, an encoder of one short epoch, and a selection of three cases."""
    from nnunetv2_xssr.commands import pretrain, select

    with prepared(tmp_path_factory.mktemp("ready")) as ready:
        write_source_and_target(ready.raw)
        assert pretrain.main(["-s", "1", "-device", "cpu"]) == 0
        assert select.main(["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"]) == 0
    return ready


@pytest.fixture(scope="session")
def _volumes(tmp_path_factory):
    """Six volumes, whose slices have taught an encoder."""
    from slicing import SELECT, VOLUMES, with_volumes

    from nnunetv2_xssr.commands import select

    with prepared(tmp_path_factory.mktemp("volumes")) as ready:
        with_volumes(ready)
        assert select.main([*SELECT, "-b", "4"]) == 0
    shutil.rmtree(ready.preprocessed / VOLUMES)
    shutil.rmtree(ready.raw / VOLUMES / "annotate")
    return ready


@pytest.fixture
def volumes(_volumes, tmp_path, monkeypatch):
    """Six unlabelled volumes on a grid that is not the default, and an encoder of their slices."""
    shutil.copytree(_volumes.root, tmp_path / "nnunet")
    return _use(Workspace(tmp_path / "nnunet"), monkeypatch)


@pytest.fixture
def again(_ready, tmp_path, monkeypatch):
    """A copy of the workspace in which the source has an encoder and three target cases are selected."""
    shutil.copytree(_ready.root, tmp_path / "nnunet")
    return _use(Workspace(tmp_path / "nnunet"), monkeypatch)


@pytest.fixture
def workspace(again):
    """The same without a selection."""
    return again.forget_selection()


@pytest.fixture(params=["nothing_selected", "selected_before"])
def either(request, again):
    """The same, once without and once with an older selection, which bad input must leave as it is."""
    if request.param == "nothing_selected":
        again.forget_selection()
    before = again.results_of_select()
    yield again
    assert again.results_of_select() == before


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Empty folders of nnU-Net."""
    return _use(Workspace(tmp_path / "nnunet").make_folders(), monkeypatch)


def _use(workspace, monkeypatch):
    for name, value in workspace.environment().items():
        monkeypatch.setenv(name, value)
    return workspace


@pytest.fixture(scope="session")
def linked_nnunet(tmp_path_factory):
    """A copy of nnU-Net for PYTHONPATH into which the link is made."""
    from nnunetv2_xssr.trainer_link import linking

    site = copy_of_nnunet(tmp_path_factory.mktemp("site_linked"))
    shutil.copy(linking.LINK_MODULE, trainer_folder(site))
    return site


@pytest.fixture(scope="session")
def shell(tmp_path_factory, linked_nnunet):
    """What runs commands as a user types them."""
    shell = Shell(tmp_path_factory.mktemp("shell"), linked_nnunet)
    yield shell
    shell.close()
