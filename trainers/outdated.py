"""Whether a case was preprocessed from the label that it has now, told by what the two hold."""

from pathlib import Path

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager


def made_from(label: Path, *, case: str, folder: Path, plans: PlansManager, configuration: str) -> bool:
    """Whether the preprocessed segmentation of a case can be that of this label.

    nnU-Net's preprocessing transposes the label, crops it, and resamples it linearly or by the nearest voxel: a voxel
    whose neighbours in the label all have one value has this value, too. That leaves only voxels on borders open. The
    dates of the files tell nothing, because folders are copied.

    Parameters
    ----------
    label : Path
    case : str
    folder : Path
        Of preprocessed cases.
    plans : PlansManager
    configuration : str

    Returns
    -------
    bool
        True, too, for other ways to preprocess, of which nothing is known.
    """
    if not _is_stock(plans.get_configuration(configuration)):
        return True
    _, stored, _, properties = infer_dataset_class(str(folder))(str(folder), [case]).load_case(case)
    stored = np.maximum(stored[:][0], 0)  # -1 is background outside of the body
    array = plans.image_reader_writer_class().read_seg(str(label))[0][0].transpose(plans.transpose_forward)
    if array.shape != tuple(properties["shape_before_cropping"]):
        return False
    array = array[tuple(slice(*ends) for ends in properties["bbox_used_for_cropping"])].astype(stored.dtype)
    (above, below), *in_plane = map(_neighbours, array.shape, stored.shape)
    for plane, first, last in zip(stored, above, below, strict=True):  # plane by plane, which caches can hold
        lowest, highest = np.minimum(array[first], array[last]), np.maximum(array[first], array[last])
        for axis, (before, after) in enumerate(in_plane):
            lowest = np.minimum(lowest.take(before, axis), lowest.take(after, axis))
            highest = np.maximum(highest.take(before, axis), highest.take(after, axis))
        if np.any((lowest == highest) & (lowest != plane)):
            return False
    return True


def _is_stock(configuration: ConfigurationManager) -> bool:
    settings = configuration.configuration
    resampling = settings.get("resampling_fn_seg") in ("resample_data_or_seg_to_shape", "resample_torch_fornnunet")
    linear = settings.get("resampling_fn_seg_kwargs", {}).get("order", 1) <= 1
    return configuration.preprocessor_name == "DefaultPreprocessor" and resampling and linear


def _neighbours(n_old: int, n_new: int) -> tuple[np.ndarray, np.ndarray]:
    """The old voxels before and after the centre of each new one along an axis; one and the same where it is on one."""
    centres = (np.arange(n_new) + 0.5) * n_old / n_new - 0.5
    centres = np.clip(np.round(centres, 6), 0, n_old - 1)
    return np.floor(centres).astype(int), np.ceil(centres).astype(int)
