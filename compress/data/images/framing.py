"""Resizing, cropping, padding and channel order of images for a model. Pure functions on NumPy and Pillow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic.dataclasses import dataclass

Pixels = NDArray[np.uint8]
Resize = Literal["squash", "shortest", "within", "none"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Fit = Literal["crop", "pad"]
ChannelOrder = Literal["rgb", "bgr"]
Transparency = Literal["white", "drop"]

FILTERS: Mapping[Interpolation, Image.Resampling] = {
    name: Image.Resampling[name.upper()] for name in get_args(Interpolation)
}
"""Pillow's resampling filters; all but `nearest` are antialiased when they shrink an image."""


@dataclass(frozen=True)
class Framing:
    """How an image of any size is converted to the model's input size.

    Attributes:
        resize: `squash` to `resize_to` (height, width), or to the model's size if that is empty, ignoring the aspect
            ratio; `shortest`: the shorter side to `resize_to[0]`, keeping the aspect ratio, with the longer side
            limited to `resize_to[1]` if given; `within`: as large as fits into `resize_to` (height, width), keeping the
            aspect ratio; `none`: no resizing.
        fit: `crop` around the centre, with black borders if the image is too small; or `pad` on the right and at the
            bottom with values that are 0 after normalisation.
        order: order of the channels.
        transparency: `white` composites transparent pixels on white; `drop` keeps the colour that they hide.
    """

    resize: Resize = "squash"
    resize_to: tuple[int, ...] = ()
    interpolation: Interpolation = "bilinear"
    fit: Fit = "crop"
    order: ChannelOrder = "rgb"
    transparency: Transparency = "white"

    def __post_init__(self) -> None:
        allowed_lengths = {"squash": (0, 2), "shortest": (1, 2), "within": (2,), "none": (0,)}
        if len(self.resize_to) not in allowed_lengths[self.resize] or min(self.resize_to, default=1) < 1:
            raise ValueError(f"resize_to is {list(self.resize_to)} for {self.resize}")

    @classmethod
    def from_dict(cls, section: Mapping[str, Any]) -> Framing:
        """Build a framing from a mapping; unknown keys are ignored.

        Raises:
            ValueError: a value is invalid.
        """
        return cls(**{name: section[name] for name in cls.__dataclass_fields__ if name in section})

    def as_dict(self) -> dict[str, Any]:
        """Return the values that differ from `DEFAULT_FRAMING`, as JSON values."""
        default, values = DEFAULT_FRAMING, {name: getattr(self, name) for name in self.__dataclass_fields__}
        values = {name: value for name, value in values.items() if value != getattr(default, name)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def scaled_for(self, old: tuple[int, int], new: tuple[int, int]) -> Framing:
        """Return the framing for a model of another size (height, width): `resize_to` is scaled in proportion."""
        if old == new or not self.resize_to:
            return self
        axes = (
            (0, 1)
            if len(self.resize_to) == 2 and self.resize != "shortest"
            else (None,) * len(self.resize_to)
        )
        ratios = [min(new) / min(old) if axis is None else new[axis] / old[axis] for axis in axes]
        scaled = (max(1, round(side * ratio)) for side, ratio in zip(self.resize_to, ratios, strict=True))
        return replace(self, resize_to=tuple(scaled))


DEFAULT_FRAMING = Framing()
"""The default framing: squashed to the model's size by a bilinear filter, RGB, on white."""


def apply_framing(
    pixels: Pixels, size: tuple[int, int], channels: int, framing: Framing = DEFAULT_FRAMING
) -> Pixels:
    """Return the framed pixels, (height, width, channels): of `size` (height, width), or smaller if padded later.

    Args:
        pixels: (h, w) or (h, w, 3) in RGB order; converted to one channel as luma (ITU-R 601).
    """
    mode = "L" if channels == 1 else "RGB"
    resized = resized_size(pixels.shape[0], pixels.shape[1], size, framing)
    if (pixels.ndim == 2) != (mode == "L") or pixels.shape[:2] != resized:
        image = Image.fromarray(pixels).convert(mode)
        if pixels.shape[:2] != resized:
            image = image.resize((resized[1], resized[0]), FILTERS[framing.interpolation])
        pixels = np.asarray(image, np.uint8)
    pixels = pixels.reshape(*resized, channels)
    pixels = pixels[: size[0], : size[1]] if framing.fit == "pad" else center_crop(pixels, size)
    return pixels[..., ::-1] if framing.order == "bgr" else pixels


def resized_size(height: int, width: int, size: tuple[int, int], framing: Framing) -> tuple[int, int]:
    """Return the (height, width) that an image is resized to before cropping or padding; rounded like transformers."""
    resize_to = framing.resize_to
    if framing.resize == "none":
        return height, width
    if framing.resize == "squash":
        return (resize_to[0], resize_to[1]) if resize_to else size
    if framing.resize == "within":
        scale = min(resize_to[0] / height, resize_to[1] / width)
        return max(1, int(height * scale)), max(1, int(width * scale))
    short, long = min(height, width), max(height, width)
    exact_edge: float = resize_to[0]
    shorter = resize_to[0]
    if len(resize_to) == 2 and long / short * exact_edge > resize_to[1]:
        exact_edge = resize_to[1] * short / long
        shorter = round(exact_edge)
    longer = long if short == shorter else int(exact_edge * long / short)
    sides = max(1, shorter), max(1, longer)
    return sides if height <= width else (sides[1], sides[0])


def center_crop(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Return the centre of `size` (height, width) of an image (h, w, channels), on black where the image is smaller."""
    if pixels.shape[:2] == size:
        return pixels
    out = np.zeros((*size, pixels.shape[2]), np.uint8)
    target_slices, source_slices = [], []
    for side, target_side in zip(pixels.shape[:2], size, strict=True):
        # An odd remainder adds one more pixel before the image when padding, and removes one more after it
        # when cropping.
        start = -((target_side - side + 1) // 2) if side < target_side else (side - target_side) // 2
        length = min(side, target_side)
        target_slices.append(slice(max(0, -start), max(0, -start) + length))
        source_slices.append(slice(max(0, start), max(0, start) + length))
    out[target_slices[0], target_slices[1]] = pixels[source_slices[0], source_slices[1]]
    return out
