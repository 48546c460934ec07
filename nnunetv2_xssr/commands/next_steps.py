"""What every command of an annotation project ends with: what to do next."""

import shlex
from pathlib import Path
from typing import Any

from nnunetv2_xssr.annotation.project import Project, project_status
from nnunetv2_xssr.commands.config_file import key_of
from nnunetv2_xssr.commands.select import make_parser
from nnunetv2_xssr.device import device_words, resolve_device
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.config import id_in_config, read_config
from nnunetv2_xssr.records.files import read_json
from nnunetv2_xssr.records.manifest import selection_id
from nnunetv2_xssr.records.preprocessed import DEFAULT_PLANNER, DEFAULT_PLANS
from nnunetv2_xssr.records.workspace import Workspace, dataset_number, names_dataset

# Options of select that stand in every proposal, that make a new dataset, or that say how and not what is chosen.
NOT_REPEATED = {
    *("target", "name", "sources", "budget"),
    *("images", "channel_names", "labels"),
    "model",  # the next round asks the folds that were trained for it
    *("help", "overwrite", "device", "no_wait", "prelabel", "dry_run", "config"),
    "pretrain_epochs",  # the encoder is there by then
    *("excluded", "forget_vetoes"),  # vetoes last without being named again
}
_ELSEWHERE = ("labelled", "cases", "scheduler")  # the record has what they tell, and not where it lies


def describe_next(workspace: Workspace, *, device: str | None = None) -> str:
    """The next steps in words; the device is the best there is unless one is given."""
    status = project_status(workspace.dataset, name=workspace.name)
    return "\n".join(["next:", *(f"  {step}" for step in next_steps(status, device=resolve_device(device)))])


def train_from_weights(
    dataset: str, weights: Path, *, configuration: str, plans_name: str, device: str | None, trainer: str | None = None
) -> list[str]:
    """The call that trains from weights: by this trainer, or on the selected cases where there is a selection."""
    if trainer is None and Workspace(dataset).split.is_file():
        trainer = "XSSRTrainer"
    named = [] if trainer is None else ["-tr", trainer]
    named += [] if plans_name == DEFAULT_PLANS else ["-p", plans_name]
    train = ["nnUNetv2_train", dataset, configuration, "0", *named, "-pretrained_weights", str(weights)]
    return [*train, *device_words(resolve_device(device))]


def next_steps(project: Project, *, device: str) -> list[str]:
    """What to do next: one command, as a shell takes it, or one deed per line.

    Parameters
    ----------
    project : Project
    device : str
        nnU-Net's name of it.
    """
    of_target = ["-d", str(dataset_number(project.dataset))]
    of_selection = [*of_target, *Workspace(project.dataset, project.name).options.split()]
    if project.mode is None:
        return [_select(project, of_selection)]
    steps = []
    last = project.rounds[-1] if project.mode == "annotation" else None
    if last and (last.missing or project.uncollected or not project.folds):
        if last.missing and not last.returned:
            steps.append(f"annotate the images in {last.handover}, as its README.txt says")
        steps.append(shlex.join(["nnUNetv2_xssr_collect", *of_selection]))
    if project.not_labelled or (last and (not project.folds or len(last.missing) == last.picked)):
        return steps
    steps += [shlex.join(command) for command in _preprocess(project, of_target)]
    if (
        project.not_preprocessed
        or project.changed
        or not any(fold.finished and fold.current for fold in project.trained)
    ):
        steps.append(shlex.join(_train(project, device)))
    if last and not steps:
        steps.append(_select(project, of_selection) if project.left else "nothing: no case is left to choose")
    return steps


def _select(project: Project, of_selection: list[str]) -> str:
    typed = _typed(project)
    # Of a plain folder the record has the name only.
    folders = typed.get("s", []) if len(typed.get("s", [])) == len(project.sources) else project.sources
    sources = [
        source if names_dataset(source) else "FOLDER" if folder == source else folder
        for source, folder in zip(project.sources, folders, strict=True)
    ]
    if project.mode is None:
        sources = ["SOURCE"]
    of_sources = ["-s", *sources] if sources else []
    budget = project.settings.get("budget", "5%")
    if budget.isdigit() and not project.settings.get("cases"):  # whose costs would make it no number of cases
        budget = str(min(int(budget), project.left * (project.settings.get("max_per_volume") or 1)))
    return shlex.join(
        ["nnUNetv2_xssr_select", *of_selection, *of_sources, "-b", budget, *_repeated(project.settings, typed)]
    )


def _typed(project: Project) -> dict[str, Any]:
    """The options that the last select kept, with full paths; none where it kept none, or somebody has changed them."""
    workspace = Workspace(project.dataset, project.name)
    if project.mode is None or id_in_config(workspace.config) != selection_id(read_json(workspace.record)):
        return {}
    try:
        return read_config(workspace.config)
    except UserError:
        return {}


def _repeated(settings: dict, typed: dict[str, Any]) -> list[str]:
    """The options of the last selection that decide what is chosen, where they are not the defaults."""
    words = []
    for action in make_parser()._actions:
        value, option = settings.get(action.dest), action.option_strings[0]
        if action.dest in NOT_REPEATED or value is None or value is False or value in ([], action.default):
            continue
        if action.dest in _ELSEWHERE:
            words += [option, str(typed.get(key_of(action), action.metavar))]
        elif action.nargs == 0:
            words.append(option)
        else:
            values = list(map(str, value if isinstance(value, list) else [value]))
            words += [f"{option}={values[0]}"] if values[0].startswith("-") else [option, *values]
    return words


def _preprocess(project: Project, of_target: list[str]) -> list[list[str]]:
    """What preprocesses the cases that are not, or whose label has changed since."""
    network, commands = project.network, []
    if project.changed:
        # nnU-Net copies a label only over an older one, whatever it holds.
        commands.append(["rm", "-r", project.preprocessed_labels])
    if project.not_preprocessed:
        planner = [] if network.planner in (None, DEFAULT_PLANNER) else ["-pl", network.planner]
        plans = [] if network.plans in (None, DEFAULT_PLANS) else ["-overwrite_plans_name", network.plans]
        verify = "--verify_dataset_integrity"
        commands.append(["nnUNetv2_plan_and_preprocess", *of_target, *planner, *plans, verify])
    elif project.changed:
        commands += [
            ["nnUNetv2_preprocess", *of_target, "-plans_name", plans, "-c", *configurations]
            for plans, configurations in network.preprocessed.items()
        ]
    return commands


def _train(project: Project, device: str) -> list[str]:
    network = project.network
    plans = [] if network.plans in (None, DEFAULT_PLANS) else ["-p", network.plans]
    fold = str(network.fold)
    weights = ["-pretrained_weights", "FILE"] if "_pretrained" in network.trainer else []  # no record says which
    trainer = ["-tr", network.trainer, *weights]
    return ["nnUNetv2_train", project.dataset, network.configuration, fold, *trainer, *plans, *device_words(device)]
