"""`data.preprocess`: image preprocessing of a model whose files do not declare it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from compress.core.spec import Side, Spec

_Sides = Side | tuple[Side, Side]


class PreprocessSpec(Spec):
    """Image preprocessing that a model used as it is was trained with: (pixel * scale / 255 - mean) / std."""

    size: _Sides
    """Size in pixels that images are resized to: [height, width], or one number for both; with `resize: shortest`, one
    number for the shorter side."""
    resize: Literal["squash", "shortest"] = "squash"
    """`squash`: resize to `size`, ignoring the aspect ratio; `shortest`: resize the shorter side to `size`, keeping the
    aspect ratio, then take the centre crop."""
    crop: _Sides | None = None
    """Size in pixels of the centre crop: [height, width], or one number for both; unset: the square of `size` with
    `resize: shortest`, else no crop."""
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    """Pillow's resampling filter."""
    mean: float | tuple[float, ...] = 0.0
    """Mean to subtract, in units of `scale`: one number, or one per channel in the order of `channels`."""
    std: Annotated[float, Field(gt=0)] | tuple[Annotated[float, Field(gt=0)], ...] = 1.0
    """Standard deviation to divide by, in the same form."""
    scale: Literal[1, 255] = 1
    """Value of white before `mean` and `std` are applied: 1 or 255."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels; their number is taken from the model."""

    @model_validator(mode="after")
    def _check_sizes(self) -> PreprocessSpec:
        if self.resize == "shortest" and not isinstance(self.size, int):
            raise ValueError("`resize: shortest` takes one number as `size`: the length of the shorter side")
        lengths = {len(each) for each in (self.mean, self.std) if isinstance(each, tuple)}
        if not lengths <= {1, 3}:
            raise ValueError("`mean` and `std` are one number, or three: one for each channel")
        return self

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the model's input."""
        return as_pair(self.size if self.crop is None else self.crop)

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of pixel values in 0..1, each one number for all channels or one per channel."""
        mean, std = (each if isinstance(each, tuple) else (each,) for each in (self.mean, self.std))
        return tuple(one / self.scale for one in mean), tuple(one / self.scale for one in std)


def as_pair(sides: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width), from one number for both or from two."""
    return (sides, sides) if isinstance(sides, int) else sides
