"""What nnU-Net has planned and preprocessed of a dataset, and whether that is still made from the labels of now."""

import filecmp
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Len
from pydantic import with_config
from typing_extensions import NotRequired, TypedDict

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.dataset_json import read_dataset_json
from nnunetv2_xssr.records.files import is_there, read_json
from nnunetv2_xssr.records.schema import THEIRS, Count, FileName, read_as
from nnunetv2_xssr.records.workspace import Workspace

PLAN_AGAIN = "plan again: nnUNetv2_plan_and_preprocess"
DEFAULT_PLANS, DEFAULT_PLANNER = "nnUNetPlans", "ExperimentPlanner"  # which nnU-Net takes where none is named


@dataclass(frozen=True, kw_only=True)
class Plans:
    """One plans file of nnU-Net.

    Attributes
    ----------
    name : str
        What ``nnUNetv2_train -p`` takes.
    planner : str or None
        The class that made it, which ``nnUNetv2_plan_and_preprocess -pl`` takes; None where the file does not say.
    data : dict
        Each configuration to the folder of its preprocessed cases, whether it is there or not.
    second_stages : frozenset of str
        The configurations of a cascade that learn from predictions of another one.
    """

    name: str
    planner: str | None
    data: dict[str, Path]
    second_stages: frozenset[str]


@with_config(THEIRS)
class _Configuration(TypedDict):
    data_identifier: NotRequired[FileName]
    inherits_from: NotRequired[str]
    previous_stage: NotRequired[Any]  # its name; nothing but whether there is one is read


@with_config(THEIRS)
class NetworkPlans(TypedDict):
    """A configuration, with what it inherits; its network is built by nnU-Net, which knows several forms of it."""

    patch_size: Annotated[list[Annotated[Count, Ge(1)]], Len(2, 3)]
    normalization_schemes: Annotated[list[str], Len(1)]


@with_config(THEIRS)
class PlansFile(TypedDict):
    """A plans file as far as it is read here; nnU-Net reads more of it."""

    plans_name: str
    configurations: dict[str, _Configuration]
    experiment_planner_used: NotRequired[str | None]


def read_plans(workspace: Workspace) -> list[Plans]:
    """All plans of a dataset, by name.

    Raises
    ------
    UserError
        If a JSON file among nnU-Net's is cut off, or plans are not as nnU-Net has them.
    """
    found = []
    for path in sorted(workspace.preprocessed.glob("*.json")):
        content = read_json(path)
        if isinstance(content, dict) and "plans_name" in content and "configurations" in content:
            plans = read_as(path, PlansFile, advice=PLAN_AGAIN)
            every = plans["configurations"]
            identifiers = {name: _inherited(every, name, "data_identifier") for name in every}
            found.append(
                Plans(
                    name=path.stem,
                    planner=plans.get("experiment_planner_used"),
                    data={name: workspace.preprocessed / folder for name, folder in identifiers.items() if folder},
                    second_stages=frozenset(name for name in every if _inherited(every, name, "previous_stage")),
                )
            )
    return found


@contextmanager
def nnunet_reading(path: Path) -> Iterator[None]:
    """Turn what nnU-Net raises while it reads a file, whatever it is, into a `UserError` that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"nnU-Net cannot use {path} ({type(error).__name__}: {str(error)[:100]}); {PLAN_AGAIN}"
        ) from None


def _inherited(
    configurations: dict[str, _Configuration], name: str | None, key: Literal["data_identifier", "previous_stage"]
) -> Any:
    """What a configuration, or the one that it inherits from, has under a key; None where neither has it."""
    seen = set()
    while name in configurations and name not in seen:
        if key in configurations[name]:
            return configurations[name][key]
        seen.add(name)
        name = configurations[name].get("inherits_from")
    return None


def preprocessed_cases(workspace: Workspace, cases: Iterable[str], *, plans: list[Plans], file_ending: str) -> set[str]:
    """The cases that nnU-Net has preprocessed for some configuration of some plans, and whose label it has copied."""
    folders = {folder for one in plans for folder in one.data.values()}
    return {
        case
        for case in cases
        if (workspace.preprocessed_labels / f"{case}{file_ending}").is_file()
        and any((folder / f"{case}.pkl").is_file() for folder in folders)
    }


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
    description = read_dataset_json(workspace.dataset_json) if is_there(workspace.dataset_json) else {}
    changed = []
    for case in cases:
        label = workspace.label_file(case, {"file_ending": file_ending, **description})
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
