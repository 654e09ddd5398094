"""From an image's pixels to those that a model sees: scaled, cropped, its channels in order. Pure; numpy, Pillow."""

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
Order = Literal["rgb", "bgr"]
Transparency = Literal["white", "drop"]

FILTERS: Mapping[Interpolation, Image.Resampling] = {
    name: Image.Resampling[name.upper()] for name in get_args(Interpolation)
}
"""Pillow's filters; all but `nearest` grow their support where they shrink an image (antialiased)."""


@dataclass(frozen=True)
class Framing:
    """How an image of any size becomes one of the model's.

    `resize`: `squash` to `resize_to` (height, width), the model's own size where that is empty; `shortest`: the shorter
    side to the first number of `resize_to`, the longer one in proportion and to the second number at most, where there
    is one; `within` the height and width of `resize_to`, as large as fits, in proportion; `none`: as it is.
    `fit`: what is left is cropped around its centre, black where it is too small; or padded to the right and below with
    what is 0 after normalising. `order` is that of the channels; `transparency`: see-through pixels are laid on white,
    or keep the colour that they hide.
    """

    resize: Resize = "squash"
    resize_to: tuple[int, ...] = ()
    interpolation: Interpolation = "bilinear"
    fit: Fit = "crop"
    order: Order = "rgb"
    transparency: Transparency = "white"

    def __post_init__(self) -> None:
        numbers = {"squash": (0, 2), "shortest": (1, 2), "within": (2,), "none": (0,)}
        if len(self.resize_to) not in numbers[self.resize] or min(self.resize_to, default=1) < 1:
            raise ValueError(f"resize_to is {list(self.resize_to)} for {self.resize}")

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Framing:
        """What a mapping says; keys of something else are not looked at.

        Raises:
            ValueError: a value is not what it should be.
        """
        return cls(**{name: said[name] for name in cls.__dataclass_fields__ if name in said})

    def as_dict(self) -> dict[str, Any]:
        """What is not as usual, as JSON values."""
        usual, said = AS_USUAL, {name: getattr(self, name) for name in self.__dataclass_fields__}
        said = {name: value for name, value in said.items() if value != getattr(usual, name)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}

    def sized(self, old: tuple[int, int], new: tuple[int, int]) -> Framing:
        """The same framing for a model of another size (height, width): what it scales to grows or shrinks with it."""
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


AS_USUAL = Framing()
"""Squashed to the model's size by a bilinear filter, red first, on white."""


def framed(pixels: Pixels, size: tuple[int, int], channels: int, framing: Framing = AS_USUAL) -> Pixels:
    """The pixels as (height, width, channels): of `size` (height, width), or smaller where they are to be padded.

    Args:
        pixels: (h, w) or (h, w, 3), red first; to 1 channel they go as luma (ITU-R 601).
    """
    wanted = "L" if channels == 1 else "RGB"
    goal = target_size(pixels.shape[0], pixels.shape[1], size, framing)
    if (pixels.ndim == 2) != (wanted == "L") or pixels.shape[:2] != goal:
        image = Image.fromarray(pixels).convert(wanted)
        if pixels.shape[:2] != goal:
            image = image.resize((goal[1], goal[0]), FILTERS[framing.interpolation])
        pixels = np.asarray(image, np.uint8)
    pixels = pixels.reshape(*goal, channels)
    pixels = pixels[: size[0], : size[1]] if framing.fit == "pad" else cropped(pixels, size)
    return pixels[..., ::-1] if framing.order == "bgr" else pixels


def target_size(height: int, width: int, size: tuple[int, int], framing: Framing) -> tuple[int, int]:
    """Height and width that an image is scaled to, before it is cropped or padded; rounded as transformers does."""
    to = framing.resize_to
    if framing.resize == "none":
        return height, width
    if framing.resize == "squash":
        return (to[0], to[1]) if to else size
    if framing.resize == "within":
        scale = min(to[0] / height, to[1] / width)
        return max(1, int(height * scale)), max(1, int(width * scale))
    short, long = min(height, width), max(height, width)
    edge: float = to[0]
    rounded = to[0]
    if len(to) == 2 and long / short * edge > to[1]:
        edge = to[1] * short / long
        rounded = round(edge)
    longer = long if short == rounded else int(edge * long / short)
    sides = max(1, rounded), max(1, longer)
    return sides if height <= width else (sides[1], sides[0])


def cropped(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """The middle of (h, w, channels) of `size` (height, width), on black where the image is smaller."""
    if pixels.shape[:2] == size:
        return pixels
    out = np.zeros((*size, pixels.shape[2]), np.uint8)
    ours, theirs = [], []
    for side, wanted in zip(pixels.shape[:2], size, strict=True):
        # What is odd goes before the image where it is padded, and behind the crop where it is cut.
        start = -((wanted - side + 1) // 2) if side < wanted else (side - wanted) // 2
        length = min(side, wanted)
        ours.append(slice(max(0, -start), max(0, -start) + length))
        theirs.append(slice(max(0, start), max(0, start) + length))
    out[ours[0], ours[1]] = pixels[theirs[0], theirs[1]]
    return out
