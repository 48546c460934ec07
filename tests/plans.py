"""Small nnU-Net plans, PlainConv and ResEnc, 2D and 3D, and preprocessed pools."""

import json

import numpy as np

from nnunetv2_xssr.pretrain.hssl.patches import PreprocessedPool, compressed
from nnunetv2_xssr.records.files import write_bytes

KINDS = [("2d", "PlainConvUNet"), ("2d", "ResidualEncoderUNet"), ("3d_fullres", "PlainConvUNet"),
         ("3d_fullres", "ResidualEncoderUNet")]  # fmt: skip


def architecture(configuration, network):
    dim = int(configuration[0])
    blocks = "n_blocks_per_stage" if network == "ResidualEncoderUNet" else "n_conv_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [4, 8, 8],
            "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
            "kernel_sizes": [[3] * dim] * 3,
            "strides": [[1] * dim, [2] * dim, [2] * dim],
            blocks: [1, 1, 1],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def write_plans(folder, configuration="2d", network="PlainConvUNet", channels=1, reader="NaturalImage2DIO"):
    """``nnUNetPlans.json`` as nnUNetv2_plan_experiment writes it, for images with a spacing of 1."""
    dim = int(configuration[0])
    intensities = {"mean": 100.0, "std": 20.0, "percentile_00_5": 50.0, "percentile_99_5": 150.0}
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    plans = {
        "dataset_name": folder.name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0] * 3,
        "original_median_shape_after_transp": [16] * 3,
        "image_reader_writer": reader,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            configuration: {
                "data_identifier": f"nnUNetPlans_{configuration}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [16] * dim,
                "median_image_size_in_voxels": [16] * dim,
                "spacing": [1.0] * dim,
                "normalization_schemes": ["ZScoreNormalization"] * channels,
                "use_mask_for_norm": [False] * channels,
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling,
                "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
                "architecture": architecture(configuration, network),
                "batch_dice": True,
            }
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): intensities for i in range(channels)},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))


def pool_of(folder, images, *, name="p", groups=None):
    """A preprocessed pool of these arrays of shape (channels, z, y, x)."""
    files = [folder / f"{name}_{i}.b2nd" for i in range(len(images))]
    for file, image in zip(files, images, strict=True):
        write_bytes(file, compressed(np.asarray(image, np.float16)))
    names = [file.stem for file in files]
    return PreprocessedPool(
        name=name,
        files=tuple(files),
        hashes=dict(zip(names, names, strict=True)),
        groups=tuple(groups or names),
        key="k",
    )


def drawn_pools(folder, dim, sizes):
    """Pools of so many random images each."""
    shape = (1, 16 if dim == 3 else 1, 16, 16)
    return [
        pool_of(folder, [np.random.default_rng([i, j]).normal(size=shape) for j in range(n)], name=f"pool_{i}")
        for i, n in enumerate(sizes)
    ]
