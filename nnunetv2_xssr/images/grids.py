"""The grid that a file tells of: how many axes it has, and where a label's differs from its image's."""

import numpy as np

# Programs write geometry as text or in single precision: this much may get lost, and moves a label by less than anybody
# could see.
_VOXELS = 0.01  # of origin and affine, as a share of a voxel
_COSINES = 1e-3  # of the direction


def axes(properties: dict) -> int | None:
    """How many axes a file has, by what nnU-Net's reader tells of it; None where the format fixes their number."""
    return len(properties["sitk_stuff"]["spacing"]) if "sitk_stuff" in properties else None


def image_grid(properties: dict) -> dict:
    """The properties of an image, without those of a fourth axis along which its channels lie."""
    if axes(properties) != 4:
        return properties
    return {**properties, "sitk_stuff": {**properties["sitk_stuff"], **_along(properties["sitk_stuff"], 3)}}


def patient_affine(properties: dict) -> np.ndarray | None:
    """From indices (x, y, z) of the array that a reader gives to millimetres in LPS; None where the file does not tell.

    Parameters
    ----------
    properties : dict
        Of nnU-Net's readers.
    """
    affine = np.eye(4)
    if "sitk_stuff" in properties:
        stuff = image_grid(properties)["sitk_stuff"]
        n = len(stuff["spacing"])
        affine[:n, :n] = np.reshape(stuff["direction"], (n, n)) * stuff["spacing"]
        affine[:n, 3] = stuff["origin"]
        return affine
    if "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ stuff.get("reoriented_affine", stuff["original_affine"])
    return None


def stored_axes(properties: dict) -> list[list[float]] | None:
    """Along which of the patient's axes every axis of a file runs, and which way, whatever its reader has turned.

    Parameters
    ----------
    properties : dict
        Of nnU-Net's readers.

    Returns
    -------
    list of [axis, sign] or None
        For x, y and z of the file: 0 between right and left, 1 between front and back, 2 between head and foot. None
        where the file does not tell.
    """
    stuff = properties.get("nibabel_stuff")
    affine = patient_affine(properties) if stuff is None else stuff["original_affine"]
    if affine is None:
        return None
    from nibabel.orientations import io_orientation

    return io_orientation(affine).tolist()


def differences(of_image: dict, of_label: dict) -> dict[str, str]:
    """What differs between the grids of an image and of its label, along the axes that both files have.

    Pictures tell nothing, and stacks in .tif a spacing in a file beside them, which is not compared.

    Parameters
    ----------
    of_image, of_label : dict
        What nnU-Net's reader tells of the files.

    Returns
    -------
    dict
        "spacing", "origin", "direction" or "affine" to the words for a sentence that begins with the label's file.
    """
    pairs: dict[str, tuple] = {}
    if "sitk_stuff" in of_image:
        n = min(len(properties["sitk_stuff"]["spacing"]) for properties in (of_image, of_label))
        ours, theirs = (_along(properties["sitk_stuff"], n) for properties in (of_image, of_label))
        pairs["spacing"] = ours["spacing"], theirs["spacing"], _spacing_tolerance(ours["spacing"])
        pairs["origin"] = ours["origin"], theirs["origin"], _VOXELS * min(ours["spacing"])
        pairs["direction"] = ours["direction"], theirs["direction"], _COSINES
    elif "nibabel_stuff" in of_image:
        affines = [np.ravel(properties["nibabel_stuff"]["original_affine"]) for properties in (of_image, of_label)]
        pairs["spacing"] = of_image["spacing"], of_label["spacing"], _spacing_tolerance(of_image["spacing"])
        pairs["affine"] = *affines, _VOXELS * min(of_image["spacing"])
    return {
        what: f"has the {what} {_numbers(label)}, its image {_numbers(image)}"
        for what, (image, label, tolerance) in pairs.items()
        if not np.allclose(label, image, rtol=0, atol=tolerance)
    }


def _spacing_tolerance(spacing) -> float:
    return 1e-5 * min(spacing)  # nnU-Net wants no less than np.allclose


def _along(stuff: dict, n: int) -> dict:
    """Spacing, origin and direction along the first axes, the direction as ITK makes it for files of so many axes."""
    size = len(stuff["spacing"])
    direction = np.reshape(stuff["direction"], (size, size))[:n, :n]
    length = np.linalg.norm(direction, axis=0)
    direction = direction / np.where(length > 0, length, 1)
    return {
        "spacing": tuple(stuff["spacing"][:n]),
        "origin": tuple(stuff["origin"][:n]),
        "direction": tuple(direction.ravel().tolist()),
    }


def _numbers(values) -> str:
    return ", ".join(f"{value:.7g}" for value in values)
