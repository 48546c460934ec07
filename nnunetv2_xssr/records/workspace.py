"""Where things lie: nnU-Net's three folders, and in them everything that this package writes."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.records.files import sha256

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
DEFAULT_NAME = "xssr"  # of a selection
# nnU-Net's own splits_final.json; our folders beside selections and hand-overs; and what a trainer's name may end with.
_RESERVED = r"final|caches|replaced|round_\d+|(demo|pretrained|frozen|\d+epochs)(_.*)?"
_LONGEST = 100  # characters of a folder's name that lists sources: file systems allow 255 bytes


def nnunet_folder(variable: str) -> Path:
    """The folder that ``nnUNet_raw``, ``nnUNet_preprocessed`` or ``nnUNet_results`` names."""
    if not os.environ.get(variable):
        check_environment()
    return Path(os.environ[variable])


def check_environment() -> None:
    """Raise `UserError` unless nnU-Net's three variables are set; it has a line to paste for every missing one."""
    missing = [variable for variable in VARIABLES if not os.environ.get(variable)]
    if missing:
        line = "set {0}=%CD%\\{0}" if os.name == "nt" else 'export {0}="$PWD/{0}"'
        raise UserError(
            f"the environment variable{'s' * (len(missing) > 1)} {', '.join(missing)} must name nnU-Net's folders; "
            "for folders in the current one type\n" + "\n".join(line.format(variable) for variable in missing)
        )


def find_dataset(name_or_number: str | int) -> str:
    """Full name (``Dataset001_Name``) of a raw dataset that is given by name or by number.

    Raises
    ------
    UserError
        If there is none, or the number has two.
    """
    raw, text = nnunet_folder("nnUNet_raw"), str(name_or_number)
    known = [path.name for path in datasets_in(raw)]
    if text in known:
        return text
    if re.fullmatch(r"\d{1,9}", text):
        found = [name for name in known if dataset_number(name) == int(text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"dataset {text} is not unique in {raw} ({', '.join(found)}); give a name")
    raise UserError(
        f"no dataset {text!r} in {raw} (nnUNet_raw), which holds {first_few(known) or 'none'}; "
        f"give a name such as Dataset001_Name or its number"
    )


def datasets_in(folder: Path) -> list[Path]:
    """The datasets in one of nnU-Net's folders, sorted by name."""
    return sorted(path for path in folder.glob("Dataset*_*") if names_dataset(path.name) and path.is_dir())


def names_dataset(text: str) -> bool:
    """Whether a text is the full name of a dataset: three digits or more, as nnU-Net has it."""
    return re.fullmatch(r"Dataset\d{3,}_.+", text) is not None


def may_name_dataset(text: str) -> bool:
    """Whether a text is the number or the full name of a dataset, and never a folder."""
    return re.fullmatch(r"\d+", text) is not None or names_dataset(text)


def dataset_number(name: str) -> int:
    """The number in the full name of a dataset."""
    return int(name[len("Dataset") : name.index("_")])


def channel_names_of(dataset_json: dict) -> tuple[str, ...]:
    """The names of the channels in the order of their numbers."""
    names = dataset_json["channel_names"]
    return tuple(str(names[number]) for number in sorted(names, key=int))


def encoder_folder(pool_names: Sequence[str], *, dim: int = 2) -> Path:
    """Where the encoder that learned from these pools lies: ``$nnUNet_results/<source>/XSSR_MAE__2d``, or ``...__3d``.

    Several sources get a folder whose name does not begin with a dataset's: nnU-Net would take it for that dataset.
    Many sources are told by the first one, their number and a hash.
    """
    name = pool_names[0] if len(pool_names) == 1 else "XSSR__" + "__".join(pool_names)
    if len(name) > _LONGEST:
        digest = sha256([name.encode()])[:8]
        name = f"XSSR__{pool_names[0][:50]}__and_{len(pool_names) - 1}_more_{digest}"
    return nnunet_folder("nnUNet_results") / name / f"XSSR_MAE__{dim}d"


def check_name(name: str) -> None:
    """Raise `UserError` unless a selection may have this name, which goes into names of files and of a trainer."""
    # Whether capitals or not: many file systems do not keep these apart.
    reserved = re.fullmatch(_RESERVED, name, re.IGNORECASE)
    if not re.fullmatch(r"[A-Za-z0-9]+([_-][A-Za-z0-9]+)*", name) or reserved or len(name) > 40:
        raise UserError(
            f"--name must be at most 40 letters, digits and single - or _, and not final, caches, replaced, demo, "
            f"pretrained, frozen, round_N or Nepochs; got {name[:50]!r}"
        )


@dataclass(frozen=True)
class Workspace:
    """The files of one dataset, or plain folder of images, and of one selection of it by name.

    Attributes
    ----------
    dataset : str
        Full name of the dataset, or name of the pool of a plain folder.
    name : str
        Of the selection. Two names never share a file.
    """

    dataset: str
    name: str = DEFAULT_NAME

    def __post_init__(self):
        check_name(self.name)

    @property
    def raw(self) -> Path:
        """The raw dataset."""
        return nnunet_folder("nnUNet_raw") / self.dataset

    @property
    def preprocessed(self) -> Path:
        """nnU-Net's folder of the preprocessed target."""
        return nnunet_folder("nnUNet_preprocessed") / self.dataset

    @property
    def results(self) -> Path:
        """What was trained for the dataset."""
        return nnunet_folder("nnUNet_results") / self.dataset

    @property
    def dataset_json(self) -> Path:
        """nnU-Net's description of the dataset."""
        return self.raw / "dataset.json"

    @property
    def images(self) -> Path:
        """The pool."""
        return self.raw / "imagesTr"

    @property
    def labels(self) -> Path:
        """The labels that nnU-Net trains on."""
        return self.raw / "labelsTr"

    def label_file(self, case: str, dataset_json: dict) -> Path:
        """Where the label of a case is, or belongs: where the table of dataset.json says, else in ``labelsTr``."""
        named = dataset_json.get("dataset", {}).get(case, {}).get("label")
        return self.listed(named) if named else self.labels / f"{case}{dataset_json['file_ending']}"

    def listed(self, path: str) -> Path:
        """A path in the table of dataset.json, as nnU-Net takes it."""
        return self.raw / os.path.expandvars(path)

    @property
    def preprocessed_labels(self) -> Path:
        """The labels as they were when nnU-Net preprocessed their cases."""
        return self.preprocessed / "gt_segmentations"

    def plans(self, plans_name: str = "nnUNetPlans") -> Path:
        """A plans file of nnU-Net."""
        return self.preprocessed / f"{plans_name}.json"

    @property
    def fingerprint(self) -> Path:
        """What nnU-Net measured of the images and labels before it planned."""
        return self.preprocessed / "dataset_fingerprint.json"

    @property
    def caches(self) -> Path:
        """Views, embeddings and hashes of the images: of the pool, whatever is selected of it."""
        return self.preprocessed / "xssr" / "caches"

    def preprocessed_patches(self, key: str) -> Path:
        """Images as nnU-Net's preprocessing makes them for HSSL, by a hash of its settings."""
        return self.caches / f"hssl_{key[:12]}"

    def predictions(self, key: str) -> Path:
        """What a model has predicted for the pool, one file per case, by a hash of the model."""
        return self.caches / f"predictions_{key[:12]}"

    @property
    def dicom(self) -> Path:
        """Volumes converted from the DICOM series of a plain folder, and the record of what became of each."""
        return self.caches / "dicom"

    @property
    def selection(self) -> Path:
        """The folder of the record, the records of earlier rounds and the report."""
        return self.preprocessed / "xssr" / self.name

    @property
    def record(self) -> Path:
        """The record."""
        return self.selection / "selection.json"

    def round_record(self, number: int) -> Path:
        """The record of a round that a later one has followed."""
        return self.selection / f"selection_round_{number:02d}.json"

    @property
    def config(self) -> Path:
        """The options that the selection was made with: see `nnunetv2_xssr.records.config`."""
        return self.selection / "select.yaml"

    def round_config(self, number: int) -> Path:
        """Those of a round that a later one has followed."""
        return self.selection / f"select_round_{number:02d}.yaml"

    @property
    def manifest(self) -> Path:
        """What belongs to the selection besides the record: see `nnunetv2_xssr.records.manifest`."""
        return self.selection / "manifest.json"

    @property
    def label_facts(self) -> Path:
        """How much is drawn in each label, in how many pieces and where."""
        return self.selection / "label_facts.json"

    @property
    def log(self) -> Path:
        """What select has said."""
        return self.selection / "select.log"

    @property
    def report(self) -> Path:
        """The page that shows the last selection."""
        return self.selection / "report.html"

    @property
    def split(self) -> Path:
        """In nnU-Net's format, beside its own ``splits_final.json``."""
        return self.preprocessed / f"splits_{self.name}.json"

    def trained_fold(self, *, trainer: str, plans_name: str, configuration: str, fold: int | str) -> Path:
        """The record of what nnU-Net trains a fold on, beside its checkpoints."""
        return self.results / f"{trainer}__{plans_name}__{configuration}" / f"fold_{fold}" / "xssr_fold.json"

    def handover(self, number: int) -> Path:
        """The hand-over of a round, for the annotator.

        It lies in ``nnUNet_raw`` because what a person drew must not be lost with ``nnUNet_preprocessed``, which may be
        deleted at any time to preprocess anew.
        """
        folder = self.raw / "annotate"
        return (folder if self.name == DEFAULT_NAME else folder / self.name) / f"round_{number:02d}"

    @property
    def replaced(self) -> Path:
        """Labels that corrected ones have replaced, beside the hand-overs."""
        return self.handover(1).parent / "replaced"

    @property
    def corrections(self) -> Path:
        """How much of each pre-label was corrected, beside the hand-overs."""
        return self.handover(1).parent / "corrections.json"

    def worklist(self, number: int, rater: str | None = None) -> Path:
        """The list of what is to be annotated in a round, by one of several raters."""
        return self.handover(number) / worklist_name(rater)

    def handovers(self) -> list[Path]:
        """The hand-overs of all rounds."""
        return sorted(self.handover(1).parent.glob("round_*"))

    @property
    def options(self) -> str:
        """What a command must be given to find this selection again, with a space ahead; nothing for the default."""
        return "" if self.name == DEFAULT_NAME else f" --name {self.name}"

    def hssl(self, *, plans_name: str, configuration: str) -> Path:
        """The folder of HSSL's weights for the target's network."""
        return self.results / f"XSSR_HSSL__{plans_name}__{configuration}"


def all_records() -> list[Path]:
    """The records of all rounds of all selections of all datasets."""
    return sorted(nnunet_folder("nnUNet_preprocessed").glob("*/xssr/*/selection*.json"))


def folder_pools() -> list[str]:
    """The pools of plain folders that have caches."""
    names = (path.parent.parent.name for path in nnunet_folder("nnUNet_preprocessed").glob("*/xssr/caches"))
    return sorted(name for name in names if not names_dataset(name))


def worklist_name(rater: str | None = None) -> str:
    """The name of a worklist in a hand-over."""
    return "worklist.csv" if rater is None else f"worklist_{rater}.csv"


def is_visible(path: Path) -> bool:
    """Whether a person put this file there: no hidden file, such as the ._NAME of macOS, and none of the system."""
    return not path.name.startswith(".") and path.name not in ("Thumbs.db", "desktop.ini")


def visible_files(folder: Path) -> list[Path]:
    """The files of a folder that a person put there, sorted; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and is_visible(path))
