"""Images as pixel values: scaled and normalised as an artifact declares it, read when a batch asks for them."""

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
from compress.data.images.framing import AS_USUAL, Framing, Pixels, framed
from compress.data.images.pixels import image_size, pixels_of
from compress.data.splits import Item, item_bytes
from compress.encoding.inputs import Batch

PIXEL_VALUES = "pixel_values"


@dataclass(frozen=True)
class ImageFormat:
    """What a model takes: `size` (height, width), `channels` 1 or 3, for each channel the mean and standard deviation,
    as fractions of 255, that its values are normalised with, and how an image becomes one of that size."""

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    framing: Framing = AS_USUAL

    def __post_init__(self) -> None:
        if self.channels not in (1, 3) or min(self.size) < 1:
            raise ValueError(f"not an image format: {self.channels} channels of {self.size}")
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} for {self.channels} channels")

    @classmethod
    def read(cls, task_file: Path) -> ImageFormat:
        """The `image` section of a `task.json`.

        Raises:
            ModelError: the file is missing or unreadable, or describes no images.
        """
        try:
            return cls.from_dict(read_mapping(task_file)["image"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise ModelError(f"cannot read the model's inputs: {error!r}", where=str(task_file)) from error

    @classmethod
    def from_dict(cls, image: Mapping[str, Any]) -> ImageFormat:
        """The format that an `image` section says.

        Raises:
            ValueError, KeyError, TypeError: it is damaged.
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
        """The `image` section of a `task.json`; of the framing what is not as usual."""
        return {
            "size": list(self.size),
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
            **self.framing.as_dict(),
        }

    def values(self, pixels: Pixels) -> NDArray[np.float32]:
        """An image of any size, uint8 (h, w) or (h, w, 3), as the model takes it: float32 (channels, height, width).

        Each value is (pixel / 255 - mean) / std, in the order of the model's channels.
        """
        mean, std = (np.array(each, np.float32) for each in (self.mean, self.std))
        seen = framed(pixels, self.size, self.channels, self.framing)
        values = (seen.astype(np.float32) / np.float32(255) - mean) / std
        out = np.zeros((self.channels, *self.size), np.float32)
        out[:, : seen.shape[0], : seen.shape[1]] = values.transpose(2, 0, 1)
        return out


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
        values = np.empty((len(indices), self.format.channels, *self.format.size), np.float32)
        for row, index in enumerate(indices):
            item = self.items[int(index)]
            values[row] = self.format.values(pixels_of(item, transparency=self.format.framing.transparency))
        return {PIXEL_VALUES: values}

    def digest(self) -> str:
        """sha256 over all that a model is given: the content of the images and how they are scaled and normalised."""
        digest = hashlib.sha256(repr((self.input_names, self.format, len(self))).encode())
        for item in self.items:
            digest.update(hashlib.sha256(item_bytes(item)).digest())
        return digest.hexdigest()


def usual_size(items: Sequence[Item]) -> tuple[tuple[int, int], str | None]:
    """The size (height, width) of images, and a note where they are of several: the medians stand for all then."""
    sizes = np.array([image_size(item) for item in items])
    median = (int(np.median(sizes[:, 0])), int(np.median(sizes[:, 1])))
    distinct = len({tuple(size) for size in sizes.tolist()})
    if distinct == 1:
        return median, None
    (low, narrow), (high, wide) = sizes.min(axis=0), sizes.max(axis=0)
    return median, (
        f"the training images have {distinct} sizes, {low} to {high} high and {narrow} to {wide} wide, and neither the "
        f"model nor `data.image_size` names one: all are scaled to the medians, {median[0]} x {median[1]}"
    )


def usual_channels(items: Sequence[Item]) -> int:
    """1 where all images are grey, else 3."""
    return 1 if all(pixels_of(item).ndim == 2 for item in items) else 3
