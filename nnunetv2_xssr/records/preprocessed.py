"""What nnU-Net has preprocessed of a dataset, and whether that is still made from the labels of now."""

import filecmp
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nnunetv2_xssr.records.files import read_json
from nnunetv2_xssr.records.workspace import Workspace


def changed_labels(workspace: Workspace, cases: Iterable[str], *, file_ending: str) -> list[str]:
    """Name the cases whose label is another one now than when nnU-Net preprocessed them.

    nnU-Net keeps a copy of each label that it preprocessed; the copy and the label are compared by what they hold, not
    by their dates. A case without a label, or without a copy, is not among them.

    Parameters
    ----------
    workspace : Workspace
    cases : iterable of str
    file_ending : str
        Of the labels, such as ``.nii.gz``.

    Returns
    -------
    list of str
        In the order of ``cases``.
    """
    # On a computer that only trains, the raw dataset may be missing: then nothing can have changed.
    if not os.environ.get("nnUNet_raw"):
        return []
    description = read_json(workspace.dataset_json) if workspace.dataset_json.is_file() else {}
    table = description.get("dataset", {})
    changed = []
    for case in cases:
        label = workspace.raw / table.get(case, {}).get("label", f"labelsTr/{case}{file_ending}")
        copy = workspace.preprocessed_labels / f"{case}{file_ending}"
        if label.is_file() and copy.is_file() and not _same(label, copy, description):
            changed.append(case)
    return changed


def _same(label: Path, copy: Path, description: dict) -> bool:
    if filecmp.cmp(label, copy, shallow=False):
        return True
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    # The same label saved again, with another compression or header, makes the same training data.
    reader = determine_reader_writer_from_dataset_json(description, verbose=False)()
    try:
        return np.array_equal(*(reader.read_seg(str(file))[0] for file in (label, copy)))
    except Exception:  # readers raise whatever their library raises
        return False
