"""Convolutional masked autoencoders on nnU-Net's own encoder blocks."""

import math

import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from einops import rearrange
from torch import nn
from torch.nn import functional as F

CELL = 16  # pixels along every axis of a cell, which is masked or visible as a whole; the stride of the whole encoder
# Images and their cells for `einops.rearrange`, by the number of axes.
_IMAGE = {4: "b c (h p) (w q)", 5: "b c (d p) (h q) (w r)"}
_CELLS = {4: "b (c p q) h w", 5: "b (c p q r) d h w"}


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of every position.

    Instance norm, nnU-Net's choice, would remove the mean of every feature map, which is what global average pooling
    reads; batch norm would meet other statistics on whole images than on the masked ones of its training.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise over the channels, which are the second axis."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def build_encoder(
    *, input_channels: int, features_per_stage: list[int], strides: list[int], dim: int = 2
) -> PlainConvEncoder:
    """A 2D or 3D encoder of dynamic-network-architectures whose strides multiply to ``CELL``."""
    return PlainConvEncoder(
        input_channels,
        n_stages=len(features_per_stage),
        features_per_stage=features_per_stage,
        conv_op=_convolution(dim),
        kernel_sizes=3,
        strides=strides,
        n_conv_per_stage=2,
        conv_bias=True,
        norm_op=ChannelNorm,
        norm_op_kwargs={},
        nonlin=nn.GELU,
        nonlin_kwargs={},
    )


def _convolution(dim: int) -> type[nn.Module]:
    return {2: nn.Conv2d, 3: nn.Conv3d}[dim]


class MaskedAutoencoder(nn.Module):
    """A network that reconstructs masked cells of an image from the visible ones.

    The mask is applied to the image and again after every stage of the encoder: features of visible cells depend on
    visible cells alone, and those of masked cells are zero (SparK, Tian et al. 2023; ConvNeXt V2, Woo et al. 2023). A
    learned token stands for the masked cells in a light decoder. The target is the pixels of every cell, normalised by
    its mean and standard deviation (MAE, He et al. 2022), and these two numbers: without them nothing would be learned
    about brightness and contrast, by which sites and scanners differ.

    In shapes, ``...`` stands for (height, width) or (depth, height, width).

    Parameters
    ----------
    input_channels : int
    features_per_stage, strides : lists of int
        Per stage of the encoder; the strides multiply to ``CELL``.
    decoder_features : int
    dim : {2, 3}
        Dimension of the images.
    """

    def __init__(
        self,
        *,
        input_channels: int,
        features_per_stage: list[int],
        strides: list[int],
        decoder_features: int,
        dim: int = 2,
    ):
        super().__init__()
        conv = _convolution(dim)
        self.encoder = build_encoder(
            input_channels=input_channels, features_per_stage=features_per_stage, strides=strides, dim=dim
        )
        self.to_decoder = conv(features_per_stage[-1], decoder_features, 1)
        self.mask_token = nn.Parameter(torch.zeros(1, decoder_features, *[1] * dim))
        self.decoder = nn.Sequential(
            conv(decoder_features, decoder_features, 3, padding=1),
            ChannelNorm(decoder_features),
            nn.GELU(),
            conv(decoder_features, decoder_features, 3, padding=1),
            ChannelNorm(decoder_features),
            nn.GELU(),
            conv(decoder_features, input_channels * CELL**dim + 2, 1),
        )
        nn.init.normal_(self.mask_token, std=0.02)

    def encode(self, image: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Features of the visible cells, zero elsewhere.

        Parameters
        ----------
        image : tensor of shape (batch, channels, ...)
        visible : tensor of shape (batch, 1, ... / CELL)
            1 for visible, 0 for masked.
        """
        x = image * _resize_mask(visible, image)
        for stage in self.encoder.stages:
            x = stage(x)
            x = x * _resize_mask(visible, x)
        return x

    def reconstruct(self, image: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Prediction of `cell_targets`, shape (batch, channels * CELL**dim + 2, ... / CELL)."""
        tokens = self.to_decoder(self.encode(image, visible))
        return self.decoder(torch.where(visible.bool(), tokens, self.mask_token))

    def forward(self, image: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """The loss of every image, shape (batch,).

        The mean squared error of the normalised pixels of its masked cells, and that of their means and deviations.
        """
        # In float32 also under mixed precision, whose sums over so many pixels would be rough.
        errors = (self.reconstruct(image, visible).float() - cell_targets(image).float()).square()
        error = errors[:, :-2].mean(dim=1, keepdim=True) + errors[:, -2:].mean(dim=1, keepdim=True)
        masked = 1 - visible.float()
        return (error * masked).flatten(1).sum(dim=1) / masked.flatten(1).sum(dim=1)


class Ensemble(nn.Module):
    """Masked autoencoders side by side, each with first weights and samples of its own.

    What a single one sees depends on its random start: with another seed it would pick other cases. Features of several
    side by side depend on it far less. Together they learn from as many samples as one would.

    Parameters
    ----------
    members : int
    **architecture
        Of each: see `MaskedAutoencoder`.
    """

    def __init__(self, members: int, **architecture):
        super().__init__()
        self.members = nn.ModuleList(MaskedAutoencoder(**architecture) for _ in range(members))

    def forward(self, image: torch.Tensor, visible: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """The loss: the mean over the samples, each seen by the member that its number in the stream of samples tells.

        Parameters
        ----------
        image : tensor of shape (batch, channels, ...)
        visible : tensor of shape (batch, 1, ... / CELL)
        number : int tensor of shape (batch,)
        """
        whose = number % len(self.members)
        # A member without a sample in this batch still takes part, with a sum of nothing: processes that exchange
        # gradients wait for those of every weight.
        losses = [member(image[whose == m], visible[whose == m]) for m, member in enumerate(self.members)]
        return torch.cat(losses).sum() / len(image)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Feature maps of all members side by side: shape (batch, features, ... / CELL)."""
        return torch.cat([member.get_submodule("encoder")(image) for member in self.members], dim=1)


def _resize_mask(visible: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(visible, like.shape[2:], mode="nearest")


def cell_targets(image: torch.Tensor) -> torch.Tensor:
    """What is to be predicted of every cell.

    Returns
    -------
    tensor of shape (batch, channels * CELL**dim + 2, ... / CELL)
        The pixels of the cell, normalised by its mean and standard deviation; the mean; the logarithm of the deviation.
    """
    cells = to_cells(image)
    mean = cells.mean(dim=1, keepdim=True)
    std = ((cells - mean).square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
    return torch.cat([(cells - mean) / std, mean, std.log()], dim=1)


def cell_pixels(targets: torch.Tensor) -> torch.Tensor:
    """The inverse of `cell_targets`: the pixels of every cell, as `to_cells` gives them."""
    return targets[:, :-2] * targets[:, -1:].exp() + targets[:, -2:-1]


def to_cells(image: torch.Tensor) -> torch.Tensor:
    """The pixels of every cell as channels: (batch, channels, ...) to (batch, channels * CELL**dim, ... / CELL)."""
    return rearrange(image, f"{_IMAGE[image.ndim]} -> {_CELLS[image.ndim]}", **_sizes(image))


def from_cells(cells: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_cells`."""
    return rearrange(cells, f"{_CELLS[cells.ndim]} -> {_IMAGE[cells.ndim]}", **_sizes(cells))


def _sizes(like: torch.Tensor) -> dict[str, int]:
    return dict.fromkeys("pqr"[: like.ndim - 2], CELL)


def random_visible(
    batch: int, shape: tuple[int, ...], *, mask_ratio: float, generator: torch.Generator
) -> torch.Tensor:
    """A mask with random visible cells, equally many per image: shape (batch, 1, *shape), 1 for visible."""
    return visible_cells(torch.rand(batch, math.prod(shape), generator=generator), shape, mask_ratio=mask_ratio)


def visible_cells(numbers: torch.Tensor, shape: tuple[int, ...], *, mask_ratio: float) -> torch.Tensor:
    """The mask in which the cells with the smallest random numbers are visible.

    Parameters
    ----------
    numbers : tensor of shape (batch, cells)
    shape : tuple of int
        Of the grid of cells.
    mask_ratio : float

    Returns
    -------
    tensor of shape (batch, 1, *shape)
        1 for visible, 0 for masked.
    """
    n = math.prod(shape)
    n_visible = n - round(mask_ratio * n)
    order = numbers.argsort(dim=1)
    return (order.argsort(dim=1) < n_visible).float().reshape(len(numbers), 1, *shape)


def crop_numbers(dim: int) -> int:
    """The number of random numbers that `random_crops` needs per image."""
    return dim + 1


def random_crops(image: torch.Tensor, numbers: torch.Tensor, *, size: int) -> torch.Tensor:
    """Random crops, in the resolution of the images, half of them with their last axis flipped.

    Parameters
    ----------
    image : tensor of shape (n, channels, ...)
    numbers : tensor of shape (n, crop_numbers(dim))
        Uniformly random in [0, 1).
    size : int
        Pixels of a crop along every axis.

    Returns
    -------
    tensor of shape (n, channels, size, ...)
    """
    dim = image.ndim - 2
    room = torch.tensor([1 + have - size for have in image.shape[2:]])
    starts = (numbers[:, :dim] * room).long().tolist()
    crops = [
        one[tuple([slice(None), *(slice(at, at + size) for at in start)])]
        for one, start in zip(image, starts, strict=True)
    ]
    return torch.stack(
        [crop.flip(-1) if flip < 0.5 else crop for crop, flip in zip(crops, numbers[:, dim], strict=True)]
    )
