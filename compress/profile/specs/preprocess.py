"""`data.preprocess`: how the maker of a model made its inputs from images, where its files do not say."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from compress.core.spec import Side, Spec

_Sides = Side | tuple[Side, Side]


class PreprocessSpec(Spec):
    """What a model that is used as it stands was trained to see: (pixel * scale / 255 - mean) / std."""

    size: _Sides
    """What images are scaled to: a height and a width, or one number for both; with `resize: shortest` the length of
    the shorter side."""
    resize: Literal["squash", "shortest"] = "squash"
    """`squash`: to `size`, whatever the proportions; `shortest`: the shorter side to `size`, the longer one in
    proportion, then the middle is cut out."""
    crop: _Sides | None = None
    """Height and width of the middle that is cut out, or one number for both; unset: the square of `size` with `resize:
    shortest`, else nothing is cut off."""
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    """Pillow's filter for scaling."""
    mean: float | tuple[float, ...] = 0.0
    """Taken from the values, in units of `scale`: one number, or one for each channel in their order."""
    std: Annotated[float, Field(gt=0)] | tuple[Annotated[float, Field(gt=0)], ...] = 1.0
    """What they are divided by then, likewise."""
    scale: Literal[1, 255] = 1
    """The value of white before `mean` and `std`: 1 or 255."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """The order of the channels; how many there are, the model itself shows."""

    @model_validator(mode="after")
    def _fits(self) -> PreprocessSpec:
        if self.resize == "shortest" and not isinstance(self.size, int):
            raise ValueError("`resize: shortest` takes one number as `size`: the length of the shorter side")
        lengths = {len(each) for each in (self.mean, self.std) if isinstance(each, tuple)}
        if not lengths <= {1, 3}:
            raise ValueError("`mean` and `std` are one number, or three: one for each channel")
        return self

    @property
    def seen(self) -> tuple[int, int]:
        """Height and width of what the model sees."""
        return pair(self.size if self.crop is None else self.crop)

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation as fractions of 255, one number for all channels or one for each."""
        mean, std = (each if isinstance(each, tuple) else (each,) for each in (self.mean, self.std))
        return tuple(one / self.scale for one in mean), tuple(one / self.scale for one in std)


def pair(sides: int | tuple[int, int]) -> tuple[int, int]:
    """A height and a width, from one number for both or from two."""
    return (sides, sides) if isinstance(sides, int) else sides
