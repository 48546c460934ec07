"""A masked autoencoder with a plain vision transformer (He et al. 2022) on torch's own attention, to compare with."""

import torch
from torch import nn

from nnunetv2_xssr.pretrain.mae import CELL, cell_targets

WIDTH, DEPTH, HEADS, DECODER_WIDTH = 192, 8, 4, 96


def blocks(width, depth):
    return nn.ModuleList(
        nn.TransformerEncoderLayer(width, HEADS, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        for _ in range(depth)
    )


class ViTMaskedAutoencoder(nn.Module):
    """The interface of `MaskedAutoencoder`; only visible cells go through the encoder."""

    def __init__(self, input_channels: int, cells: int):
        super().__init__()
        self.to_tokens = nn.Conv2d(input_channels, WIDTH, CELL, CELL)
        self.place = nn.Parameter(torch.randn(1, cells**2, WIDTH) * 0.02)
        self.stages = blocks(WIDTH, DEPTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.to_decoder = nn.Linear(WIDTH, DECODER_WIDTH)
        self.mask_token = nn.Parameter(torch.randn(1, 1, DECODER_WIDTH) * 0.02)
        self.decoder_place = nn.Parameter(torch.randn(1, cells**2, DECODER_WIDTH) * 0.02)
        self.decoder = blocks(DECODER_WIDTH, 2)
        self.to_pixels = nn.Linear(DECODER_WIDTH, input_channels * CELL**2)

    def forward(self, image: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        target = cell_targets(image)[0].flatten(2).transpose(1, 2)
        tokens = self.to_tokens(image).flatten(2).transpose(1, 2) + self.place
        seen = visible.flatten(1).bool()
        x = tokens[seen].reshape(len(image), -1, WIDTH)
        for block in self.stages:
            x = block(x)
        x = self.to_decoder(self.norm(x))
        full = self.mask_token.expand(len(image), seen.shape[1], -1).clone()
        full[seen] = x.reshape(-1, DECODER_WIDTH)
        full = full + self.decoder_place
        for block in self.decoder:
            full = block(full)
        return (self.to_pixels(full) - target).square().mean(dim=2)[~seen].mean()

    def maps(self, image: torch.Tensor) -> torch.Tensor:
        """Features after the last block, shape (n, WIDTH, rows, columns)."""
        x = self.to_tokens(image)
        rows, columns = x.shape[2:]
        x = x.flatten(2).transpose(1, 2) + self.place
        for block in self.stages:
            x = block(x)
        return x.transpose(1, 2).unflatten(2, (rows, columns))
