"""Whether a label fits its image: it can be read, lies on the same grid and holds the values it may hold."""

from pathlib import Path

import numpy as np

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.reading import stored_finite

# Programs write geometry as text or in single precision: this much may get lost, and moves a label by less than anybody
# could see.
_VOXELS = 0.01  # of origin and direction, as a share of a voxel
_COSINES = 1e-3  # of the direction


class UnfitLabel(UserError):
    """One label cannot be used; the others may be."""


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
    except AssertionError as error:  # nnU-Net checks them this way
        raise UserError(f"the labels in dataset.json do not fit nnU-Net ({error}); mend them") from None
    values = [*manager.all_labels, *([manager.ignore_label] if manager.has_ignore_label else [])]
    names = {value: name for name, value in dataset_json["labels"].items() if isinstance(value, int)}
    return {int(value): names.get(value, "part of a region") for value in values}


def check_label(file: Path, case: Case, pool: ImagePool, allow_empty: bool = False) -> np.ndarray:
    """Read the label of a case and check it against the case's image.

    Parameters
    ----------
    file : Path
    case : Case
    pool : ImagePool
    allow_empty : bool
        Whether a label may hold background alone.

    Returns
    -------
    int array of shape (z, y, x), with z = 1 in 2D

    Raises
    ------
    UnfitLabel
        If it cannot be used; the sentence names the file and says why.
    """
    reader = pool.reader()
    try:
        image, of_image = reader.read_images([str(path) for path in case.files])
    except Exception as error:  # readers raise whatever their library raises
        raise UnfitLabel(f"{file.name}: its image {case.files[0]} cannot be read ({_short(error)})") from None
    try:
        label, of_label = reader.read_seg(str(file))
        finite = np.isfinite(label).all() and stored_finite(file)
    except Exception as error:
        raise UnfitLabel(f"{file.name}: cannot be read ({_short(error)}); save it again") from None
    if not finite:
        raise UnfitLabel(f"{file.name}: holds NaN or infinity; save it as whole numbers")
    if len(label) != 1:
        raise UnfitLabel(f"{file.name}: has {len(label)} channels, as a colour picture; save grey values")
    if label.shape[1:] != image.shape[1:]:
        raise UnfitLabel(
            f"{file.name}: has the size {_size(label)}, its image {_size(image)}; draw and save it on its image's grid"
        )
    _check_geometry(file, of_image, of_label)
    return _checked_values(file, label[0], label_values(pool.dataset_json), allow_empty)


def _check_geometry(file: Path, of_image: dict, of_label: dict) -> None:
    """Compare what the format tells: pictures tell nothing, stacks in .tif a spacing in a file beside them."""
    pairs = {}
    if "sitk_stuff" in of_image:
        ours, theirs = of_image["sitk_stuff"], of_label["sitk_stuff"]
        voxel = _VOXELS * min(ours["spacing"])
        # Of the spacing nnU-Net wants no less than np.allclose.
        pairs["spacing"] = ours["spacing"], theirs["spacing"], 1e-5 * min(ours["spacing"])
        pairs["origin"] = ours["origin"], theirs["origin"], voxel
        pairs["direction"] = ours["direction"], theirs["direction"], _COSINES
    elif "nibabel_stuff" in of_image:
        ours, theirs = (np.ravel(p["nibabel_stuff"]["original_affine"]) for p in (of_image, of_label))
        pairs["spacing"] = of_image["spacing"], of_label["spacing"], 1e-5 * min(of_image["spacing"])
        pairs["affine"] = ours, theirs, _VOXELS * min(of_image["spacing"])
    for name, (image, label, tolerance) in pairs.items():
        if not np.allclose(label, image, rtol=0, atol=tolerance):
            raise UnfitLabel(
                f"{file.name}: has the {name} {_numbers(label)}, its image {_numbers(image)}; draw and save it on its "
                f"image's grid"
            )


def _checked_values(file: Path, label: np.ndarray, known: dict[int, str], allow_empty: bool) -> np.ndarray:
    found = np.unique(label)
    allowed = ", ".join(f"{value} ({name})" for value, name in known.items())
    unknown = [value for value in found if value not in known]
    if unknown:
        raise UnfitLabel(
            f"{file.name}: holds {_numbers(unknown[:5])}{', ...' if len(unknown) > 5 else ''}, which no label has; the "
            f"values are {allowed}"
        )
    if all(value == 0 or known[value] == "ignore" for value in found) and not allow_empty:
        raise UnfitLabel(f"{file.name}: is empty; if there is nothing to draw in its image, collect with --allow_empty")
    return label.astype(int)


def _size(array: np.ndarray) -> str:
    # As viewers show it: x first.
    return " x ".join(str(n) for n in array.shape[:0:-1] if n > 1) or "1"


def _numbers(values) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[-200:] or type(error).__name__
