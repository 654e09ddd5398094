"""A small convolutional generator of images from noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

NOISE_SIZE = 64
"""Dimension of the noise vector."""


class Generator(nn.Module):
    """Map noise (n, NOISE) to normalized images (n, c, h, w): (pixel - mean) / std with pixels in 0..1.

    A linear layer produces a map of a quarter of the side, two upsampling convolution blocks the image. The
    architecture is that of Fang et al. 2019 (arXiv:1912.11006), after DCGAN (Radford et al. 2016,
    arXiv:1511.06434).

    Args:
        shape: channels, height and width of an image; any height and width.
        mean: per-channel mean of the teacher's input normalization, for pixels in 0..1.
        std: per-channel standard deviation of the same.
        width: channels of the widest map.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float], width: int = 64
    ) -> None:
        super().__init__()
        channels, height, image_width = shape
        self.size = (height, image_width)
        self.start = (width, math.ceil(height / 4), math.ceil(image_width / 4))
        self.spread = nn.Linear(NOISE_SIZE, math.prod(self.start))
        self.first = nn.Sequential(nn.BatchNorm2d(width), nn.Upsample(scale_factor=2), *_block(width, width))
        self.second = nn.Sequential(nn.Upsample(scale_factor=2), *_block(width, width // 2))
        self.last = nn.Conv2d(width // 2, channels, 3, padding=1)
        self.register_buffer("mean", torch.tensor(mean).view(1, channels, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, channels, 1, 1))

    def forward(self, noise: Tensor) -> Tensor:
        """Return images (n, c, h, w) for noise (n, NOISE)."""
        hidden = self.spread(noise).view(-1, *self.start)
        pixels = torch.sigmoid(self.last(self.second(self.first(hidden))))
        if pixels.shape[2:] != self.size:
            pixels = functional.interpolate(pixels, self.size, mode="bilinear", align_corners=False)
        return (pixels - self.mean) / self.std


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.2, inplace=True),
    )
