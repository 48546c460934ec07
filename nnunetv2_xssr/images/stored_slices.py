"""Volumes in the order of slices of their files, which an annotator sees, whatever nnU-Net's reader makes of them."""

import numpy as np
from nibabel.orientations import io_orientation
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient


class StoredSlicesIO(NibabelIOWithReorient):
    """`NibabelIOWithReorient` with the third axis of the file as the first one of the array, in the file's order.

    Slice i of an image of shape (channels, z, y, x) is slice i of the file; in its plane it is turned to RAS.
    """

    def read_images(self, image_fnames):
        image, properties = super().read_images(image_fnames)
        axis, step = _stored_axis(properties)
        spacing = list(properties["spacing"])
        spacing.insert(0, spacing.pop(axis))
        return np.moveaxis(image, 1 + axis, 1)[:, ::step], {**properties, "spacing": spacing}

    def write_seg(self, seg, output_fname, properties):
        axis, step = _stored_axis(properties)
        super().write_seg(np.moveaxis(seg[::step], 0, axis), output_fname, properties)


def _stored_axis(properties: dict) -> tuple[int, int]:
    """Which axis of an array (z, y, x) in RAS the third one of the file is; -1 if it runs the other way, else 1."""
    axis, step = io_orientation(properties["nibabel_stuff"]["original_affine"])[2].astype(int)
    return 2 - int(axis), int(step)
