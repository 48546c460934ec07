"""Options that several commands share: each is declared here once."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_xssr.commands.running import Options, add_device
from nnunetv2_xssr.records.preprocessed import DEFAULT_PLANS


def add_sources(parser: Options) -> None:
    """Add what a pretraining learns from: ``-s``, and the options of folders."""
    add = parser.add_argument
    # fmt: off
    add("-s", nargs="+", required=True, metavar="SOURCE",
        help="nnU-Net datasets (name or number) or folders of images to learn from; labels are not read")
    add("--channel_names", nargs="+", metavar="NAME",
        help="of every channel of images in folders, such as CT, as in nnU-Net; it decides the normalisation")
    # fmt: on
    add_folders(parser)


def add_training(parser: Options, *, epochs: int, batch: str, parts: str) -> None:
    """Add how a pretraining runs: length, batch, processes; the texts name defaults."""
    add = parser.add_argument
    # fmt: off
    add("--epochs", type=_epochs,
        help=f"of 50 batches each, or auto: until the loss of held-out images stops falling; {epochs} by default")
    add("--batch_size", type=int, help=f"images per batch, over all GPUs; by default {batch}")
    add("--accumulate", type=int, help=f"compute a batch in so many parts, to save memory; by default {parts}")
    add("--precision", default="32-true", help="32-true (default), bf16-mixed, or 16-mixed, which needs a CUDA GPU")
    add("--seed", type=int, default=0, help="seed of all random numbers; 0 by default")
    add("--show_batch", type=Path, metavar="FILE",
        help="before the training save a picture, such as a .png, of what the network is shown in its first batch")
    add("--c", action="store_true", dest="resume", help="continue an interrupted pretraining")
    add("--skip_broken", action="store_true", help="leave out cases that cannot be read, and name them")
    add_device(parser)
    add("-num_gpus", type=int, default=1, help="GPUs of this machine; 1 by default. torchrun and srun work as well")
    # fmt: on


def _epochs(text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be auto or a whole number; got {text[:50]!r}") from None


def add_plans(parser: Options) -> None:
    """Add ``-d``, ``-c`` and ``-p``: the network of a target's plans."""
    add = parser.add_argument
    # fmt: off
    add("-d", required=True, metavar="TARGET", help="nnU-Net dataset whose plans the network follows")
    add("-c", required=True, metavar="CONFIGURATION", help="configuration of the plans: 2d, 3d_fullres, ...")
    add("-p", default=DEFAULT_PLANS, metavar="PLANS", help=f"name of the plans; {DEFAULT_PLANS} by default")
    # fmt: on


def add_encoder(parser: Options, *, kinds: Sequence[str]) -> None:
    """Add ``--encoder``, ``--encoder_weights``, and ``--embedding`` with these kinds."""
    add_encoder_name(parser)
    gap = ", or gap: the last stage of the autoencoder, as in the paper" if "gap" in kinds else ""
    # fmt: off
    parser.add_argument("--embedding", default="auto", choices=kinds,
        help="compare cases by what lies where (grid), by this and by how bright it is (grid+intensity), or only by "
        f"what there is (average{gap}); auto (default): "
        "grid+intensity where the pool falls into kinds, else grid, as always among slices, or average where features "
        "have no places")
    # fmt: on


def add_encoder_name(parser: Options) -> None:
    """Add ``--encoder`` and ``--encoder_weights``."""
    add = parser.add_argument
    # fmt: off
    add("--encoder", default="mae", metavar="ENCODER",
        help="what turns images into features: mae (default, pretrained on the sources where it is missing) or a "
        "checkpoint_final.pth of nnUNetv2_xssr_pretrain; untrained; intensity; dictionary; nnunet:MODEL_FOLDER, a "
        "trained 2D nnU-Net of the source; timm:NAME, a foundation model")
    add("--encoder_weights", type=Path, metavar="FILE",
        help="with --encoder timm:NAME: its weights; nothing is downloaded")
    # fmt: on


def add_embeddings(parser: Options) -> None:
    """Add ``--embeddings`` and ``--source_embeddings``."""
    add = parser.add_argument
    # fmt: off
    add("--embeddings", type=Path, metavar="FILE",
        help="features made elsewhere in place of an encoder, one row per case: .npz, .npy, .csv or .parquet")
    add("--source_embeddings", type=Path, metavar="FILE", help="with --embeddings: those of the source")
    # fmt: on


def add_dim(parser: Options) -> None:
    """Add the option ``--dim``."""
    parser.add_argument(
        "--dim",
        type=int,
        choices=(2, 3),
        default=2,
        help="what the encoder sees of volumes: 2, slices (default), or 3, the whole volume",
    )


def add_look(parser: Options) -> None:
    """Add the options of what is seen of volumes: ``--axis`` and ``--window``."""
    add = parser.add_argument
    # fmt: off
    add("--axis", choices=("axial", "coronal", "sagittal", "file"),
        help="along which volumes are cut into slices; by default that of acquisition, with the largest spacing. "
        "file: the third axis of each file, as always with select --unit slice")
    add("--window", metavar="CENTRE/WIDTH",
        help="the only window in which CT is seen, such as 40/400; by default three: lung, soft tissue, bone")
    # fmt: on


def add_slices(parser: Options) -> None:
    """Add ``--unit`` and what it may choose: ``--max_per_volume``, ``--slice_range`` and ``--roi``."""
    add = parser.add_argument
    # fmt: off
    add("--unit", default="case",
        help="case (default), or slice: choose slices of volumes, of which only these are drawn; -b counts slices,"
        " or is a part of those that may be chosen")
    add("--max_per_volume", type=int, metavar="M", help="with --unit slice: at most M slices of a volume; 1 by default")
    add("--slice_range", metavar="RANGE",
        help="with --unit slice: where in every file slices may lie, such as 20%%-80%%, along its third axis, in its "
        "own order")
    add("--roi", type=Path, metavar="FOLDER",
        help="with --unit slice: a mask per case, named like it; slices in which it is zero everywhere are not chosen")
    # fmt: on


def add_folders(parser: Options) -> None:
    """Add the options of folders of images: ``--recursive`` and ``--no_patient_ids``."""
    parser.add_argument(
        "--recursive",
        action="store_true",
        help="take the images in folders of folders too: a case is named after its path, its first folder is its group",
    )
    parser.add_argument(
        "--no_patient_ids",
        action="store_true",
        help="of DICOM: do not group cases by patient, for which a hash of PatientID is kept",
    )


def training_options(args: argparse.Namespace) -> dict:
    """The keyword arguments of both pretrainings that the options of `add_sources` and `add_training` ask for."""
    of_settings = ("epochs", "batch_size", "seed", "accumulate")
    of_run = ("channel_names", "recursive", "show_batch", "resume", "skip_broken", "device", "num_gpus", "precision")
    asked = {name: getattr(args, name) for name in (*of_settings, *of_run) if getattr(args, name) is not None}
    return {"sources": args.s, "patient_ids": not args.no_patient_ids, **asked}
