"""What a vision model's folder says of the images that it takes: size, channels, normalisation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BRIGHTEST = 255.0


@dataclass(frozen=True)
class DeclaredImages:
    """What is known before any image is seen; None where nothing is said.

    `size` is (height, width); `normalisation` holds mean and standard deviation as fractions of 255, one number a
    channel, or one for all.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None


def declared_images(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None) -> DeclaredImages:
    """What the parsed `config.json` and `preprocessor_config.json` (None without one) of transformers say.

    Whatever rescaling factor and offset a preprocessor has, its normalisation comes out as that of pixels over 255.

    Raises:
        ValueError: a value is not what it should be.
    """
    size = None if preprocessor is None else _preprocessed_size(preprocessor)
    if size is None and config.get("image_size") is not None:
        size = _size(config["image_size"])
    channels = config.get("num_channels")
    return DeclaredImages(
        size,
        None if channels is None else int(channels),
        None if preprocessor is None else _normalisation(preprocessor),
    )


def _preprocessed_size(preprocessor: Mapping[str, Any]) -> tuple[int, int] | None:
    if preprocessor.get("do_center_crop") and preprocessor.get("crop_size") is not None:
        return _size(preprocessor["crop_size"])
    if preprocessor.get("do_resize", True) and preprocessor.get("size") is not None:
        return _size(preprocessor["size"])
    return None


def _size(value: Any) -> tuple[int, int]:
    if isinstance(value, Mapping):
        if "height" in value:
            return int(value["height"]), int(value["width"])
        value = value.get("shortest_edge")
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return int(value[0]), int(value[1])
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    raise ValueError(f"no size of images: {value!r}")


def _normalisation(preprocessor: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(value * factor - offset - mean) / std, written as (value / 255 - mean') / std'."""
    factor = float(preprocessor.get("rescale_factor", 1 / _BRIGHTEST))
    scale = _BRIGHTEST * factor if preprocessor.get("do_rescale", True) else _BRIGHTEST
    offset = 1.0 if preprocessor.get("rescale_offset", False) else 0.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if preprocessor.get("do_normalize", True) and preprocessor.get("image_mean") is not None:
        mean, std = _numbers(preprocessor["image_mean"]), _numbers(preprocessor["image_std"])
    return tuple((each + offset) / scale for each in mean), tuple(each / scale for each in std)


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, (list, tuple)) else (float(value),)
