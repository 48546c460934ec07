"""Training from pretrained weights: a learning rate that rises before it falls."""

from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import SGD, Optimizer

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.trainers.xssr_trainer import XSSRTrainer


class WarmUpPolyLRScheduler(PolyLRScheduler):
    """nnU-Net's decay after a linear rise, at any fraction of an epoch; of the decoder first, if asked for.

    The first group of the optimizer's parameters is the decoder, the second one the encoder.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        initial_lr: float,
        max_steps: int,
        *,
        warm_up: float,
        decoder_first: bool,
        freeze_encoder: bool,
    ):
        self.warm_up = warm_up * max_steps
        self.decoder_first = decoder_first
        self.freeze_encoder = freeze_encoder
        super().__init__(optimizer, initial_lr, max_steps)

    def step(self, current_step: float | None = None) -> None:
        """Set the rates of an epoch, or of a point within it."""
        epoch = current_step or 0
        decoder, encoder = self.optimizer.param_groups
        decoder["lr"] = encoder["lr"] = self.initial_lr * self._share(epoch)
        if self.freeze_encoder or (self.decoder_first and epoch < self.warm_up):
            encoder["lr"] = 0.0
        self._last_lr = [decoder["lr"], encoder["lr"]]

    def _share(self, epoch: float) -> float:
        begin = self.warm_up * (2 if self.decoder_first else 1)
        if epoch < begin:
            return epoch % self.warm_up / self.warm_up
        return (1 - (epoch - begin) / (self.max_steps - begin)) ** self.exponent


class XSSRTrainer_pretrained(XSSRTrainer):
    """`XSSRTrainer` from pretrained weights, which it refuses to go without.

    Attributes
    ----------
    peak_rate : float
        The highest learning rate.
    warm_up : float
        Share of the epochs in which the rate rises from 0 to its peak, in every iteration.
    decoder_first : bool
        Let the decoder rise alone at first, and then, for as long again, the whole network.
    freeze_encoder : bool
        Leave the encoder as it is.
    """

    peak_rate: float = 1e-3
    warm_up: float = 0.1
    decoder_first: bool = False
    freeze_encoder: bool = False

    def initialize(self) -> None:
        """Set the highest learning rate, then what the others set, and remember the weights to start with."""
        self.initial_lr = self.peak_rate
        super().initialize()
        self._iteration = 0  # of this epoch
        self._initial_stem = next(self.network.parameters()).detach().clone()

    def configure_optimizers(self) -> tuple[SGD, WarmUpPolyLRScheduler]:
        """nnU-Net's optimizer with the encoder apart; a learning rate of 0 freezes it, which DDP and --c can do."""
        encoder = list(self.network.encoder.parameters())
        of_encoder = {id(parameter) for parameter in encoder}
        others = [parameter for parameter in self.network.parameters() if id(parameter) not in of_encoder]
        optimizer = SGD(
            [{"params": others}, {"params": encoder}],
            self.initial_lr,
            weight_decay=self.weight_decay,
            momentum=0.99,
            nesterov=True,
        )
        scheduler = WarmUpPolyLRScheduler(
            optimizer,
            self.initial_lr,
            self.num_epochs,
            warm_up=self.warm_up,
            decoder_first=self.decoder_first,
            freeze_encoder=self.freeze_encoder,
        )
        return optimizer, scheduler

    def on_train_start(self) -> None:
        """Begin, if weights were loaded or a checkpoint was."""
        with self._refusing():
            if self._trained_fold is None and not self._has_loaded_weights():
                raise UserError(
                    "no pretrained weights were loaded; add -pretrained_weights FILE, or train with -tr XSSRTrainer"
                )
        super().on_train_start()

    def _has_loaded_weights(self) -> bool:
        # nnU-Net loads them into the network without a word to the trainer.
        return self.was_initialized and not self._initial_stem.equal(next(self.network.parameters()))

    def on_train_epoch_start(self) -> None:
        """Begin an epoch, also the one that a checkpoint is continued with."""
        self._iteration = 0
        super().on_train_epoch_start()
        if self.freeze_encoder:
            network = self.network.module if self.is_ddp else self.network
            for module in network.encoder.modules():
                if isinstance(module, _NormBase):
                    module.eval()  # or running statistics would move without any learning rate

    def train_step(self, batch: dict) -> dict:
        """One iteration at its own learning rate."""
        self.lr_scheduler.step(self.current_epoch + self._iteration / self.num_iterations_per_epoch)
        self._iteration += 1
        return super().train_step(batch)


class XSSRTrainer_pretrained_frozen(XSSRTrainer_pretrained):
    """`XSSRTrainer_pretrained` that leaves the encoder as it is."""

    freeze_encoder = True
