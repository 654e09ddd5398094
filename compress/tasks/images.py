"""Images as pixel values: scaled and normalised as an artifact declares it, read when a batch asks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.images import pixel_statistics, pixels_of, scaled
from compress.data.splits import Item, item_bytes
from compress.errors import ModelError
from compress.reading import read_mapping
from compress.tasks.base import Batch

PIXEL_VALUES = "pixel_values"


@dataclass(frozen=True)
class ImageFormat:
    """What a model takes: `size` (height, width), `channels` 1 or 3, and for each channel the mean and standard
    deviation, as fractions of 255, that its values are normalised with."""

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.channels not in (1, 3) or min(self.size) < 1:
            raise ValueError(f"no format of images: {self.channels} channels of {self.size}")
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} for {self.channels} channels")

    @classmethod
    def read(cls, task_file: Path) -> ImageFormat:
        """The `image` section of a `task.json`.

        Raises:
            ModelError: the file is missing or unreadable, or describes no images.
        """
        try:
            image = read_mapping(task_file)["image"]
            height, width = image["size"]
            return cls(
                (int(height), int(width)),
                int(image["channels"]),
                tuple(map(float, image["mean"])),
                tuple(map(float, image["std"])),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"cannot read the model's inputs: {error!r}", where=str(task_file)) from error

    def as_dict(self) -> dict[str, Any]:
        """The `image` section of a `task.json`."""
        return {
            "size": list(self.size),
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def normalised(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (n, height, width, channels) -> float32 (n, channels, height, width): (pixel / 255 - mean) / std."""
        mean, std = (np.array(each, np.float32) for each in (self.mean, self.std))
        values = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


@dataclass(frozen=True, eq=False)
class ImageInputs:
    """The images of one split. Files stay files: only the images of the batch asked for are in memory."""

    items: Sequence[Item]
    format: ImageFormat

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Cost of each example: 1."""
        return np.ones(len(self.items), np.int64)

    @property
    def input_names(self) -> tuple[str, ...]:
        """`pixel_values` alone."""
        return (PIXEL_VALUES,)

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The images at `indices`: `pixel_values` float32 (len(indices), channels, height, width), normalised.

        Raises:
            DataError: an image is damaged.
        """
        height, width = self.format.size
        pixels = np.empty((len(indices), height, width, self.format.channels), np.uint8)
        for row, index in enumerate(indices):
            pixels[row] = scaled(pixels_of(self.items[int(index)]), self.format.size, self.format.channels)
        return {PIXEL_VALUES: self.format.normalised(pixels)}

    def digest(self) -> str:
        """sha256 over all that a model is given: the content of the images and how they are scaled and normalised."""
        digest = hashlib.sha256(repr((self.input_names, self.format, len(self))).encode())
        for item in self.items:
            digest.update(hashlib.sha256(item_bytes(item)).digest())
        return digest.hexdigest()


def complete_format(
    items: Sequence[Item],
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
) -> ImageFormat:
    """The format of a model, with what it does not say itself taken from the training images.

    Args:
        items: the training images; the first gives size and channels, all of them mean and standard deviation.
        normalisation: mean and standard deviation of each channel, or one for all of them.
    """
    if size is None or channels is None:
        first = pixels_of(items[0])
        size = size or (first.shape[0], first.shape[1])
        channels = channels or (1 if first.ndim == 2 else 3)
    mean, std = normalisation or pixel_statistics(items, size, channels)
    if len(mean) != channels:
        # One channel is shown to a model of three, or the other way round: their mean stands for each.
        mean, std = [float(np.mean(mean))] * channels, [float(np.mean(std))] * channels
    return ImageFormat(size, channels, tuple(map(float, mean)), tuple(map(float, std)))
