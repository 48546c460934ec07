"""The link through which nnU-Net finds the trainers."""
