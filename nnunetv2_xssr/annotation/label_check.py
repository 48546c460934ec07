"""Whether a label fits its image: it can be read, lies on the same grid and holds the values it may hold."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_xssr.annotation.label_files import read_label
from nnunetv2_xssr.annotation.segmentations import in_order_of, is_segmentation, names_its_labels, read_segmentation
from nnunetv2_xssr.errors import UserError, first_few, reason_of
from nnunetv2_xssr.images.grids import axes, differences, patient_affine, stored_axes
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.reading import stored_finite
from nnunetv2_xssr.images.trees import check_alone
from nnunetv2_xssr.records.workspace import Workspace

_ROUNDING = 1e-3  # of a value: labels that were scaled or saved as floats
IGNORE = "ignore"  # nnU-Net's name of the label


class UnfitLabel(UserError):
    """One label cannot be used; the others may be."""


@dataclass(frozen=True, kw_only=True)
class CheckedLabel:
    """A label that fits.

    Attributes
    ----------
    values : int array of shape (z, y, x), with z = 1 in 2D
    grid : dict
        Properties of its image's grid, for nnU-Net's writer.
    plain : bool
        Whether nnU-Net reads these values on this grid from the file as it is.
    warning : str or None
        What is odd about it, though nnU-Net takes it.
    """

    values: np.ndarray
    grid: dict
    plain: bool
    warning: str | None


def label_values(dataset_json: dict) -> dict[int, str]:
    """What a label may hold: value to name, with nnU-Net's ignore label if the dataset has one.

    Raises
    ------
    UserError
        If dataset.json does not describe labels as nnU-Net wants them.
    """
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    if not dataset_json.get("labels"):
        raise UserError("dataset.json names no labels, which annotators and nnU-Net need; add them")
    try:
        manager = LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order"))
    except Exception as error:  # nnU-Net asserts, and raises whatever it meets
        reason = str(error)[:100] or type(error).__name__
        raise UserError(f"the labels in dataset.json do not fit nnU-Net ({reason}); fix them") from None
    values = [*manager.all_labels, *([manager.ignore_label] if manager.has_ignore_label else [])]
    names = {value: name for name, value in dataset_json["labels"].items() if isinstance(value, int)}
    return {int(value): names.get(value, "part of a region") for value in values}


def label_names(dataset_json: dict) -> dict[int, str]:
    """What every value of a label map is called: as its label, or as the regions it is a part of.

    Blanks of all kinds become single spaces, and double quotes single ones, for which the formats of the tools have no
    way out.
    """
    names: dict[int, list[str]] = {value: [] for value in label_values(dataset_json)}
    for name, meant in dataset_json["labels"].items():
        for value in [meant] if isinstance(meant, int) else meant:
            names.setdefault(value, []).append(" ".join(name.replace('"', "'").split()) or f"label {value}")
    return {value: " and ".join(names[value]) for value in sorted(names)}


def label_regions(dataset_json: dict) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Region to the value that stands for it and to all of its values, in nnU-Net's order; none of plain labels.

    The description is one that `label_values` takes.
    """
    labels = {name: one if isinstance(one, list) else [one] for name, one in dataset_json["labels"].items()}
    if all(len(values) == 1 for values in labels.values()):
        return {}
    regions = {name: tuple(values) for name, values in labels.items() if name != IGNORE and set(values) != {0}}
    order = dataset_json["regions_class_order"]
    return {name: (value, values) for value, (name, values) in zip(order, regions.items(), strict=True)}


def shown(file: Path, pool: ImagePool) -> str:
    """A file as sentences name it: below the dataset's folder where it lies there."""
    folder = Workspace(pool.name).raw
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file)


def check_label(
    file: Path,
    case: Case,
    pool: ImagePool,
    *,
    allow_empty: bool = False,
    values: Mapping[int, int] | None = None,
) -> CheckedLabel:
    """Read the label of a case and check it against the case's image.

    The sizes and, where the format has them, spacing, origin and direction are compared along the axes that both files
    have: a 2D image fits a label with a third axis of length 1. A label that holds the voxels of its image in another
    order of the axes, or the other way, is turned by its place in the patient. An image with channels along a fourth
    axis fits none: nnU-Net's integrity check and its validation fail on it. A label in ``labelsTr`` may have another
    origin and direction, of which nnU-Net only warns.

    Parameters
    ----------
    file : Path
    case : Case
    pool : ImagePool
    allow_empty : bool
        Whether a label may hold background alone.
    values : mapping from int to int, optional
        What to read stored values as.

    Raises
    ------
    UnfitLabel
        If it cannot be used; the sentence names the file and says why.
    """
    name = shown(file, pool)
    shape, of_image, label, of_label, plain = _read(file, case, pool, name)
    if len(label) != 1:
        raise UnfitLabel(f"{name}: has {len(label)} channels, as a colour picture; save grey values")
    if label.shape[1:] != shape:
        raise UnfitLabel(
            f"{name}: has the size {_size(label.shape[1:])}, its image {_size(shape)}; draw and save it on its image's "
            f"grid"
        )
    if axes(of_image) == 4:
        raise UnfitLabel(
            f"{name}: its image {case.files[0]} has its channels along a fourth axis, on which nnU-Net's integrity "
            f"check and validation fail; split it into one file per channel, then collect again"
        )
    try:
        shifted = differences(of_image, of_label)
    except Exception as error:
        raise UnfitLabel(f"{name}: cannot be compared with its image ({reason_of(error)}); save it again") from None
    in_dataset = _in_dataset(file, pool)
    for what, sentence in shifted.items():
        if what == "spacing" or not in_dataset:
            raise UnfitLabel(f"{name}: {sentence}; draw and save it on its image's grid")
    known, where = label_names(pool.dataset_json), f"-l {shlex.quote(str(file.parent))} " if in_dataset else ""
    named = _is_foreign(file, pool) and names_its_labels(file)
    whole = _whole(label[0], {} if named else values or {}, known=known, name=name, where=where)
    if not allow_empty and np.isin(whole, [0, *(value for value in known if known[value] == IGNORE)]).all():
        way_out = f"collect with --allow_empty {shlex.quote(case.identifier)}"
        raise UnfitLabel(f"{name}: is empty; if there is nothing to draw, {way_out}")
    warning = f"{name}: {'; '.join(shifted.values())}; nnU-Net goes by the voxels alone, so look whether it fits"
    return CheckedLabel(
        values=whole,
        grid=of_image,
        plain=plain and np.array_equal(whole, label[0]) and axes(of_label) == axes(of_image),
        warning=warning if shifted else None,
    )


def _in_dataset(file: Path, pool: ImagePool) -> bool:
    """Whether somebody has put a label into ``labelsTr``, where nnU-Net reads it as it is."""
    return file.parent.resolve() == Workspace(pool.name).labels.resolve()


def _is_foreign(file: Path, pool: ImagePool) -> bool:
    """Whether a label has another format than the dataset's files, or segments with names, which nnU-Net cannot read.

    What somebody has put into the dataset has the values that nnU-Net reads.
    """
    if is_segmentation(file, pool.file_ending):
        return True
    return file.name.lower().endswith(".nrrd") and not _in_dataset(file, pool) and names_its_labels(file)


def _read(file: Path, case: Case, pool: ImagePool, name: str) -> tuple[tuple[int, ...], dict, np.ndarray, dict, bool]:
    """The size and properties of the image, then what `read_label` gives."""
    try:
        reader = pool.reader()
        image, of_image = reader.read_images([str(path) for path in case.files])
    except Exception as error:  # readers raise whatever their library raises
        raise UnfitLabel(f"{name}: its image {case.files[0]} cannot be read ({reason_of(error)})") from None
    try:
        if _is_foreign(file, pool):
            names = label_names(pool.dataset_json)
            label = read_segmentation(file, shape=image.shape[1:], grid=of_image, names=names)[None]
            of_label, plain = of_image, False
        else:
            check_alone([file])
            label, of_label, plain = read_label(file, reader)
            turned = stored_axes(of_label) != stored_axes(of_image)
            if turned and len(label) == 1 and not _in_dataset(file, pool):
                ordered = in_order_of(
                    label[0], patient_affine(of_label), shape=image.shape[1:], of_image=patient_affine(of_image)
                )
                if ordered is not None:
                    label, of_label, plain = ordered[None], of_image, False
        finite = np.isfinite(label).all() and stored_finite(file)
    except UserError as error:
        raise UnfitLabel(f"{name}: {error}") from None
    except Exception as error:
        raise UnfitLabel(f"{name}: cannot be read ({reason_of(error)}); save it again") from None
    if not finite:
        raise UnfitLabel(f"{name}: holds NaN or infinity; save it as whole numbers")
    return image.shape[1:], of_image, label, of_label, plain


def _whole(label: np.ndarray, values: Mapping[int, int], *, known: dict[int, str], name: str, where: str) -> np.ndarray:
    """The label in whole numbers, each of them known."""
    stored = np.rint(label)
    odd = np.unique(label[np.abs(label - stored) > _ROUNDING]).tolist()
    whole = stored.copy()
    for old, new in values.items():
        whole[stored == old] = new
    found = np.unique(whole).tolist()
    unknown = [value for value in found if value not in known]
    strange = [_number(value) for value in odd + unknown]
    if strange:
        raise UnfitLabel(
            f"{name}: holds {first_few(strange, 10)}, which no label has; the values are "
            f"{', '.join(f'{value} ({meaning})' for value, meaning in known.items())}"
            + ("" if odd else _proposal(found, unknown, known=known, where=where))
        )
    return whole.astype(np.int32)


def _proposal(found: list[float], unknown: list[float], *, known: dict[int, str], where: str) -> str:
    """How to collect a label with other values, such as 255 for 1: the unknown ones for those that are not there."""
    labels = [value for value, meaning in known.items() if value != 0 and meaning != IGNORE]
    free = [value for value in labels if value not in found]
    if not labels or len(unknown) > 10 or min(unknown) < 0:
        return ""
    if len(unknown) > len(free):
        return f"; say what each of them is with {where}--values, such as {_number(unknown[0])}={labels[0]}"
    pairs = [(_number(old), new) for old, new in zip(unknown, free, strict=False)]
    meant = " and ".join(f"{old} is {new} ({known[new]})" for old, new in pairs)
    return f"; if {meant}, collect with {where}--values {' '.join(f'{old}={new}' for old, new in pairs)}"


def _size(shape: tuple[int, ...]) -> str:
    # As viewers show it: x first.
    return " x ".join(str(n) for n in shape[::-1] if n > 1) or "1"


def _number(value: float) -> str:
    """A stored value with as many digits as tell it from its neighbours in single precision."""
    return np.format_float_positional(np.float32(value), trim="-")
