"""The folder that ``nnUNet_extTrainer`` may name where nnU-Net's own folder cannot be written."""
