"""README.txt of a hand-over: what to draw, how to call and save it, and the steps for each tool."""

from collections.abc import Sequence

from nnunetv2_xssr.annotation.label_check import IGNORE, label_names
from nnunetv2_xssr.annotation.prelabels import prelabels_note
from nnunetv2_xssr.annotation.raters import Dealt, raters_of
from nnunetv2_xssr.annotation.second_look import LookAgain, look_again_note
from nnunetv2_xssr.annotation.tool_steps import PICTURES, STACKS, tool_steps
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.records.selection import Pick
from nnunetv2_xssr.records.workspace import worklist_name


def readme(
    pool: ImagePool,
    first: Pick,
    *,
    images: Sequence[str],
    dealt: Dealt,
    prelabelled: bool,
    turned: Sequence[str],
    again: Sequence[LookAgain],
    pictured: bool,
) -> str:
    """The text.

    Parameters
    ----------
    pool : ImagePool
    first : Pick
        The example.
    images : sequence of str
        Names of its images in the hand-over, one per channel unless one file has all.
    dealt : mapping
        Case to its raters; empty for one annotator.
    prelabelled : bool
        Whether a model has drawn first.
    turned : sequence of str
        Images that napari's plugin turns.
    again : sequence of LookAgain
        Labels of earlier rounds that deserve a second look.
    pictured : bool
        Whether the worklist to print has pictures.
    """
    ending, case, sliced = pool.file_ending, first.case, first.slice is not None
    raters = raters_of(dealt)
    values = "\n".join(f"    {value:<8}{name}" for value, name in label_names(pool.dataset_json).items())
    nothing = "on a slice, let it hold zeros" if sliced else "in an image, save a label of zeros"
    home = f"labels/{'YOU/' if raters else ''}"
    which = "the images that your list names" if raters else "every image of images/"
    per = "image" if len(images) == 1 else "case, not per image,"
    steps = tool_steps(
        image=f"images/{images[0]}",
        label=f"{home}{case}{ending}",
        ending=ending,
        template=sliced,
        prelabelled=prelabelled,
        turned=turned,
    )
    minutes = "the column minutes of your list" if raters else "the column minutes of worklist.csv"
    return f"""What to do
----------
worklist.csv lists the images to annotate, the most useful one first, and why each was chosen; worklist.html is the same
to print{", with pictures" if pictured else ""}.
Draw the structures below in {which} and save one label per {per} in {home}.
You can send labels back in parts: begin at the top.
If you note in {minutes} how long each row took you, the next round can be
planned by the time that you have.

{_raters_note(dealt) if raters else ""}{_slices_note(pool, prelabelled, home) if sliced else ""}{
        prelabels_note(sliced) if prelabelled else ""
    }{look_again_note(again, home) if again else ""}Values
------
{values}

Names and format
----------------
- The label of {" and ".join(f"images/{name}" for name in images)} is {home}{case}{ending}, without _0000.
- Save {ending}: {_kind(ending)}.
- Also taken: {_also_taken(case, ending)}.
- If there is nothing to draw {nothing}, and tell the person who sent you this folder.

Tools
-----
{steps}"""


def _kind(ending: str) -> str:
    if ending.lower() in PICTURES:
        return "8-bit grey values in the width and height of the image, without colours, transparency or smoothing"
    return (
        "a label map of whole numbers with the size, spacing, origin and direction of the image. Each tool below\n"
        "  keeps these when you draw the label over that image"
    )


def _also_taken(case: str, ending: str) -> str:
    """Contours need a place in the patient, which pictures do not tell, and CVAT shows pictures alone."""
    if ending.lower() in PICTURES + STACKS:
        return (
            f"{case}.seg.nrrd of 3D Slicer, with segments called as the structures above, {case}.nrrd\n"
            f"  with the values above, and what CVAT exports as Segmentation mask"
        )
    return (
        f"{case}.seg.nrrd of 3D Slicer and {case}.dcm (DICOM SEG or RTSTRUCT), with segments\n"
        f"  called as the structures above, and {case}.nrrd with the values above"
    )


def _raters_note(dealt: Dealt) -> str:
    lists = "\n".join(f"- {rater}: {worklist_name(rater)} and labels/{rater}/" for rater in raters_of(dealt))
    shared = any(len(raters) > 1 for raters in dealt.values())
    peeping = "\nDo not look into the others' folders: some images are in several lists, to see how far you agree."
    return f"""Who draws what
--------------
Each of you has a list and a folder:

{lists}

Draw what your list names, and save it in your folder (labels/YOU/ below). A label beside these folders is nobody's.{
        peeping if shared else ""
    }

"""


def _slices_note(pool: ImagePool, prelabelled: bool, home: str) -> str:
    drawn = "what a model has drawn" if prelabelled else "0"
    value = pool.dataset_json["labels"][IGNORE]
    return f"""Only some slices
----------------
Draw only the slices that your list names: slice counts from 0 along the third axis of the file, k, slice_itksnap as
ITK-SNAP does, slice_napari as napari's slider does, and position is the place in mm that 3D Slicer shows.
{home} holds one template per image: load it as the segmentation of its image, and save it under the same name.
It holds {drawn} on the slices to draw, and {value} (ignore) on all others. Draw everything that is
visible on the former, and leave {value} on the latter.

"""
