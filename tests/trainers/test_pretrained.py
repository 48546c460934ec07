"""XSSRTrainer_pretrained: its learning rates, also of a training taken up again, and what it refuses."""

from pathlib import Path

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tiny_training import ends_in_a_sentence, make_trainer

from nnunetv2_xssr.trainers import XSSRTrainer_pretrained, XSSRTrainer_pretrained_frozen
from nnunetv2_xssr.trainers.pretrained import WarmUpPolyLRScheduler


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"warm_up": 0.0}, {0: (1, 1), 5: (0.5**0.9, 0.5**0.9), 10: (0, 0)}),
        ({"warm_up": 0.2}, {0: (0, 0), 0.5: (0.25, 0.25), 1.5: (0.75, 0.75), 2: (1, 1), 6: (0.5**0.9, 0.5**0.9)}),
        (
            {"warm_up": 0.2, "decoder_first": True},
            {0: (0, 0), 1: (0.5, 0), 1.9: (0.95, 0), 2: (0, 0), 3: (0.5, 0.5), 4: (1, 1), 7: (0.5**0.9, 0.5**0.9)},
        ),
        ({"warm_up": 0.2, "freeze_encoder": True}, {1: (0.5, 0), 2: (1, 0), 6: (0.5**0.9, 0)}),
    ],
)
def test_rates_of_decoder_and_encoder_by_epoch(settings, expected):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)]
    optimizer = torch.optim.SGD(groups, 0.1)
    options = {"decoder_first": False, "freeze_encoder": False, **settings}
    scheduler = WarmUpPolyLRScheduler(optimizer, 0.1, 10, **options)
    for epoch, shares in expected.items():
        scheduler.step(epoch)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.1 * share for share in shares]) and scheduler.get_last_lr() == rates


class Tiny(XSSRTrainer_pretrained):
    """Its rates rise for three epochs and fall in the fourth, of two iterations each."""

    epochs, iterations_per_epoch, warm_up = 4, 2, 0.75

    def train_step(self, batch):
        done = super().train_step(batch)
        self.rates = [*getattr(self, "rates", []), [group["lr"] for group in self.optimizer.param_groups]]
        return done


class Frozen(XSSRTrainer_pretrained_frozen):
    epochs, iterations_per_epoch = 1, 2


def begun(study, cls, **architecture):
    """A trainer that nnU-Net has loaded weights into."""
    trainer = make_trainer(study, 0, cls=cls)
    trainer.configuration_manager.configuration["architecture"]["arch_kwargs"].update(architecture)
    trainer.initialize()
    with torch.no_grad():
        for parameter in trainer.network.parameters():
            parameter.mul_(0.9)
    return trainer


def test_interrupted_in_the_warm_up(study):
    trainer = begun(study, Tiny)
    ended = trainer.on_epoch_end

    def end_and_stop():
        ended()
        raise KeyboardInterrupt

    trainer.on_epoch_end = end_and_stop
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    again = make_trainer(study, 0, cls=Tiny)
    again.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_best.pth"))
    again.run_training()
    rise = [1e-3 * i / 6 for i in range(6)]
    expected = [*rise, 1e-3, 1e-3 * 0.5**0.9]
    for group in range(2):
        assert [rates[group] for rates in trainer.rates + again.rates] == pytest.approx(expected)


def test_frozen_encoder_stays_and_the_decoder_learns(study):
    trainer = begun(study, Frozen)
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    trainer.run_training()
    after = torch.load(Path(trainer.output_folder) / "checkpoint_final.pth", weights_only=False)["network_weights"]
    stayed = {key for key in before if torch.equal(before[key], after[key].cpu())}
    assert {key for key in before if key.startswith(("encoder.", "decoder.encoder."))} <= stayed
    assert not [key for key in stayed if key.startswith(("decoder.stages.", "decoder.transpconvs."))]


def test_running_statistics_of_a_frozen_encoder_stay(study):
    """Batch norm has them, and moves them without any learning rate; those of the decoder move."""
    trainer = begun(study, Frozen, norm_op="torch.nn.modules.batchnorm.BatchNorm2d")
    before = {name: value.clone() for name, value in trainer.network.named_buffers()}
    trainer.run_training()
    stayed = {name for name, value in trainer.network.named_buffers() if torch.equal(before[name], value)}
    of_encoder = {name for name in before if name.startswith(("encoder.", "decoder.encoder."))}
    assert of_encoder and stayed == of_encoder


def test_the_optimizer_is_nnunets_with_the_encoder_apart(study):
    """Every weight is in it once; segmentation layers, which come without pretraining, are among the others."""
    trainer = make_trainer(study, 0, cls=Frozen)
    trainer.initialize()
    others, encoder = (group["params"] for group in trainer.optimizer.param_groups)
    assert {*map(id, encoder)} == {*map(id, trainer.network.encoder.parameters())}
    both = sorted(map(id, [*others, *encoder]))
    assert both == sorted(map(id, trainer.network.parameters()))
    (stock,) = nnUNetTrainer.configure_optimizers(trainer)[0].param_groups
    for group in trainer.optimizer.param_groups:
        assert {key: group[key] for key in stock if key not in ("params", "lr", "initial_lr")} == {
            key: stock[key] for key in stock if key not in ("params", "lr", "initial_lr")
        }
    assert trainer.initial_lr == 1e-3


@pytest.mark.parametrize("initialized", [False, True])
def test_no_weights(study, capsys, initialized):
    trainer = make_trainer(study, 1, cls=Tiny)
    if initialized:
        trainer.initialize()
    ends_in_a_sentence(capsys, trainer.run_training, "Tiny: error: no pretrained weights", "-pretrained_weights FILE")
