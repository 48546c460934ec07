"""Where a project stands: rounds, labels, split, trained folds, and what to type next."""

from dataclasses import dataclass
from pathlib import Path

from nnunetv2_xssr.annotation.collecting import listed_cases
from nnunetv2_xssr.annotation.handover import drawn_labels, handover_folder
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.records.files import read_json
from nnunetv2_xssr.records.rounds import chosen_cases, load_rounds
from nnunetv2_xssr.records.selection import SelectionRecord
from nnunetv2_xssr.records.split import FILE_NAME as SPLIT_FILE
from nnunetv2_xssr.records.split import read_split
from nnunetv2_xssr.records.workspace import nnunet_folder


@dataclass(frozen=True)
class Round:
    """One round of annotation.

    Attributes
    ----------
    number : int
    budget : int
        How many cases were picked, or slices of them.
    picked : int
        How many cases were picked, whole or in slices.
    missing : list of str
        Picks without a label in the dataset, in order.
    returned : int
        Files that lie in the hand-over's ``labels``, templates that nobody has drawn in aside; 0 once none is missing.
    handover : str
    """

    number: int
    budget: int
    picked: int
    missing: list[str]
    returned: int
    handover: str


@dataclass(frozen=True)
class TrainedFold:
    """A fold that nnU-Net trained with an XSSRTrainer.

    Attributes
    ----------
    name : str
        ``XSSRTrainer__nnUNetPlans__2d/fold_0``.
    finished : bool
    current : bool
        Whether it was trained after the split was written.
    """

    name: str
    finished: bool
    current: bool


@dataclass(frozen=True)
class Project:
    """Where a target stands.

    Attributes
    ----------
    dataset : str
    cases, domains : int
    volumes : bool
        Whether the images are volumes, as far as select has read them.
    labelled : int
        Cases with a label file.
    uncollected : int
        Those of the chosen ones that dataset.json does not tell nnU-Net of.
    mode : {"study", "annotation"} or None
        None before the first selection.
    unit : {"case", "slice"} or None
        What the last selection chose.
    sources : list of str
    encoder : str or None
        Its file, as given; None for the one pretrained on the sources.
    rounds : list of Round
        Empty in a study.
    mean_distance, random_mean_distance : float or None
        Coverage of the last selection (of its first fold), and that of random draws.
    alpha : float or None
    folds : int
        Of the split.
    in_split, not_labelled, not_preprocessed : int
        Cases in the split, and those of them that have no label or that nnU-Net has not preprocessed.
    trained : list of TrainedFold
    """

    dataset: str
    cases: int
    domains: int
    volumes: bool
    labelled: int
    uncollected: int
    mode: str | None
    unit: str | None
    sources: list[str]
    encoder: str | None
    rounds: list[Round]
    mean_distance: float | None
    random_mean_distance: float | None
    alpha: float | None
    folds: int
    in_split: int
    not_labelled: int
    not_preprocessed: int
    trained: list[TrainedFold]


def project_of(pool: ImagePool) -> Project:
    """Look at everything that the commands and nnU-Net have written for a target; no image is opened."""
    folder = nnunet_folder("nnUNet_preprocessed") / pool.name
    records = load_rounds(folder / "xssr")
    last = records[-1] if records else None
    first = last.selections[0] if last else None
    labelled = {case.identifier for case in pool.cases if case.labelled}
    # Without a table nnU-Net takes every image for labelled.
    listed = labelled if len(labelled) == len(pool) else set(listed_cases(pool))
    split = read_split(folder / SPLIT_FILE) if (folder / SPLIT_FILE).is_file() else []
    in_split = {case for fold in split for part in fold.values() for case in part}
    ground_truth = folder / "gt_segmentations"
    preprocessed = {case for case in in_split if (ground_truth / f"{case}{pool.file_ending}").is_file()}
    views, volumes = (folder / "xssr" / kind / "index.json" for kind in ("views", "volumes"))
    planned = (folder / "nnUNetPlans.json").is_file()
    return Project(
        pool.name,
        len(pool),
        len({case.domain for case in pool.cases} - {None}),
        volumes.is_file() or (views.is_file() and read_json(views)["settings"]["views"] > 1),
        len(labelled),
        len(labelled & set(chosen_cases(records)) - listed),
        last and last.mode,
        last and last.settings["unit"],
        last.settings["source"] if last else [],
        last and last.settings["encoder"],
        [_round(record, labelled) for record in records if record.mode == "annotation"],
        first and first.mean_distance,
        first and first.random_mean_distance,
        first and first.alpha,
        len(split),
        len(in_split),
        len(in_split - listed),
        len(in_split - preprocessed) if planned else len(in_split),
        _trained(pool.name, folder / SPLIT_FILE),
    )


def _round(record: SelectionRecord, labelled: set[str]) -> Round:
    handover = handover_folder(record.dataset, record.round)
    missing = [case for case in record.picked if case not in labelled]
    returned = len(drawn_labels(handover)) if missing else 0
    budget = len(record.selections[0].picks)
    return Round(record.round, budget, len(record.picked), missing, returned, str(handover))


def _trained(dataset: str, split: Path) -> list[TrainedFold]:
    results = nnunet_folder("nnUNet_results") / dataset
    folds = []
    for folder in sorted(results.glob("XSSRTrainer*__*__*/fold_*")):
        final, best = folder / "checkpoint_final.pth", folder / "checkpoint_latest.pth"
        found = final if final.is_file() else best
        current = found.is_file() and split.is_file() and found.stat().st_mtime >= split.stat().st_mtime
        folds.append(TrainedFold(f"{folder.parent.name}/{folder.name}", final.is_file(), current))
    return folds


def next_steps(project: Project, device: str) -> list[str]:
    """What to do next, one command or deed a line.

    Parameters
    ----------
    project : Project
    device : str
        nnU-Net's name of it.
    """
    name, number = project.dataset, int(project.dataset[7:10])
    # Of a plain folder the record has the name only.
    sources = ["FOLDER" if not source.startswith("Dataset") else source for source in project.sources]
    source = f" -s {' '.join(sources) or 'SOURCE'}" if sources or project.mode is None else ""
    if project.mode is None:
        return [f"nnUNetv2_xssr_select -d {number}{source} -b 5%"]
    steps = []
    last = project.rounds[-1] if project.mode == "annotation" else None
    if last and (last.missing or project.uncollected):
        if last.missing and not last.returned:
            steps.append(f"annotate the images in {last.handover}, as its README.txt says")
        steps.append(f"nnUNetv2_xssr_collect -d {number}")
    if project.not_labelled:
        return steps
    if project.not_preprocessed:
        steps.append(f"nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity")
    if project.not_preprocessed or not any(fold.finished and fold.current for fold in project.trained):
        on = "" if device == "cuda" else f" -device {device}"
        steps.append(f"nnUNetv2_train {name} {'3d_fullres' if project.volumes else '2d'} 0 -tr XSSRTrainer{on}")
    if last and not steps:
        unit = " --unit slice" if project.unit == "slice" else ""
        steps.append(f"nnUNetv2_xssr_select -d {number}{source} -b {last.budget}{unit}")
    return steps
