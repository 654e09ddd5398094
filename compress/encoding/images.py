"""Images as pixel values: resized and normalised as an artifact declares, decoded when a batch is requested."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.disk.reading import read_mapping
from compress.core.errors import ModelError
from compress.data.images.framing import DEFAULT_FRAMING, Framing, Pixels, apply_framing
from compress.data.images.pixels import image_size, load_pixels
from compress.data.splits import Item, item_content
from compress.encoding.inputs import Batch

PIXEL_VALUES = "pixel_values"


@dataclass(frozen=True)
class ImageFormat:
    """Image input of a model.

    Attributes:
        size: (height, width).
        channels: 1 or 3.
        mean, std: mean and standard deviation per channel for normalisation, as fractions of 255.
        framing: how images are converted to this size.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    framing: Framing = DEFAULT_FRAMING

    def __post_init__(self) -> None:
        if self.channels not in (1, 3) or min(self.size) < 1:
            raise ValueError(f"not an image format: {self.channels} channels of {self.size}")
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} for {self.channels} channels")

    @classmethod
    def read(cls, task_file: Path) -> ImageFormat:
        """Read the `image` section of a `task.json`.

        Raises:
            ModelError: the file is missing or unreadable, or describes no images.
        """
        try:
            return cls.from_dict(read_mapping(task_file)["image"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise ModelError(f"cannot read the model's inputs: {error!r}", where=str(task_file)) from error

    @classmethod
    def from_dict(cls, image: Mapping[str, Any]) -> ImageFormat:
        """Build the format from an `image` section.

        Raises:
            ValueError, KeyError, TypeError: the section is invalid.
        """
        height, width = image["size"]
        return cls(
            (int(height), int(width)),
            int(image["channels"]),
            tuple(map(float, image["mean"])),
            tuple(map(float, image["std"])),
            Framing.from_dict(image),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the `image` section of a `task.json`, with the framing values that differ from the default."""
        return {
            "size": list(self.size),
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
            **self.framing.as_dict(),
        }

    def pixel_values(self, pixels: Pixels) -> NDArray[np.float32]:
        """Convert an image, uint8 (h, w) or (h, w, 3), to the model's input, float32 (channels, height, width).

        Each value is (pixel / 255 - mean) / std, in the model's channel order; padding is 0. The image may have any
        size.
        """
        mean, std = (np.array(each, np.float32) for each in (self.mean, self.std))
        framed_pixels = apply_framing(pixels, self.size, self.channels, self.framing)
        values = (framed_pixels.astype(np.float32) / np.float32(255) - mean) / std
        out = np.zeros((self.channels, *self.size), np.float32)
        out[:, : framed_pixels.shape[0], : framed_pixels.shape[1]] = values.transpose(2, 0, 1)
        return out


@dataclass(frozen=True, eq=False)
class ImageInputs:
    """The images of one split, decoded on demand: only the images of the requested batch are in memory."""

    items: Sequence[Item]
    format: ImageFormat

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Cost of each example: 1, int64 (n,)."""
        return np.ones(len(self.items), np.int64)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Only `pixel_values`."""
        return (PIXEL_VALUES,)

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the images at `indices`: `pixel_values` float32 (len(indices), channels, height, width), normalised.

        Raises:
            DataError: an image is damaged.
        """
        values = np.empty((len(indices), self.format.channels, *self.format.size), np.float32)
        for row, index in enumerate(indices):
            item = self.items[int(index)]
            values[row] = self.format.pixel_values(
                load_pixels(item, transparency=self.format.framing.transparency)
            )
        return {PIXEL_VALUES: values}

    def digest(self) -> str:
        """Return the sha256 of everything that determines the inputs: image contents, resizing and normalisation."""
        digest = hashlib.sha256(repr((self.input_names, self.format, len(self))).encode())
        for item in self.items:
            digest.update(hashlib.sha256(item_content(item)).digest())
        return digest.hexdigest()


def median_size(items: Sequence[Item]) -> tuple[tuple[int, int], str | None]:
    """Return the size (height, width) of the images, or the medians and a note if they have several sizes."""
    sizes = np.array([image_size(item) for item in items])
    median = (int(np.median(sizes[:, 0])), int(np.median(sizes[:, 1])))
    distinct = len({tuple(size) for size in sizes.tolist()})
    if distinct == 1:
        return median, None
    (min_height, min_width), (max_height, max_width) = sizes.min(axis=0), sizes.max(axis=0)
    return median, (
        f"the training images have {distinct} sizes, {min_height} to {max_height} high and {min_width} to "
        f"{max_width} wide, and neither the "
        f"model nor `data.image_size` names one: all are scaled to the medians, {median[0]} x {median[1]}"
    )


def common_channels(items: Sequence[Item]) -> int:
    """Return 1 if all images are greyscale, else 3."""
    return 1 if all(load_pixels(item).ndim == 2 for item in items) else 3
