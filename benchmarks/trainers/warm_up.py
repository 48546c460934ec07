"""A trainer for hssl.py, which nnU-Net finds by ``nnUNet_extTrainer``: the learning rate rises before it falls."""

from nnunetv2_xssr.trainers import XSSRTrainer_demo

STEPS = 60  # a fifth of the demo's training


class XSSRTrainer_demo_warm_up(XSSRTrainer_demo):
    """Spares pretrained weights the first steps at full length, whose direction the new segmentation layers give."""

    steps = 0

    def train_step(self, batch: dict) -> dict:
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr_scheduler.get_last_lr()[0] * min(1.0, self.steps / STEPS)
        return super().train_step(batch)
