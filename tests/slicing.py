"""A dataset of volumes whose slices are chosen, and what an annotator does with it."""

import numpy as np
import SimpleITK as sitk
from making import succeeds, volume, write_dataset_json

from nnunetv2_xssr.commands import select
from nnunetv2_xssr.images.extract import Look
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.images.scale import candidates_look
from nnunetv2_xssr.images.views import Views, prepare_views
from nnunetv2_xssr.records.selection import SelectionRecord

VOLUMES = "Dataset031_Volumes"
CASES = [f"v_{i}" for i in range(6)]
SHAPE = (16, 20, 20)
SELECT = ["-d", "31", "--unit", "slice", "-device", "cpu"]


def with_volumes(workspace):
    for i, case in enumerate(CASES):
        save(workspace.images(VOLUMES) / f"{case}_0000.nii.gz", volume(i)[0])
    write_dataset_json(workspace.raw / VOLUMES, ".nii.gz", channel_names={"0": "T1"}, numTraining=0, dataset={})
    return workspace


def save(path, array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.5, 2.0))
    image.SetOrigin((5.0, -7.0, 9.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def load(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def run(capsys, *argv, budget="4"):
    return succeeds(capsys, select.main, [*SELECT, "-b", budget, *argv])


def picks(volumes):
    return SelectionRecord.load(volumes.record(VOLUMES)).selections[0].picks


def labels(volumes, number=1):
    return volumes.raw / VOLUMES / "annotate" / f"round_{number:02d}" / "labels"


def sliced(pool, look=None, **options) -> Views:
    """The views of candidate slices."""
    return prepare_views(pool, look=candidates_look(pool, look or Look()), **options)


def candidates(pool, **options) -> dict[str, list[int]]:
    """The slices of every volume that may be chosen."""
    return {volume: list(facts.candidates) for volume, facts in sliced(pool, **options).facts.items()}


def slice_names(*cases) -> list[str]:
    """The names of the candidates of some volumes, in the order of the pool."""
    places = candidates(dataset_pool(VOLUMES).only(cases))
    return [f"{case}/{place}" for case in cases for place in places[case]]


def draw(volumes, *cases, number=1):
    """Draw on every slice that a template leaves open."""
    for case in cases:
        path = labels(volumes, number) / f"{case}.nii.gz"
        label = load(path)
        opened = np.flatnonzero((label == 0).any(axis=(1, 2)))
        label[opened, 4:9, 5:12] = 1
        save(path, label)
