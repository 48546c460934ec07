"""Where a project stands: rounds, labels, split, trained folds, and what to type next."""

from dataclasses import dataclass

from nnunetv2_xssr.annotation.collecting import listed_cases
from nnunetv2_xssr.annotation.handover import drawn_labels
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_rows import read_index
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.records.rounds import chosen_cases, load_rounds
from nnunetv2_xssr.records.selection import SelectionRecord
from nnunetv2_xssr.records.split import read_split
from nnunetv2_xssr.records.workspace import DEFAULT_NAME, Workspace, check_environment, dataset_number, find_dataset


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class Project:
    """Where a target stands.

    Attributes
    ----------
    dataset : str
    name : str
        Of the selection.
    cases, domains : int
    volumes : bool
        Whether the images are volumes, as the last selection has read them.
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
    name: str
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


def project_status(target: str, *, name: str = DEFAULT_NAME) -> Project:
    """Where a target stands, by all that the commands and nnU-Net have written for it; no image is opened.

    Parameters
    ----------
    target : str
        nnU-Net raw dataset, by name or number.
    name : str
        Of the selection.

    Raises
    ------
    UserError
        If there is no such dataset, or one of its records cannot be read.
    """
    check_environment()
    pool = dataset_pool(find_dataset(target))
    workspace = Workspace(pool.name, name)
    records = load_rounds(workspace)
    last = records[-1] if records else None
    first = last.selections[0] if last else None
    labelled = {case.identifier for case in pool.cases if case.labelled}
    # Without a table nnU-Net takes every image for labelled.
    listed = labelled if len(labelled) == len(pool) else set(listed_cases(pool))
    split = read_split(workspace.split) if workspace.split.is_file() else []
    in_split = {case for fold in split for part in fold.values() for case in part}
    ground_truth = workspace.preprocessed_labels
    preprocessed = {case for case in in_split if (ground_truth / f"{case}{pool.file_ending}").is_file()}
    planned = workspace.plans().is_file()
    return Project(
        dataset=pool.name,
        name=name,
        cases=len(pool),
        domains=len({case.domain for case in pool.cases} - {None}),
        volumes=last is not None and _has_volumes(last),
        labelled=len(labelled),
        uncollected=len(labelled & set(chosen_cases(records)) - listed),
        mode=last and last.mode,
        unit=last and last.settings["unit"],
        sources=last.settings["source"] if last else [],
        encoder=last and last.settings["encoder"],
        rounds=[_round(record, labelled) for record in records if record.mode == "annotation"],
        mean_distance=first and first.mean_distance,
        random_mean_distance=first and first.random_mean_distance,
        alpha=first and first.alpha,
        folds=len(split),
        in_split=len(in_split),
        not_labelled=len(in_split - listed),
        not_preprocessed=len(in_split - preprocessed) if planned else len(in_split),
        trained=_trained(workspace),
    )


def _has_volumes(record: SelectionRecord) -> bool:
    key = record.provenance.get("views_cache", {}).get(record.dataset, "")
    try:
        settings = read_index(record.workspace.caches / "views", key)["settings"]
    except UserError:  # caches may be deleted
        return False
    return settings["views"] > 1 or record.settings["dim"] == 3


def _round(record: SelectionRecord, labelled: set[str]) -> Round:
    handover = record.workspace.handover(record.round)
    missing = [case for case in record.picked if case not in labelled]
    returned = len(drawn_labels(handover)) if missing else 0
    budget = len(record.selections[0].picks)
    return Round(
        number=record.round,
        budget=budget,
        picked=len(record.picked),
        missing=missing,
        returned=returned,
        handover=str(handover),
    )


def _trained(workspace: Workspace) -> list[TrainedFold]:
    split, folds = workspace.split, []
    for folder in sorted(workspace.results.glob("XSSRTrainer*__*__*/fold_*")):
        final, best = folder / "checkpoint_final.pth", folder / "checkpoint_latest.pth"
        found = final if final.is_file() else best
        current = found.is_file() and split.is_file() and found.stat().st_mtime >= split.stat().st_mtime
        folds.append(TrainedFold(name=f"{folder.parent.name}/{folder.name}", finished=final.is_file(), current=current))
    return folds


def next_steps(project: Project, *, device: str) -> list[str]:
    """What to do next, one command or deed per line.

    Parameters
    ----------
    project : Project
    device : str
        nnU-Net's name of it.
    """
    name, number = project.dataset, dataset_number(project.dataset)
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
    if project.not_labelled or (last and len(last.missing) == last.picked):
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
