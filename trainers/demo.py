"""The trainer of the built-in demo, which is none for users."""

from nnunetv2_xssr.trainers.xssr_trainer import XSSRTrainer


class XSSRTrainer_demo(XSSRTrainer):
    """Seconds instead of hours."""

    epochs = 3
    iterations_per_epoch = 100
