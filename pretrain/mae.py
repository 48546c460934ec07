"""A convolutional masked autoencoder on nnU-Net's own encoder blocks."""

import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from torch import nn
from torch.nn import functional as F

CELL = 16  # pixels, height and width of what is masked or visible as one; the stride of the whole encoder


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of every position.

    Instance norm, nnU-Net's choice, would take the mean of every feature map away, which is what global average
    pooling reads; batch norm would meet other statistics on whole images than on the masked ones it learned from.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def build_encoder(input_channels: int, features_per_stage: list[int], strides: list[int]) -> PlainConvEncoder:
    """A 2D encoder of dynamic-network-architectures whose strides multiply to ``CELL``."""
    return PlainConvEncoder(
        input_channels,
        n_stages=len(features_per_stage),
        features_per_stage=features_per_stage,
        conv_op=nn.Conv2d,
        kernel_sizes=3,
        strides=strides,
        n_conv_per_stage=2,
        conv_bias=True,
        norm_op=ChannelNorm,
        norm_op_kwargs={},
        nonlin=nn.GELU,
        nonlin_kwargs={},
    )


class MaskedAutoencoder(nn.Module):
    """Reconstruct masked cells of an image from the visible ones.

    The mask is applied to the image and again after every stage of the encoder, so that nothing but visible cells
    ever reaches a visible cell, and masked cells hold nothing (SparK, Tian et al. 2023; ConvNeXt V2, Woo et al.
    2023). A learned token stands for the masked cells in a light decoder. The target is the pixels of every cell,
    normalised to its mean and standard deviation (MAE, He et al. 2022).

    Parameters
    ----------
    input_channels : int
    features_per_stage, strides : lists of int
        Of the encoder; the strides multiply to ``CELL``.
    decoder_features : int
    """

    def __init__(self, input_channels: int, features_per_stage: list[int], strides: list[int], decoder_features: int):
        super().__init__()
        self.encoder = build_encoder(input_channels, features_per_stage, strides)
        self.to_decoder = nn.Conv2d(features_per_stage[-1], decoder_features, 1)
        self.mask_token = nn.Parameter(torch.zeros(1, decoder_features, 1, 1))
        self.decoder = nn.Sequential(
            nn.Conv2d(decoder_features, decoder_features, 3, padding=1),
            ChannelNorm(decoder_features),
            nn.GELU(),
            nn.Conv2d(decoder_features, decoder_features, 3, padding=1),
            ChannelNorm(decoder_features),
            nn.GELU(),
            nn.Conv2d(decoder_features, input_channels * CELL**2, 1),
        )
        nn.init.normal_(self.mask_token, std=0.02)

    def encode(self, image: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Features of the visible cells, zero elsewhere.

        Parameters
        ----------
        image : tensor of shape (batch, channels, height, width)
        visible : tensor of shape (batch, 1, height / CELL, width / CELL)
            1 for visible, 0 for masked.
        """
        x = image * _resize_mask(visible, image)
        for stage in self.encoder.stages:
            x = stage(x)
            x = x * _resize_mask(visible, x)
        return x

    def reconstruct(self, image: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Predicted normalised pixels of every cell, shape (batch, channels * CELL**2, rows, columns)."""
        tokens = self.to_decoder(self.encode(image, visible))
        return self.decoder(torch.where(visible.bool(), tokens, self.mask_token))

    def forward(self, image: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """The loss: mean squared error on the masked cells (MAE, He et al. 2022, with per-cell normalised targets)."""
        target, _, _ = cell_targets(image)
        predicted = self.reconstruct(image, visible)
        # In float32 also under mixed precision, whose sums over so many pixels would be rough.
        error = (predicted.float() - target.float()).square().mean(dim=1, keepdim=True)
        masked = 1 - visible.float()
        return (error * masked).sum() / masked.sum()


def _resize_mask(visible: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(visible, like.shape[2:], mode="nearest")


def cell_targets(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels of every cell, normalised per cell, with the mean and standard deviation that were taken away.

    Returns
    -------
    target : tensor of shape (batch, channels * CELL**2, rows, columns)
    mean, std : tensors of shape (batch, 1, rows, columns)
    """
    cells = F.pixel_unshuffle(image, CELL)
    mean = cells.mean(dim=1, keepdim=True)
    std = (cells.var(dim=1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    return (cells - mean) / std, mean, std


def random_visible(batch: int, rows: int, columns: int, mask_ratio: float, generator: torch.Generator) -> torch.Tensor:
    """Random cells stay visible: tensor of shape (batch, 1, rows, columns), 1 for visible, equally many an image."""
    return visible_cells(torch.rand(batch, rows * columns, generator=generator), rows, columns, mask_ratio)


def visible_cells(numbers: torch.Tensor, rows: int, columns: int, mask_ratio: float) -> torch.Tensor:
    """The cells with the smallest of some random numbers, shape (batch, rows * columns), stay visible."""
    n = rows * columns
    n_visible = n - round(mask_ratio * n)
    order = numbers.argsort(dim=1)
    return (order.argsort(dim=1) < n_visible).float().reshape(len(numbers), 1, rows, columns)


def random_crops(image: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Random resized crops (60 to 100 % of height and width) and left-right flips, same shape as the images.

    Parameters
    ----------
    image : tensor of shape (n, channels, height, width)
    numbers : tensor of shape (n, 5)
        Uniformly random in [0, 1).
    """
    scale = 0.6 + 0.4 * numbers[:, :2]
    shift = (2 * numbers[:, 2:4] - 1) * (1 - scale)
    flip = torch.where(numbers[:, 4] < 0.5, 1.0, -1.0)
    theta = torch.zeros(len(image), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale[:, 0] * flip, scale[:, 1]
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid.to(image), mode="bilinear", padding_mode="border", align_corners=False)
