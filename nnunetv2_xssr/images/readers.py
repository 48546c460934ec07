"""Which of nnU-Net's readers reads the files of a pool, told in silence and whatever the order of the files."""

from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_xssr.errors import one_of

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

_COLOURS = (3, 4)  # pages of a .tif that nnU-Net's reader of pictures takes for red, green, blue and opacity


def choose_reader(dataset_json: dict, files: Sequence[Path]) -> "type[BaseReaderWriter] | None":
    """The reader that nnU-Net takes by dataset.json, by the ending, or of .tif by what a file holds.

    Parameters
    ----------
    dataset_json : dict
    files : sequence of Path
        One per case.

    Returns
    -------
    class or None
        None if no reader of nnU-Net reads any of the files.

    Raises
    ------
    UserError
        If dataset.json names a reader that nnU-Net does not have.
    """
    from nnunetv2.imageio.reader_writer_registry import (
        LIST_OF_IO_CLASSES,
        determine_reader_writer_from_dataset_json,
        recursive_find_reader_writer_by_name,
    )

    named = dataset_json.get("overwrite_image_reader_writer", "None")
    if named != "None":
        try:
            return recursive_find_reader_writer_by_name(named)
        except RuntimeError:
            # nnU-Net takes another one after a warning, and the images may then lie in other directions.
            allowed = [reader.__name__ for reader in LIST_OF_IO_CLASSES]
            raise one_of("overwrite_image_reader_writer in dataset.json", allowed, named) from None
    # A .tif may be a picture or a stack: nnU-Net tries which of its readers reads an example, and prints a traceback
    # for each reader that does not.
    by_content = dataset_json["file_ending"].lower() in (".tif", ".tiff")
    for example in map(str, _stack_first(files)) if by_content else [None]:
        with suppress(RuntimeError), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            return determine_reader_writer_from_dataset_json(dataset_json, example, verbose=False)
    return None


def _stack_first(files: Sequence[Path]) -> Iterable[Path]:
    """The files, the first stack ahead: a single flat file, wherever it lies, does not make pictures of stacks."""
    stack = next(filter(_is_stack, files), None)
    return files if stack is None else [stack, *files]


def _is_stack(file: Path) -> bool:
    """Whether a .tif holds several slices, and certainly no colours."""
    import tifffile

    with suppress(Exception), tifffile.TiffFile(file) as tif:  # reading it will say what is wrong
        shape = tif.series[0].shape
        return len(shape) == 3 and shape[0] not in _COLOURS and shape[-1] not in _COLOURS
    return False
