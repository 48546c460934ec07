"""One encoder of every kind: a tiny nnU-Net, a tiny model of timm, and how to open them."""

import importlib.machinery
import json
import sys
import types

import numpy as np
import torch

from nnunetv2_xssr.encoders.registry import open_encoder

KINDS = ("mae", "FILE", "untrained", "nnunet", "timm", "intensity", "dictionary")
TIMM = "test_vit"
RESAMPLING = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


class _Anything(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Module(types.ModuleType):
    __path__: list = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


def import_timm(monkeypatch):
    """The real timm, beside a stand-in for torchvision where there is none that fits this torch."""
    try:
        import timm
    except Exception:
        for name in [name for name in sys.modules if name.split(".")[0] in ("timm", "torchvision")]:
            monkeypatch.delitem(sys.modules, name)
        for name in ("", ".transforms", ".transforms.functional", ".datasets", ".ops", ".ops.misc", ".models"):
            module = _Module(f"torchvision{name}")
            module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
            monkeypatch.setitem(sys.modules, module.__name__, module)
            if name:
                parent, _, child = module.__name__.rpartition(".")
                setattr(sys.modules[parent], child, module)
        import timm
    return timm


def timm_weights(path, monkeypatch, name=TIMM, **changes):
    """Weights of a model of timm, with its head, as they are downloaded."""
    torch.manual_seed(0)
    state = import_timm(monkeypatch).create_model(name, pretrained=False).state_dict()
    torch.save({key: value for key, value in {**state, **changes}.items() if value is not None}, path)
    return path


def model_folder(folder, *, channels=("xray",), schemes=None, folds=(0, 1), dim=2, labels=None, heads=3):
    """What nnUNetv2_train leaves of a tiny network."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    conv, norm = f"torch.nn.modules.conv.Conv{dim}d", f"torch.nn.modules.instancenorm.InstanceNorm{dim}d"
    network = {
        "n_stages": 3,
        "features_per_stage": [4, 8, 16],
        "conv_op": conv,
        "kernel_sizes": [[3] * dim] * 3,
        "strides": [[1] * dim, [2] * dim, [2] * dim],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": norm,
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    imported = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    configuration = {
        "data_identifier": "nnUNetPlans_2d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [32] * dim,
        "median_image_size_in_voxels": [40.0, 48.0, 48.0][:dim],
        "spacing": [1.0] * dim,
        **{f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg", "probabilities")},
        **{f"resampling_fn_{what}_kwargs": RESAMPLING for what in ("data", "seg", "probabilities")},
        "normalization_schemes": list(schemes or ["ZScoreNormalization"] * len(channels)),
        "use_mask_for_norm": [False] * len(channels),
        "architecture": {"network_class_name": UNET, "arch_kwargs": network, "_kw_requires_import": imported},
    }
    name = f"{dim}d_tiny"
    intensities = {"mean": 40.0, "std": 100.0, "percentile_00_5": -100.0, "percentile_99_5": 300.0}
    plans = {
        "dataset_name": "Dataset001_Source",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): intensities for i in range(len(channels))},
        "configurations": {name: configuration},
    }
    labels = labels or {"labels": {"background": 0, "a": 1, "b": 2}}
    dataset = {"channel_names": {str(i): one for i, one in enumerate(channels)}, "file_ending": ".png", **labels}
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps({**dataset, "numTraining": 4}))
    for fold in folds:
        torch.manual_seed(0 if fold == "all" else fold)
        made = get_network_from_plans(UNET, network, imported, len(channels), heads, deep_supervision=True)
        content = {
            "network_weights": made.state_dict(),
            "logging": {"train_losses": [np.float64(0.5), np.float32(0.25)]},
            "_best_ema": np.float64(0.5),
            "init_args": {"configuration": name, "fold": fold, "device": torch.device("cpu")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": tuple(range(dim)),
        }
        (folder / f"fold_{fold}").mkdir()
        torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def spell(kind, workspace, monkeypatch):
    """What to give to ``--encoder`` and ``--encoder_weights``."""
    if kind == "FILE":
        return str(workspace.encoder()), None
    if kind == "nnunet":
        folder = workspace.root / "nnUNetTrainer__nnUNetPlans__2d"
        return f"nnunet:{folder if folder.is_dir() else model_folder(folder)}", None
    if kind == "timm":
        return f"timm:{TIMM}", timm_weights(workspace.root / "timm.pth", monkeypatch)
    return kind, None


def ready(kind, workspace, monkeypatch, *, sources, seed=0):
    """The encoder, which has learned from the views of the sources."""
    spelling, weights = spell(kind, workspace, monkeypatch)
    names = [views.pool.name for views in sources]
    opened = open_encoder(spelling, weights=weights, learn_from=names, dim=2, device="cpu")
    return opened.ready(sources, seed=seed)
