"""The link through which nnU-Net finds our trainers; always on a copy of nnU-Net or of the link alone."""

import errno
import importlib.util
import os
import sys

import pytest
from making import command, copy_of_nnunet, fails, only_sentence, succeeds, trainer_folder

from nnunetv2_xssr.commands import link
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.trainer_link import linking
from nnunetv2_xssr.trainers import __all__ as PUBLIC

HOMES = dict.fromkeys(PUBLIC, "nnunetv2_xssr.trainers.xssr_trainer") | {
    "XSSRTrainer_demo": "nnunetv2_xssr.trainers.demo",
    "XSSRTrainer_pretrained": "nnunetv2_xssr.trainers.pretrained",
    "XSSRTrainer_pretrained_frozen": "nnunetv2_xssr.trainers.pretrained",
    "XSSRTrainer_pretrained_50epochs": "nnunetv2_xssr.trainers",
    "XSSRTrainer_random-2": "nnunetv2_xssr.trainers",  # of a named selection, made on demand
    "XSSRTrainer_50epochs_random": "nnunetv2_xssr.trainers",
}


def test_link_and_remove(link_elsewhere, capsys):
    assert linking.is_linked()
    out = succeeds(capsys, link.main, ["--remove"])
    assert f"removed {link_elsewhere}" in out and not link_elsewhere.exists()
    out = succeeds(capsys, link.main, ["--remove"])
    assert "nothing to remove" in out
    assert linking.link() == link_elsewhere
    assert link_elsewhere.read_bytes() == linking.LINK_MODULE.read_bytes()
    assert [p.name for p in link_elsewhere.parent.iterdir()] == [link_elsewhere.name]


def test_what_a_killed_run_left_goes(link_elsewhere):
    left = link_elsewhere.with_name(f".xssr_tmp_{link_elsewhere.stem}_abcd1234.py")
    left.write_text("half")
    linking.link()
    assert list(link_elsewhere.parent.iterdir()) == [link_elsewhere]


def test_two_link_at_once(link_elsewhere, monkeypatch):
    """The second one takes the temporary file of the first for that of a killed run."""
    link_elsewhere.unlink()
    replace, calls = os.replace, []

    def overtaken(old, new):
        calls.append(old)
        if len(calls) == 1:
            linking.link()
        replace(old, new)

    monkeypatch.setattr(os, "replace", overtaken)
    assert linking.link() == link_elsewhere and len(calls) == 2 and linking.is_linked()
    assert list(link_elsewhere.parent.iterdir()) == [link_elsewhere]


def test_outdated_link_is_written_anew(link_elsewhere, monkeypatch, capsys):
    link_elsewhere.write_text("# of an older version")
    assert not linking.is_linked()
    monkeypatch.setattr(linking, "trainer_found", lambda: True)
    assert "linked XSSRTrainer" in succeeds(capsys, link.main, [])
    assert linking.is_linked()


def test_folder_that_cannot_be_written(link_elsewhere, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    link_elsewhere.unlink()
    monkeypatch.setattr(linking, "trainer_found", lambda: False)
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    parts = (link_elsewhere.parent, "Read-only file system", "nnUNetv2_xssr_link", "nnUNet_extTrainer=")
    sentence = fails(capsys, link.main, [], *parts)
    shim = sentence.rpartition("nnUNet_extTrainer=")[2].strip()
    assert os.path.isfile(os.path.join(shim, link_elsewhere.name))


def test_link_that_cannot_be_removed(link_elsewhere, monkeypatch, capsys):
    def refuse(self, missing_ok=False):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(type(link_elsewhere), "unlink", refuse)
        fails(capsys, link.main, ["--remove"], link_elsewhere, "cannot be removed", "Permission denied")
    assert link_elsewhere.is_file()


def test_check_when_the_trainer_is_not_found(link_elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(linking, "trainer_found", lambda: False)
    fails(capsys, link.main, ["--check"], "does not find XSSRTrainer", link_elsewhere, "run nnUNetv2_xssr_link")


def test_link_that_does_not_help_is_told(link_elsewhere, monkeypatch):
    link_elsewhere.unlink()
    monkeypatch.setattr(linking, "trainer_found", lambda: False)
    with pytest.raises(UserError, match="nnUNetv2_xssr_link --check"):
        linking.ensure_linked()


def test_link_path_is_in_the_trainer_folder_of_nnunet():
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer

    module = importlib.util.module_from_spec(linking.__spec__)  # the module as it is, without the test's own path
    linking.__spec__.loader.exec_module(module)
    assert str(module.link_path().parent) == os.path.dirname(nnUNetTrainer.__file__)


def load_link_module():
    spec = importlib.util.spec_from_file_location("link_of_a_test", linking.LINK_MODULE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_missing_plugin_is_one_sentence(monkeypatch, capsys):
    module = load_link_module()
    monkeypatch.setitem(sys.modules, "nnunetv2_xssr", None)
    with pytest.raises(SystemExit) as caught:
        module.XSSRTrainer  # noqa: B018
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert "XSSRTrainer needs nnunetv2_xssr, which is not installed here" in err
    assert module.__file__ in err and len(err.splitlines()) == 1
    assert not hasattr(module, "nnUNetTrainerNoMirroring")


def test_plugin_whose_own_dependency_is_missing_is_not_called_missing(monkeypatch):
    import nnunetv2_xssr

    module = load_link_module()
    for name in [name for name in sys.modules if name.startswith("nnunetv2_xssr.trainers")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(nnunetv2_xssr, "trainers", raising=False)
    monkeypatch.setitem(sys.modules, "nnunetv2.training.dataloading.nnunet_dataset", None)
    with pytest.raises(ModuleNotFoundError, match="nnunet_dataset"):
        module.XSSRTrainer  # noqa: B018


FIND = f"""
import importlib, sys
link = importlib.import_module("nnunetv2.training.nnUNetTrainer.xssr_trainer_link")
assert not hasattr(link, "nnUNetTrainer_5epochs") and not hasattr(link, "whatever")
assert not any(name.startswith("nnunetv2_xssr") for name in sys.modules), "others pay for us"
from nnunetv2_xssr.trainer_link.linking import find_trainer
for name, home in {HOMES!r}.items():
    found = find_trainer(name)
    assert (found.__name__, found.__module__) == (name, home), name
for name in ("XSSRTrainer_7epochs", "XSSRTrainer_final", "XSSRTrainer_a__b"):
    try:
        found = find_trainer(name)
    except RuntimeError:  # since nnU-Net 2.8
        found = None
    assert found is None, name
"""


def test_nnunet_finds_every_trainer_through_the_link(shell, tmp_path):
    process = shell.start_python(FIND, tmp_path)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err


def test_commands_on_an_installation(shell, tmp_path):
    site = copy_of_nnunet(tmp_path / "site")
    path = trainer_folder(site) / "xssr_trainer_link.py"

    def link(*argv):
        environment = {"PYTHONPATH": str(site), "nnUNet_extTrainer": ""}
        process = shell.start_python(command("link", *argv), tmp_path, environment)
        return *process.communicate(timeout=240), process.returncode

    out, err, code = link()
    assert code == 0 and f"linked XSSRTrainer into nnU-Net: {trainer_folder(site)}" in out, err
    out, err, code = link("--check")
    assert code == 0 and f"nnU-Net finds XSSRTrainer ({path})" in out, err
    out, err, code = link("--remove")
    assert code == 0 and not path.exists(), err
    out, err, code = link("--check")
    assert code == 2 and "does not find XSSRTrainer" in only_sentence(err)
