"""Weights of others become a file that nnU-Net trains from, or one sentence says why not."""

import json
import shlex
import zipfile

import numpy as np
import pytest
import torch
from making import SOURCE, TARGET, fails, succeeds, write_dataset_json
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from plans import KINDS, write_plans

from nnunetv2_xssr.commands import weights as command
from nnunetv2_xssr.device import device_words, resolve_device
from nnunetv2_xssr.pipeline.foreign_weights import convert_weights
from nnunetv2_xssr.pretrain.hssl.foreign import transfer
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
from nnunetv2_xssr.records.split import write_split
from nnunetv2_xssr.records.workspace import Workspace
from nnunetv2_xssr.trainer_link import linking


class Case:
    """A planned target, a network of its plans with weights of somebody, and a file of them."""

    def __init__(self, workspace, folder, configuration, network, channels=1):
        write_plans(workspace.preprocessed / TARGET, configuration, network, channels)
        names = {str(i): f"c{i}" for i in range(channels)}
        write_dataset_json(workspace.raw / TARGET, channel_names=names)
        self.plans = TargetPlans.load(TARGET, configuration_name=configuration)
        self.file, self.out = folder / "theirs.pth", folder / "ours.pth"
        self.theirs = self.network()

    def network(self, channels=None, seed=7):
        torch.manual_seed(seed)
        made = self.plans.build_network(channels or len(self.plans.channel_names))
        for parameter in made.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape)
        return made

    def save(self, content):
        torch.save(content, self.file)
        return self.file

    def convert(self, **options):
        return convert_weights(
            self.file, target=TARGET, configuration=self.plans.configuration_name, output=self.out, **options
        )

    def argv(self, *more):
        return ["-i", self.file, "-d", TARGET, "-c", self.plans.configuration_name, "-o", self.out, *more]

    def loaded(self):
        """The network that nnU-Net begins with."""
        fresh = self.network(seed=8)
        load_pretrained_weights(fresh, str(self.out))
        return fresh.eval()


@pytest.fixture
def case(workspace, tmp_path):
    return Case(workspace, tmp_path, "2d", "PlainConvUNet")


def of_nnunet(state):
    return {"network_weights": state, "logging": {"losses": [np.float64(0.5)]}, "init_args": {"fold": 0}}


CONTAINERS = {
    "nnU-Net": of_nnunet,
    "nnssl": lambda state: {"network_weights": state, "nnssl_adaptation_plan": {"key_to_encoder": "encoder"}},
    "Lightning": lambda state: {"state_dict": {f"model.net.{key}": value for key, value in state.items()}, "epoch": 3},
    "beside a loss": lambda state: {"loss": torch.tensor(0.5), "model": state},
    "plain": lambda state: state,
    "several GPUs": lambda state: {f"module.{key}": value for key, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "compiled on several GPUs": lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
    "of double precision": lambda state: {key: value.double() for key, value in state.items()},
    "of our pretraining": lambda state: {"kind": "x", "weights": {f"unet.{key}": v for key, v in state.items()}},
    "without aliases": lambda state: {
        k: v for k, v in state.items() if "all_modules" not in k and "decoder.enc" not in k
    },
    "of aliases only": lambda state: {k: v for k, v in state.items() if not k.startswith("encoder.")},
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(("configuration", "network"), [KINDS[0], KINDS[3]])
def test_every_tensor_arrives_in_nnunet(workspace, tmp_path, container, configuration, network):
    case = Case(workspace, tmp_path, configuration, network)
    case.save(CONTAINERS[container](case.theirs.state_dict()))
    done = case.convert()
    assert done.share == 1 and not done.match.missing and not done.match.adapted
    assert all("seg_layers" in name for name in done.match.dropped)
    for key, value in case.loaded().state_dict().items():
        assert ".seg_layers." in key or torch.equal(value, case.theirs.state_dict()[key]), key


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stem", [None, "mean"])
def test_half_precision_arrives_in_full(workspace, tmp_path, precision, stem):
    case = Case(workspace, tmp_path, "2d", "PlainConvUNet", channels=2 if stem else 1)
    theirs = {key: value.to(precision) for key, value in case.network(1).state_dict().items()}
    case.save(theirs)
    case.convert(stem=stem)
    for key, value in case.loaded().state_dict().items():
        assert value.dtype == torch.float32
        if ".seg_layers." not in key:
            expected = theirs[key].float() / (2 if value.shape != theirs[key].shape else 1)
            torch.testing.assert_close(value, expected.expand(value.shape), rtol=1e-2, atol=1e-6)


def test_the_encoder_of_a_file_of_its_own(case):
    """As ``network.encoder.state_dict()`` has it, or below another name."""
    for prefix in ("", "backbone."):
        case.save({f"{prefix}{key}": value for key, value in case.theirs.encoder.state_dict().items()})
        case.out.unlink(missing_ok=True)
        assert case.convert(encoder_only=True).share == 1
        state, theirs = case.loaded().state_dict(), case.theirs.state_dict()
        assert all(torch.equal(state[key], theirs[key]) for key in state if key.startswith("encoder."))


def test_of_two_networks_in_one_file_always_the_same_is_taken(case):
    """The shorter prefix, then the first by the alphabet, whatever the order of the file."""
    for number, prefixes in enumerate(["ab", "ba", "cd", "dc", "ef", "fe", "gh", "hg", "ij", "ji"]):
        weights = {
            f"{prefix}.{key}": torch.full_like(value, ord(prefix[0]))
            for prefix in [*prefixes, "zz"]
            for key, value in case.theirs.state_dict().items()
        }
        network = case.network(seed=number)
        match = transfer(weights, network)
        assert (network.encoder.stages[0][0].convs[0].conv.weight == ord(min(prefixes))).all()
        assert f"{max(prefixes)}.encoder.stages.0.0.convs.0.conv.weight" in match.dropped


def test_a_deeper_or_shallower_checkpoint_gives_the_stages_of_the_same_resolutions(case):
    """A decoder counts its stages from the bottleneck on: the same number is another resolution."""

    def of_stages(n):
        arguments = case.plans.manager.plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
        kept = dict(arguments)
        arguments.update(n_stages=n, features_per_stage=[4, *[8] * (n - 1)], kernel_sizes=[[3, 3]] * n)
        arguments.update(strides=[[1, 1], *[[2, 2]] * (n - 1)], n_conv_per_stage=[1] * n)
        arguments.update(n_conv_per_stage_decoder=[1] * (n - 1))
        case.plans.manager.get_configuration.cache_clear()
        plans = TargetPlans.load(TARGET, configuration_name="2d")
        plans.configuration.configuration["architecture"]["arch_kwargs"] = dict(arguments)
        arguments.update(kept)
        torch.manual_seed(n)
        return plans.build_network(1)

    four, three = of_stages(4), of_stages(3)
    theirs, state = four.state_dict(), three.state_dict()
    match = transfer(theirs, three)
    state = three.state_dict()
    for i in (0, 1):
        for part in ("decoder.stages.{}.convs.0.conv.weight", "decoder.transpconvs.{}.weight"):
            assert torch.equal(state[part.format(i)], theirs[part.format(i + 1)]), part
    assert not match.missing and any(name.startswith("encoder.stages.3") for name in match.dropped)
    four = of_stages(4)
    match = transfer(theirs := of_stages(3).state_dict(), four)
    state = four.state_dict()
    assert torch.equal(state["decoder.transpconvs.2.weight"], theirs["decoder.transpconvs.1.weight"])
    assert any(name.startswith("decoder.stages.0") for name in match.missing)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_monais_dynunet_computes_the_same_in_nnunet(workspace, tmp_path, configuration):
    nets = pytest.importorskip("monai.networks.nets")
    case = Case(workspace, tmp_path, configuration, "PlainConvUNet")
    plans = case.plans.configuration.configuration["architecture"]["arch_kwargs"]
    plans.update(n_conv_per_stage=[2, 2, 2], n_conv_per_stage_decoder=[2, 2])
    file = workspace.preprocessed / TARGET / "nnUNetPlans.json"
    content = json.loads(file.read_text())
    content["configurations"][configuration]["architecture"]["arch_kwargs"].update(plans)
    file.write_text(json.dumps(content))
    torch.manual_seed(0)
    theirs = nets.DynUNet(int(configuration[0]), 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 8, 8]).eval()
    case.save({"model": theirs.state_dict()})
    done = case.convert()
    assert done.share == 1 and all("output_block" in k or "skip_layers" in k for k in done.match.dropped)
    case.plans = TargetPlans.load(TARGET, configuration_name=configuration)
    ours = case.loaded()
    head = theirs.output_block.conv.conv
    ours.decoder.seg_layers[-1].load_state_dict(head.state_dict())
    image = torch.randn(2, 1, *case.plans.patch_size)
    with torch.no_grad():
        torch.testing.assert_close(ours(image)[0], theirs(image), rtol=1e-4, atol=1e-4)


def test_a_deeper_dynunet_gives_the_stages_of_the_same_resolutions(case):
    nets = pytest.importorskip("monai.networks.nets")
    file = case.plans.manager.plans  # two convolutions per stage, as DynUNet has
    file["configurations"]["2d"]["architecture"]["arch_kwargs"].update(
        n_conv_per_stage=[2, 2, 2], n_conv_per_stage_decoder=[2, 2]
    )
    network = case.plans.build_network(1)
    theirs = nets.DynUNet(2, 1, 2, [3] * 4, [1, 2, 2, 2], [2, 2, 2], filters=[4, 8, 8, 8]).state_dict()
    match = transfer(theirs, network)
    state = network.state_dict()
    for ours, one in (("encoder.stages.2.0", "downsamples.1"), ("decoder.stages.1", "upsamples.2.conv_block")):
        assert torch.equal(state[f"{ours}.convs.0.conv.weight"], theirs[f"{one}.conv1.conv.weight"]), ours
    assert not match.missing and any(name.startswith("bottleneck") for name in match.dropped)


def test_of_two_dynunets_in_one_file_one_is_taken(case):
    """Also where one of them is the encoder alone: no weights of both."""
    nets = pytest.importorskip("monai.networks.nets")
    case.plans.manager.plans["configurations"]["2d"]["architecture"]["arch_kwargs"].update(
        n_conv_per_stage=[2, 2, 2], n_conv_per_stage_decoder=[2, 2]
    )
    theirs = nets.DynUNet(2, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 8, 8]).state_dict()
    average = {f"ema.{key}": torch.full_like(value, 9) for key, value in theirs.items() if "upsamples" not in key}
    for both in ({**theirs, **average}, {**average, **theirs}):
        network = case.plans.build_network(1)
        match = transfer(both, network)
        weight = network.encoder.stages[0][0].convs[0].conv.weight
        assert torch.equal(weight, theirs["input_block.conv1.conv.weight"])
        assert not match.missing and set(average) <= set(match.dropped)


def with_batch_norm(case):
    """The case with batch norm, and weights of somebody who trained such a network."""
    file = Workspace(TARGET).plans("nnUNetPlans")
    content = json.loads(file.read_text())
    arguments = content["configurations"]["2d"]["architecture"]["arch_kwargs"]
    arguments["norm_op"] = "torch.nn.modules.batchnorm.BatchNorm2d"
    file.write_text(json.dumps(content))
    case.plans = TargetPlans.load(TARGET, configuration_name="2d")
    case.theirs = case.network()
    case.theirs(torch.randn(2, 1, 16, 16))
    return case.theirs.state_dict()


def test_batch_norm_comes_with_its_statistics(case):
    """Its counters are whole numbers, and are no weights."""
    theirs = with_batch_norm(case)
    case.save(theirs)
    done = case.convert()
    assert done.share == 1 and not done.match.missing
    image, ours = torch.randn(1, 1, 16, 16), case.loaded()
    with torch.no_grad():
        assert torch.equal(ours.encoder(image)[-1], case.theirs.eval().encoder(image)[-1])


def test_statistics_that_are_no_numbers_are_named(case, capsys):
    theirs = with_batch_norm(case)
    case.save({key: value * (float("nan") if "running_var" in key else 1) for key, value in theirs.items()})
    fails(capsys, command.main, case.argv(), "holds NaN or infinity in", "running_var")


def test_tensors_of_another_shape_count_as_dropped(case):
    wide = "encoder.stages.1.0.convs.0.conv.weight"
    theirs = dict(case.theirs.state_dict())
    match = transfer({**theirs, wide: torch.ones(8, 4, 5, 5)}, case.network(seed=8))
    assert wide in match.dropped and any(name.startswith(wide) for name in match.missing)


def test_a_frozen_encoder_with_initial_values_is_told(case, capsys):
    state = case.theirs.state_dict()
    case.save({key: value for key, value in state.items() if "stages.2" not in key})
    argv = case.argv("--least", "0.5", "--freeze", "encoder")
    assert "of the encoder (encoder.stages.2" in (out := succeeds(capsys, command.main, argv))
    assert "leave --freeze out" in out
    case.save(state)
    case.out.unlink()
    assert "initial values for good" not in succeeds(capsys, command.main, case.argv("--freeze", "encoder"))


def test_stages_with_more_in_them_are_of_another_architecture(case, capsys):
    """MONAI's residual blocks have the same convolutions, and a shortcut, without which they compute something else."""
    nets = pytest.importorskip("monai.networks.nets")
    arguments = {"n_conv_per_stage": [2, 2, 2], "n_conv_per_stage_decoder": [2, 2]}
    file = case.plans.manager.plans
    file["configurations"]["2d"]["architecture"]["arch_kwargs"].update(arguments)
    path = Workspace(TARGET).plans("nnUNetPlans")
    path.write_text(json.dumps(file))
    residual = nets.DynUNet(2, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 8, 8], res_block=True)
    case.save(residual.state_dict())
    words = ["has 44 of 44 tensors of nnUNetPlans 2d, less than the share 1", "beyond them in the same stages"]
    fails(capsys, command.main, case.argv(), *words, "conv3.conv.weight")
    out = succeeds(capsys, command.main, case.argv("--least", "0.7"))
    assert "of the dropped are of stages that are taken" in out
    deeper = {f"encoder.stages.1.0.convs.2.{part}": torch.ones(8) for part in ("norm.weight", "norm.bias")}
    case.save({**case.theirs.state_dict(), **deeper})
    case.out.unlink()
    argv = case.argv("--encoder_only", "--least", "0.4")
    assert "2 tensors of the dropped are of stages" in succeeds(capsys, command.main, argv)


def test_the_encoder_alone(case):
    case.save(of_nnunet(case.theirs.state_dict()))
    done = case.convert(encoder_only=True)
    assert done.share == 1 and any(name.startswith("decoder.stages") for name in done.match.dropped)
    state, theirs = case.loaded().state_dict(), case.theirs.state_dict()
    for key in state:
        of_encoder = key.startswith(("encoder.", "decoder.encoder."))
        assert torch.equal(state[key], theirs[key]) == of_encoder or ".seg_layers." in key or not theirs[key].any(), key


@pytest.mark.parametrize(
    ("stem", "theirs", "ours"), [("mean", 1, 3), ("repeat", 2, 4), ("mean", 3, 1), ("repeat", 3, 2)]
)
def test_a_stem_for_other_channels(workspace, tmp_path, capsys, stem, theirs, ours):
    case = Case(workspace, tmp_path, "2d", "PlainConvUNet", channels=ours)
    network = case.network(theirs)
    case.save(network.state_dict())
    sentence = fails(
        capsys, command.main, case.argv(), f"takes {theirs} channels but {TARGET} has {ours}", "--stem mean"
    )
    assert "c0" in sentence and not case.out.exists()
    assert case.convert(stem=stem).match.adapted == [
        f"encoder.stages.0.0.convs.0.conv.weight from {theirs} channels to {ours}"
    ]
    old, state = network.encoder.stages[0][0].convs[0].conv.weight, case.loaded().state_dict()
    block = "encoder.stages.0.0.convs.0"
    new = [state[f"{start}{block}.{end}.weight"] for start in ("", "decoder.") for end in ("conv", "all_modules.0")]
    for i in range(ours):
        expected = old.mean(dim=1) if stem == "mean" else old[:, i % theirs]
        for alias in new:
            torch.testing.assert_close(alias[:, i], expected * theirs / ours)


def test_command_tells_what_becomes_of_the_checkpoint(case, capsys):
    state = case.theirs.state_dict()
    lacking = {key: value for key, value in state.items() if "encoder.stages.2" not in key}
    case.save({**lacking, "rotation_head.weight": torch.ones(4, 8)})
    fails(
        capsys, command.main, case.argv(), "less than the share 1 of --least", "encoder.stages.2.0.convs.0.conv.weight"
    )
    assert not case.out.exists()
    out = succeeds(capsys, command.main, case.argv("--least", "0.7", "--freeze", "encoder"))
    before, _ = out.split(f"wrote {case.out}")
    assert "4 tensors are missing and keep their initial values: encoder.stages.2" in before
    assert "0 tensors are adapted" in before and "rotation_head.weight" in before
    (line,) = [line for line in out.splitlines() if line.startswith("next: ")]
    trainer = ["-tr", "XSSRTrainer_pretrained_frozen"]
    assert shlex.split(line)[1:] == [
        "nnUNetv2_train",
        TARGET,
        "2d",
        "0",
        *trainer,
        "-pretrained_weights",
        str(case.out),
        *device_words(resolve_device(None)),
    ]
    fails(capsys, command.main, case.argv("--least", "0.7"), case.out, "exists already")


def test_numbers_of_numpy_1_are_read(case):
    """As nnU-Net kept its losses before numpy 2."""
    case.save(of_nnunet(case.theirs.state_dict()))
    with zipfile.ZipFile(case.file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(case.file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core.multiarray" in case.file.read_bytes()
    assert case.convert().share == 1


def test_the_trainer_that_is_named_is_linked(case, capsys, monkeypatch):
    monkeypatch.setattr(linking, "ensure_linked", lambda: "linked XSSRTrainer")
    case.save(case.theirs.state_dict())
    assert "linked" not in succeeds(capsys, command.main, case.argv())
    case.out.unlink()
    assert "linked XSSRTrainer" in (out := succeeds(capsys, command.main, case.argv("--freeze", "encoder")))
    assert "trains on a selection, and there is none yet" in out


def test_the_next_training_is_of_the_selected_cases(case, capsys):
    case.save(case.theirs.state_dict())
    write_split(Workspace(TARGET).split, [{"train": ["t_00"], "val": ["t_01"]}])
    assert f"next: nnUNetv2_train {TARGET} 2d 0 -tr XSSRTrainer -pretrained" in succeeds(
        capsys, command.main, case.argv()
    )
    case.out.unlink()
    out = succeeds(capsys, command.main, case.argv("--freeze", "encoder"))
    assert "-tr XSSRTrainer_pretrained_frozen" in out and "there is none yet" not in out


def diverged(state):
    return {key: value * (float("nan") if "stages.1" in key else 1) for key, value in state.items()}


def halved(state):
    return dict(list(state.items())[: len(state) // 2])


class Runs:
    def __reduce__(self):
        return print, ("foreign code has run",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda case: halved(case.theirs.state_dict()), "less than the share 1 of --least"),
        (lambda case: {f"layer{i}.conv.weight": torch.ones(4, 4, 3, 3) for i in range(9)}, "has 0 of "),
        (lambda case: {k: v.repeat(2, *[1] * (v.ndim - 1)) for k, v in case.theirs.state_dict().items()}, "has 0 of "),
        (lambda case: {"network_weights": case.theirs.state_dict(), "hook": Runs()}, "more than tensors"),
        (lambda case: {"epoch": 3, "loss": 0.5}, "holds no weights"),
        (lambda case: diverged(case.theirs.state_dict()), "holds NaN or infinity in"),
        (
            lambda case: {k: v.flatten() for k, v in case.theirs.state_dict().items()},
            "less than the share 1 of --least",
        ),
        (lambda case: [1, 2], "must be an object; got [1, 2]"),
        (lambda case: {1: torch.ones(2)}, "save the state_dict()"),
        (lambda case: {k: v.int() for k, v in case.theirs.state_dict().items()}, "holds no weights"),
        (lambda case: {k: v.to_sparse() for k, v in case.theirs.state_dict().items()}, "holds no weights"),
        (lambda case: list(case.theirs.state_dict().values()), "must be an object"),
        (lambda case: case.theirs, "more than tensors and plain values"),
        (lambda case: {"model": {1: torch.ones(2)}}, "holds no weights"),
        (lambda case: case.theirs.encoder.state_dict(prefix="encoder."), "or --encoder_only"),
    ],
)
def test_checkpoints_that_do_not_fit(case, capsys, content, words):
    case.save(content(case))
    fails(capsys, command.main, case.argv(), case.file, words)
    assert not case.out.exists() and "foreign code" not in capsys.readouterr().out


def test_a_checkpoint_of_another_architecture(workspace, tmp_path, capsys):
    case = Case(workspace, tmp_path, "2d", "ResidualEncoderUNet")
    case.save(case.theirs.state_dict())
    case = Case(workspace, tmp_path, "2d", "PlainConvUNet")
    fails(
        capsys,
        command.main,
        case.argv(),
        " tensors of nnUNetPlans 2d, less than the share 1",
        "give weights of the same plans",
        not_parts=["--encoder_only"],  # its encoder lacks tensors as well
    )


def test_files_and_plans_that_are_not_there(case, capsys):
    fails(capsys, command.main, case.argv(), f"there is no checkpoint {case.file}")
    case.save(case.theirs.state_dict())
    case.file.write_bytes(case.file.read_bytes()[:500])
    fails(capsys, command.main, case.argv(), case.file, "cut off")
    case.save(case.theirs.state_dict())
    fails(capsys, command.main, [*case.argv(), "-p", "Other"], "has no plans")
    fails(capsys, command.main, [*case.argv(), "-d", SOURCE], f"{SOURCE} has no plans")
    fails(capsys, command.main, [*case.argv(), "-c", "3d"], "the configurations of")
    case.save({"layer.weight": torch.ones(4, 4)})
    words = "tensors of nnUNetPlans 2d, nothing to begin with; the first: encoder.stages"
    fails(capsys, command.main, case.argv("--least", "0"), "has 0 of ", words)
    fails(capsys, command.main, case.argv("--least", "2"), "--least must be a share from 0 to 1; got 2")
