"""What must hold before a fold is trained: where stock nnU-Net would fail late, or train on something else."""

from pathlib import Path

from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.records.preprocessed import changed_labels
from nnunetv2_xssr.records.trained_fold import TrainedFold
from nnunetv2_xssr.records.workspace import Workspace, dataset_number
from nnunetv2_xssr.trainers.outdated import made_from


def check_trainable(cases: TrainedFold, *, plans: PlansManager, configuration: str, dataset_json: dict) -> None:
    """Check that every case of a fold is labelled, and preprocessed for this configuration from the label of now.

    Parameters
    ----------
    cases : TrainedFold
    plans : PlansManager
    configuration : str
    dataset_json : dict

    Raises
    ------
    UserError
        If one is not; the sentence names the cases and the command.
    """
    workspace = Workspace(plans.dataset_name, cases.selection)
    number, ending = dataset_number(workspace.dataset), dataset_json["file_ending"]
    both = sorted({*cases.train, *cases.val})
    preprocess = f"nnUNetv2_preprocess -d {number} -c {configuration} -plans_name {plans.plans_name}"

    labels = workspace.preprocessed_labels
    unlabelled = [case for case in both if not (labels / f"{case}{ending}").is_file()]
    if unlabelled:
        collect = f"nnUNetv2_xssr_collect -d {number}{workspace.options}"
        raise UserError(
            f"{len(unlabelled)} of {len(both)} selected cases have no label in {labels} ({first_few(unlabelled)}); "
            f"train on those that have one after {collect}; then: nnUNetv2_plan_and_preprocess -d {number}"
        )
    changed = changed_labels(workspace, both, file_ending=ending)
    if changed:
        # nnU-Net copies a label only over an older one, whatever it holds.
        raise UserError(
            f"{len(changed)} of {len(both)} selected cases have another label now than in {labels} "
            f"({first_few(changed)}); delete their labels there, then run: {preprocess}"
        )
    folder = workspace.preprocessed / plans.get_configuration(configuration).data_identifier
    known = _preprocessed_cases(folder)
    missing = [case for case in both if case not in known]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(both)} selected cases are not preprocessed in {folder} ({first_few(missing)}); "
            f"run: {preprocess}"
        )
    # Validation measures with the label itself: only what is trained on must be made from it.
    outdated = [
        case
        for case in cases.train
        if not made_from(labels / f"{case}{ending}", case=case, folder=folder, plans=plans, configuration=configuration)
    ]
    if outdated:
        raise UserError(
            f"{len(outdated)} of {len(cases.train)} training cases were preprocessed in {folder} from another label "
            f"than they have now ({first_few(outdated)}); run: {preprocess}"
        )


def _preprocessed_cases(folder: Path) -> set[str]:
    # nnU-Net tells the kind of a folder by what it holds, and fails on one that is empty or not there.
    if not folder.is_dir() or not any(folder.iterdir()):
        return set()
    return set(infer_dataset_class(str(folder)).get_identifiers(str(folder)))
