"""How to draw and save a label in each tool, in numbered steps for the hand-over's README.txt."""

import textwrap
from collections.abc import Sequence

from nnunetv2_xssr.annotation.colour_tables import ITK_SNAP, NAPARI, SLICER
from nnunetv2_xssr.annotation.label_check import IGNORE
from nnunetv2_xssr.annotation.slice_places import NAPARI_NIFTI

PICTURES, STACKS = (".png", ".bmp"), (".tif", ".tiff")


def tool_steps(
    *, image: str, label: str, ending: str, template: bool, prelabelled: bool, turned: Sequence[str] = ()
) -> str:
    """The steps for 3D Slicer, ITK-SNAP, napari and MITK.

    Parameters
    ----------
    image, label : str
        An image of the hand-over, and the label to save, as examples.
    ending : str
        Of the dataset's files.
    template : bool
        Whether the label is there already, to be drawn in: ignored but for some slices.
    prelabelled : bool
        Whether it is there and a model has drawn in it.
    turned : sequence of str
        Images that napari's plugin turns: see `nnunetv2_xssr.annotation.slice_places.is_turned_by_napari`.
    """
    stem = label.removesuffix(ending)
    there = template or prelabelled
    slicer_opens = f" and,\n   as a Segmentation, {label}" if there else ""
    segments = f"one segment per structure, called as in {SLICER}. Draw."
    if prelabelled:
        segments = f"call each segment as {SLICER} calls its value. Add\n   those that are missing. Correct."
    elif template:
        segments = f"call the segment that is there {IGNORE}. Add\n   {segments}"
    snap_opens = f" Segmentation > Open Segmentation: {label}." if there else ""
    mitk_opens = f" and, as its segmentation, {label}" if there else ""
    return f"""3D Slicer
1. Drag {image} and {SLICER} into the window{slicer_opens}.
2. Segment Editor: {segments}
3. File > Save: the segmentation as {stem}.seg.nrrd. Its segments count by their names.

ITK-SNAP
1. File > Open Main Image: {image}.{snap_opens}
2. Segmentation > Import Label Descriptions: {ITK_SNAP}. Draw with the label of each structure.
3. Segmentation > Save Segmentation Image: {label}.

napari
{_napari(image, label, ending.lower(), there)}{_turned_note(turned)}

MITK: open {image}{mitk_opens}.
Draw with one label per structure, in the order of the values. Right-click on the segmentation in the Data Manager >
Save: {label}.
"""


def _napari(image: str, label: str, ending: str, there: bool) -> str:
    """As tried with version 0.9."""
    plugin = ", with the plugin napari-nifti" if ending in NAPARI_NIFTI else f", with a plugin for {ending}"
    plugin = "" if ending in PICTURES + STACKS else plugin
    begin = f"Drag {label} in; right-click > Convert to Labels" if there else "Add a Labels layer"
    save = "File > Save Selected Layers"
    if ending in PICTURES:
        save = "Right-click on the layer > Convert to Image. Save this image"
    return f"""1. Drag {image} in{plugin}.
2. {begin}. Draw with the number of each structure.
   For its colours start napari in this folder, and type in its console:
   import json; t = json.load(open("{NAPARI}"))
   viewer.layers.selection.active.colormap = {{None: "red", **{{x["value"]: x["color"] for x in t}}}}
3. {save} as {label}."""


def _turned_note(turned: Sequence[str]) -> str:
    if not turned:
        return ""
    note = f"napari-nifti mixes up the axes of these images, so draw in them with another tool: {', '.join(turned)}."
    indented = textwrap.fill(note, 117, break_long_words=False, break_on_hyphens=False)
    return "\n" + textwrap.indent(indented, "   ")
