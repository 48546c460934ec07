"""Stage 3: nnU-Net trainers that train on exactly the selected cases."""

from nnunetv2_xssr.trainers.xssr_trainer import (
    XSSRTrainer,
    XSSRTrainer_5epochs,
    XSSRTrainer_10epochs,
    XSSRTrainer_20epochs,
    XSSRTrainer_50epochs,
    XSSRTrainer_100epochs,
    XSSRTrainer_250epochs,
    XSSRTrainer_demo,
)

__all__ = [
    "XSSRTrainer",
    "XSSRTrainer_5epochs",
    "XSSRTrainer_10epochs",
    "XSSRTrainer_20epochs",
    "XSSRTrainer_50epochs",
    "XSSRTrainer_100epochs",
    "XSSRTrainer_250epochs",
    "XSSRTrainer_demo",
]
