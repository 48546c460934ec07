"""Pretraining on a device without float64, as Apple's GPUs (mps) are."""

import pytest
import torch
from making import TARGET
from plans import drawn_pools, write_plans
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from nnunetv2_xssr.encoders.mae import embed_views, load_encoder
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.views import prepare_views
from nnunetv2_xssr.pretrain.health import embedding_health
from nnunetv2_xssr.pretrain.hssl.objective import HSSLObjective
from nnunetv2_xssr.pretrain.hssl.patches import PatchPairs
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
from nnunetv2_xssr.pretrain.processes import Whole, start
from nnunetv2_xssr.pretrain.training import MaskedAutoencoding

DEVICE = "meta"  # without hardware torch lets no other name be given to the device below


class OnDevice(torch.Tensor):
    """A tensor on a device that computes as the CPU does and refuses float64."""

    @staticmethod
    def __new__(cls, values):
        if values.dtype == torch.float64:
            raise TypeError("the device has no float64")
        return torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=DEVICE
        )

    def __init__(self, values):
        self.values = values

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        raise NotImplementedError(f"{operation} is not called within Device()")


class Device(TorchDispatchMode):
    """While the block runs, the device is there."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        on_device = any(isinstance(leaf, OnDevice) for leaf in tree_leaves((args, kwargs)))
        if kwargs.get("device") is not None:
            on_device = torch.device(kwargs["device"]).type == DEVICE
            kwargs["device"] = "cpu"
        args_here, kwargs_here = tree_map_only(OnDevice, lambda tensor: tensor.values, (args, kwargs))
        found = operation(*args_here, **kwargs_here)
        if not on_device:
            return found
        return args[0] if operation._schema.is_mutable else tree_map_only(torch.Tensor, OnDevice, found)


@pytest.fixture
def device():
    with Device():
        yield DEVICE


@pytest.mark.parametrize(
    "reaches",
    [
        lambda x: x.double(),
        lambda x: x.to(torch.float64),
        lambda x: x.sum(dtype=torch.float64),
        lambda x: torch.zeros(2, dtype=torch.float64).to(x.device),
        lambda x: torch.zeros(2, dtype=torch.float64, device=x.device),
        lambda x: x.new_zeros(2, dtype=torch.float64),
    ],
)
def test_the_device_refuses_float64(device, reaches):
    on_device = torch.ones(3, device=device)
    assert on_device.sum().item() == 3 and on_device.cpu().double().dtype == torch.float64
    with pytest.raises(TypeError, match="no float64"):
        reaches(on_device)


def test_health_is_that_of_a_cpu(device):
    first, second = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0))
    second, cases = first + 0.5 * second, torch.arange(40)
    found = embedding_health(first.to(device), second.to(device), cases.to(device))
    assert found == embedding_health(first, second, cases)


def learn_and_measure(objective, device):
    """A step of a training and the health after it."""
    torch.manual_seed(0)
    model = objective.build_model().to(device)
    optimizer = objective.build_optimizer(model)
    batch = tuple(part.to(device) for part in objective.batch(range(4)))
    losses = objective.loss(model, batch, Whole(start("cpu")))
    losses["loss"].backward()
    optimizer.step()
    with torch.no_grad():
        health = objective.health(model.eval())
    return [loss.item() for loss in losses.values()], list(health.values())


def assert_learns_as_on_a_cpu(objective, device):
    for found, expected in zip(learn_and_measure(objective, device), learn_and_measure(objective, "cpu"), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


def test_masked_autoencoding(workspace, device):
    assert_learns_as_on_a_cpu(MaskedAutoencoding([prepare_views(open_pool(TARGET))], seed=0), device)


def test_embedding(workspace, device):
    views = prepare_views(open_pool(TARGET)).rows[0]
    found, expected = (embed_views(load_encoder(workspace.encoder(), device=d), views) for d in (device, "cpu"))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_hssl(workspace, device, configuration, tmp_path):
    write_plans(workspace.preprocessed / TARGET, configuration)
    plans = TargetPlans.load(TARGET, configuration_name=configuration)
    pools = drawn_pools(tmp_path, 3, (4, 4))
    pairs = PatchPairs(pools, patch_size=plans.patch_size, seed=0)
    objective = HSSLObjective(plans, channels=1, pairs=pairs, held_out=pairs, groups=[0, 0], health_note="")
    assert_learns_as_on_a_cpu(objective, device)
