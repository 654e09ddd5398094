"""Image preprocessing declared in a vision model's folder: its image processor converted, and verified numerically."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compress.core.errors import ModelError
from compress.data.images.framing import DEFAULT_FRAMING, FILTERS, Fit, Framing, Interpolation, Resize
from compress.data.images.pixels import pixel_statistics
from compress.data.splits import Item
from compress.encoding.image_processors import open_processor, probe, settings_of
from compress.encoding.images import ImageFormat, median_size
from compress.profile.specs.preprocess import PreprocessSpec, as_pair

FAULT_CODE = "image-processor"
_MAX_PIXEL = 255.0
_CONVNEXT_SQUASH_FROM = 384
"""From this size on ConvNeXT's processor squashes images; below it crops them."""
_LEVIT_RESIZE_RATIO = 256 / 224
_TOLERANCE = 1 / 255
MAX_SIDE = 8192
_KNOWN_SETTINGS = frozenset(
    {
        *(
            "do_resize",
            "do_center_crop",
            "do_rescale",
            "do_normalize",
            "do_pad",
            "do_convert_rgb",
            "rescale_offset",
        ),
        *("do_flip_channel_order", "include_top", "size", "crop_size", "pad_size", "crop_pct", "resample"),
        *(
            "rescale_factor",
            "image_mean",
            "image_std",
            "default_to_square",
            "data_format",
            "input_data_format",
        ),
        *("return_tensors", "device", "disable_grouping", "do_reduce_labels", "processor_class"),
    }
)
"""Settings that are converted, or that do not affect the pixels of a single image."""


@dataclass(frozen=True)
class DeclaredImages:
    """What is known of a model's image input before any image is read; None where it is not declared.

    Attributes:
        size: (height, width).
        normalisation: mean and standard deviation as fractions of 255, each per channel or one for all.
        unsupported: error if an image processor does something that cannot be converted.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    framing: Framing = DEFAULT_FRAMING
    unsupported: ModelError | None = None

    def with_size(self, size: tuple[int, int] | None) -> DeclaredImages:
        """Return the same for another requested size (height, width); None keeps the size."""
        if size is None:
            return self
        return replace(self, size=size, framing=self.framing.scaled_for(self.size or size, size))

    def with_channels(self, channels: int) -> DeclaredImages:
        """Return the same with a number of channels."""
        return replace(self, channels=channels)

    def to_format(self, items: Sequence[Item], channels: int) -> ImageFormat:
        """Return the format for `channels` channels; undeclared values are computed from the training images."""
        size = self.size or median_size(items)[0]
        mean, std = self.normalisation or pixel_statistics(items, size, channels, self.framing)
        # If the number of channels differs, every channel uses the mean of the declared values.
        mean, std = (
            tuple(map(float, each if len(each) == channels else [np.mean(each)] * channels))
            for each in (mean, std)
        )
        return ImageFormat(size, channels, mean, std, self.framing)


def declared_images(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, where: str = "preprocessor_config.json"
) -> DeclaredImages:
    """Return what the parsed `config.json` and `preprocessor_config.json` (None if missing) of transformers declare.

    Omitted settings have the defaults of the processor's class. The result is compared with the processor itself on
    images of unusual sizes: values must agree within 1/255.

    Raises:
        ValueError: the image size in `config` is invalid.
    """
    size = None if config.get("image_size") is None else _parse_size(config["image_size"])
    channels = config.get("num_channels")
    if channels is None:
        channels = _vision_config(config).get("num_channels")
    channels = None if channels is None else int(channels)
    if preprocessor is None:
        return DeclaredImages(size, channels)
    try:
        processor = open_processor(preprocessor, config.get("model_type"))
        declared = _converted_processor(processor)
        _verify(processor, declared, channels or 3)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, ZeroDivisionError) as error:
        unsupported = ModelError(
            f"this image processor is not supported: {error}",
            where=where,
            hint="Set the model's preprocessing in `data.preprocess`.",
            code=FAULT_CODE,
        )
        return DeclaredImages(size, channels, unsupported=unsupported)
    return DeclaredImages(declared.size, channels or 3, declared.normalisation, declared.framing)


def declared_in_profile(spec: PreprocessSpec) -> DeclaredImages:
    """Return what `data.preprocess` declares."""
    size = as_pair(spec.size)
    if spec.resize == "shortest":
        framing = Framing("shortest", size[:1], spec.interpolation, order=spec.channels)
    else:
        resize_to = () if spec.crop is None else size
        framing = Framing("squash", resize_to, spec.interpolation, order=spec.channels)
    return DeclaredImages(spec.input_size, None, spec.normalisation, framing)


def declared_in_task(image: Mapping[str, Any]) -> DeclaredImages:
    """Return what the `image` section of a `task.json` declares.

    Raises:
        ValueError, KeyError, TypeError: the section is invalid.
    """
    image_format = ImageFormat.from_dict(image)
    return DeclaredImages(
        image_format.size, image_format.channels, (image_format.mean, image_format.std), image_format.framing
    )


def _converted_processor(processor: Any) -> DeclaredImages:
    """Convert an image processor.

    Raises:
        ValueError: its output sizes vary, or it has an unknown setting.
    """
    settings = settings_of(processor)
    family = type(processor).__name__.removesuffix("Pil")
    unknown = sorted(
        name for name, value in settings.items() if name not in _KNOWN_SETTINGS and value not in (None, False)
    )
    if unknown:
        raise ValueError(f"{family} has {', '.join(f'`{name}`' for name in unknown)}")
    for name in ("size", "crop_size", "pad_size"):
        if any(not 1 <= side <= MAX_SIDE for side in (settings.get(name) or {}).values()):
            raise ValueError(
                f"`{name}` is {settings[name]}; images here have sides of 1 to {MAX_SIDE} pixels"
            )
    resize, resize_to = _resize_rule(family, settings)
    fit: Fit = "crop"
    if settings.get("do_center_crop"):
        size = _height_width(settings["crop_size"], "crop_size")
    elif settings.get("do_pad"):
        if settings.get("pad_size") is None:
            raise ValueError(
                "`do_pad` pads to the largest image of a batch; only a `pad_size` gives all one size"
            )
        size, fit = _height_width(settings["pad_size"], "pad_size"), "pad"
    elif family == "ConvNextImageProcessor" and resize == "shortest":
        edge = int(settings["size"]["shortest_edge"])
        size = (edge, edge)
    elif resize == "squash":
        size = (resize_to[0], resize_to[1])
    else:
        raise ValueError(
            "it leaves images at different sizes: there is neither a crop, nor a height and a width"
        )
    squashes_to_size = resize == "squash" and tuple(resize_to) == size
    framing = Framing(
        resize,
        () if squashes_to_size else resize_to,
        _interpolation_of(settings.get("resample")),
        fit,
        "bgr" if settings.get("do_flip_channel_order") else "rgb",
        "white" if settings.get("do_convert_rgb") else "drop",
    )
    return DeclaredImages(size, None, _normalisation(family, settings), framing)


def _interpolation_of(resample: int | None) -> Interpolation:
    filter_id = FILTERS["bilinear"] if resample is None else resample
    for name, value in FILTERS.items():
        if int(value) == int(filter_id):
            return name
    raise ValueError(f"`resample: {resample}` is not a Pillow filter")


def _resize_rule(family: str, settings: Mapping[str, Any]) -> tuple[Resize, tuple[int, ...]]:
    """Return how an image is resized, and to what size, including the special rules of some classes."""
    if not settings.get("do_resize"):
        return "none", ()
    size = settings["size"]
    edge, crop_pct = size.get("shortest_edge"), settings.get("crop_pct")
    if family == "ConvNextImageProcessor":
        if not edge:
            raise ValueError(f"{family} takes a `size` with `shortest_edge`, not {size}")
        return (
            ("shortest", (int(edge / crop_pct),))
            if edge < _CONVNEXT_SQUASH_FROM
            else ("squash", (edge, edge))
        )
    if family == "LevitImageProcessor" and edge:
        return "shortest", (int(_LEVIT_RESIZE_RATIO * edge),)
    if family == "PoolFormerImageProcessor" and crop_pct is not None:
        if edge or size["height"] == size["width"]:
            return "shortest", (int((edge or size["height"]) / crop_pct),)
        return "squash", (int(size["height"] / crop_pct), int(size["width"] / crop_pct))
    if edge:
        max_edge = size.get("longest_edge")
        return "shortest", (edge, max_edge) if max_edge else (edge,)
    if size.get("max_height") and size.get("max_width"):
        return "within", (size["max_height"], size["max_width"])
    return "squash", _height_width(size, "size")


def _normalisation(family: str, settings: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Rewrite (value * factor - offset - mean) / std as (value / 255 - mean') / std'; return (mean', std')."""
    factor = float(settings.get("rescale_factor") or 1 / _MAX_PIXEL)
    scale = _MAX_PIXEL * factor if settings.get("do_rescale") else _MAX_PIXEL
    offset = 1.0 if settings.get("rescale_offset") and settings.get("do_rescale") else 0.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if settings.get("do_normalize") and family != "MobileViTImageProcessor":
        mean, std = _as_floats(settings["image_mean"]), _as_floats(settings["image_std"])
    if settings.get("include_top"):
        # EfficientNet's processor divides by the standard deviation twice.
        divisors = _as_floats(settings["image_std"])
        mean = mean * (len(divisors) if len(mean) == 1 else 1)
        std = tuple(
            one * two
            for one, two in zip(std * (len(divisors) if len(std) == 1 else 1), divisors, strict=True)
        )
    return tuple((each + offset) / scale for each in mean), tuple(each / scale for each in std)


def _verify(processor: Any, declared: DeclaredImages, channels: int) -> None:
    """Verify the conversion against the processor itself.

    Raises:
        ValueError: pixel values or shapes differ.
    """
    image_format = declared.to_format((), channels)
    for pixels, expected in probe(processor, channels):
        if expected.shape != (channels, *image_format.size):
            raise ValueError(
                f"it makes {expected.shape} from an image of {pixels.shape[:2]}, not {(channels, *image_format.size)}"
            )
        difference = float(abs(image_format.pixel_values(pixels) - expected).max())
        if not difference <= _TOLERANCE:
            raise ValueError(
                f"{type(processor).__name__} does something unknown here: its pixel values for an image of "
                f"{pixels.shape[0]} x {pixels.shape[1]} differ from ours by up to {difference:.3g}"
            )


def _height_width(value: Mapping[str, Any], name: str) -> tuple[int, int]:
    if not value.get("height") or not value.get("width"):
        raise ValueError(f"`{name}` {dict(value)} has no height and width")
    return int(value["height"]), int(value["width"])


def _parse_size(value: Any) -> tuple[int, int]:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return int(value[0]), int(value[1])
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    raise ValueError(f"not an image size: {value!r}")


def _vision_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the vision part of a config that also describes a text model."""
    inner = config.get("vision_config")
    return inner if isinstance(inner, Mapping) else {}


def _as_floats(value: Any) -> tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, (list, tuple)) else (float(value),)
