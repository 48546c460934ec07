"""Workspaces of always the same path, which is in records, and the scenes in them."""

import shutil

import pytest
from forking import start_server
from making import Workspace
from scenes import OF_VOLUMES, prepare


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    start_server()
    return Workspace(tmp_path_factory.mktemp("faults") / "nnunet")


@pytest.fixture
def bare(stage, monkeypatch, request):
    """A function that puts a workspace in place, of volumes or of pictures: an encoder, and nothing selected."""
    for variable, folder in stage.environment().items():
        monkeypatch.setenv(variable, folder)

    def put(*, volumes=False):
        shutil.rmtree(stage.root, ignore_errors=True)
        shutil.copytree(request.getfixturevalue("_volumes" if volumes else "_ready").root, stage.root)
        return stage if volumes else stage.forget_selection()

    return put


@pytest.fixture
def scene(bare, stage, request):
    """The name of a scene, and a function that puts its workspace in place again, as it was prepared once."""
    kept = stage.root.with_name("prepared")
    prepare(bare(volumes=request.param in OF_VOLUMES), request.param)
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(stage.root, kept)

    def put():
        shutil.rmtree(stage.root)
        shutil.copytree(kept, stage.root)

    return request.param, put
