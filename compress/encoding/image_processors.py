"""Image processors of transformers: load them from their config, without network or custom code, and probe them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import first_line

_PROBE_SIZES = ((41, 67), (203, 131), (30, 30), (9, 23), (320, 487))
"""(height, width) of the images that a processor is probed with: odd, tall, tiny, wide, larger than most models'
input."""


def open_processor(config: Mapping[str, Any], model_type: str | None) -> Any:
    """Create the processor of a parsed `preprocessor_config.json`, with the Pillow backend of transformers.

    Settings that the file omits have the defaults of the class. Only classes of transformers are looked up.

    Args:
        model_type: `model_type` of the model's config; determines the class if the file does not name it.

    Raises:
        ValueError: there is no such class, it requires a package that is not installed, or it rejects its settings.
    """
    name = _class_name(config, model_type)
    processor_class = _find_class(name)
    settings = {
        key: value for key, value in config.items() if key not in ("auto_map", "image_processor_type")
    }
    try:
        return processor_class.from_dict(settings)
    except Exception as error:  # each class checks its settings in its own way
        raise ValueError(f"{name} rejects its settings: {first_line(error)}") from error


def settings_of(processor: Any) -> dict[str, Any]:
    """Return all settings of a processor, including defaults of its class; sizes as plain mappings."""
    names = list(type(processor).valid_kwargs.__annotations__)
    values = {name: getattr(processor, name, None) for name in names}
    return {
        name: _size_to_dict(value) if name in ("size", "crop_size", "pad_size") else value
        for name, value in values.items()
    }


def probe(processor: Any, channels: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Yield seeded random images, uint8 (h, w) or (h, w, 3), each with the processor's float32 (channels, h, w) output.

    Raises:
        ValueError: the processor fails on such images, or returns no pixel values.
    """
    from PIL import Image

    rng = np.random.default_rng(0)
    for height, width in _PROBE_SIZES:
        shape = (height, width) if channels == 1 else (height, width, 3)
        pixels = rng.integers(0, 256, shape, np.uint8)
        try:
            outputs = processor(images=[Image.fromarray(pixels)], return_tensors="np")
            (values,) = outputs["pixel_values"]
        except Exception as error:  # each class fails in its own way
            raise ValueError(
                f"{type(processor).__name__} makes no pixel values from an image of {channels} "
                f"channel{'s' if channels > 1 else ''}, {height} x {width}: {first_line(error)}"
            ) from error
        yield pixels, np.asarray(values, np.float32)


def _class_name(config: Mapping[str, Any], model_type: str | None) -> str:
    name = config.get("image_processor_type") or config.get("feature_extractor_type")
    if name is None:
        from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

        classes = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type or "", {})
        name = classes.get("pil") or classes.get("torchvision")
    if not isinstance(name, str):
        raise ValueError("neither its file nor the model's type names its class")
    return name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")


def _find_class(name: str) -> Any:
    import transformers
    from transformers.image_processing_utils import BaseImageProcessor

    for class_name in (f"{name}Pil", name):
        try:
            candidate = getattr(transformers, class_name, None)
        except Exception as error:  # a lazy import raises whatever the imported module raises
            raise ValueError(f"{name} cannot be loaded: {first_line(error)}") from error
        if isinstance(candidate, type) and issubclass(candidate, BaseImageProcessor):
            return candidate
        if candidate is not None and getattr(candidate, "is_dummy", False):
            raise ValueError(
                f"{name} needs a package that is not installed: {', '.join(candidate._backends)}"
            )
    raise ValueError(f"transformers has no {name}")


def _size_to_dict(value: Any) -> dict[str, int] | None:
    """Convert a `SizeDict` to a mapping without its unset sides."""
    if value is None:
        return None
    sides = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width")
    return {side: int(number) for side in sides if (number := getattr(value, side, None)) is not None}
