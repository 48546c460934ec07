"""Stage 1: a masked autoencoder learns from unlabelled images; its encoder embeds cases."""
