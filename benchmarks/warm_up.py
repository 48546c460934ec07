"""Training with a learning rate that rises before it falls, for hssl.py to compare.

    python benchmarks/warm_up.py TARGET 2d 0 -tr XSSRTrainer_demo ...      takes what nnUNetv2_train takes

The rise spares pretrained weights the first steps at full length, whose direction the new segmentation layers give.
"""

from nnunetv2.run.run_training import run_training_entry

from nnunetv2_xssr.trainers import XSSRTrainer
from nnunetv2_xssr.trainers.demo import XSSRTrainer_demo

STEPS = 60  # a fifth of the demo's training


def train_step(self, batch: dict) -> dict:
    self.steps = getattr(self, "steps", 0) + 1
    for group in self.optimizer.param_groups:
        group["lr"] = self.lr_scheduler.get_last_lr()[0] * min(1.0, self.steps / STEPS)
    return XSSRTrainer.train_step(self, batch)


if __name__ == "__main__":
    XSSRTrainer_demo.train_step = train_step
    run_training_entry()
