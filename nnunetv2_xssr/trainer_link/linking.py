"""The link through which nnU-Net finds our trainers: one small module in its trainer folder."""

from pathlib import Path

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import remove_leftovers, write_bytes

LINK_MODULE = Path(__file__).with_name("module") / "xssr_trainer_link.py"


def link_path() -> Path:
    """Where the link lies: in nnU-Net's trainer folder, of a regular or an editable installation."""
    from nnunetv2.training import nnUNetTrainer as package

    return Path(package.__path__[0]) / LINK_MODULE.name


def is_linked() -> bool:
    """Whether the link is there and is the one that this version writes."""
    return link_path().is_file() and link_path().read_bytes() == LINK_MODULE.read_bytes()


def link() -> Path:
    """Write the link.

    Raises
    ------
    UserError
        If nnU-Net's folder cannot be written; the sentence says what to do instead.
    """
    path = link_path()
    try:
        write_bytes(path, LINK_MODULE.read_bytes())
        remove_leftovers(path)
    except OSError as error:
        if is_linked():  # by another run, which took the temporary file of this one for that of a killed one
            return path
        raise UserError(
            f"nnU-Net's trainer folder {path.parent} cannot be written ({error.strerror}); ask its owner to run "
            f"nnUNetv2_xssr_link, or with nnU-Net 2.8 or later: export nnUNet_extTrainer={LINK_MODULE.parent}"
        ) from None
    return path


def unlink() -> bool:
    """Remove the link; False if there was none."""
    existed = link_path().is_file()
    try:
        link_path().unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{link_path()} cannot be removed ({error.strerror}); ask its owner to delete it") from None
    return existed


def trainer_found() -> bool:
    """Whether nnU-Net's own search finds XSSRTrainer."""
    try:
        return find_trainer("XSSRTrainer") is not None
    except RuntimeError:  # not found, or another trainer's broken dependency stood in the way of the search
        return False


def find_trainer(name: str) -> type | None:
    """The trainer of this name that nnU-Net's own search finds; before nnU-Net 2.8 None if there is none.

    Raises
    ------
    RuntimeError
        Since nnU-Net 2.8, if there is none.
    """
    try:
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    except ModuleNotFoundError:  # before nnU-Net 2.8
        from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

        return recursive_find_python_class(str(link_path().parent), name, "nnunetv2.training.nnUNetTrainer")
    return recursive_find_trainer_class_by_name(name)


def ensure_linked() -> str | None:
    """Make the link when nnU-Net does not find the trainer; return a line to say so, or None.

    Raises
    ------
    UserError
        If nnU-Net still does not find it.
    """
    if is_linked():
        return None
    if not link_path().exists() and trainer_found():
        return None  # by nnUNet_extTrainer
    path = link()
    if not trainer_found():
        raise UserError(f"nnU-Net does not find XSSRTrainer through {path}; run nnUNetv2_xssr_link --check")
    return f"linked XSSRTrainer into nnU-Net: {path} (undo: nnUNetv2_xssr_link --remove)"
