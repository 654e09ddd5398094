"""Golden examples: texts or images with the outputs that a bundle must reproduce everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.bundles.answers import BundleCode
from compress.bundles.layout import GOLDEN_IMAGES
from compress.core.disk.files import make_folder, replacing
from compress.data.images.framing import Framing, Pixels, apply_framing
from compress.data.images.pixels import load_pixels
from compress.data.splits import Examples, Item
from compress.encoding.images import ImageFormat
from compress.runtimes.runner import Predictor, open_predictor

_MAX_SCALE = 2
"""Images stored with their own aspect ratio are scaled down to at most this many times the model's input size."""


def golden_examples(
    bundle: Path, items: Sequence[Item], answers: BundleCode, tolerance: float
) -> dict[str, Any]:
    """Return the output of `bundle`'s model for each single item, as JSON values.

    Images are stored in the bundle as PNG files: at the model's input size if it resizes whole images, otherwise with
    their own aspect ratio, so that cropping and padding are tested too.
    """
    predictor = open_predictor(str(bundle))
    examples = []
    for number, item in enumerate(items):
        example = (
            {"text": item} if isinstance(item, str) else {"image": _store(predictor, item, bundle, number)}
        )
        model_input = item if isinstance(item, str) else str(bundle / example["image"])
        examples.append({**example, **answers.golden(predictor, predictor.outputs([model_input])[0])})
    return {"tolerance": tolerance, "examples": examples}


def choose_items(examples: Examples, count: int, seed: int) -> list[Item]:
    """Draw `count` of the items with the seed, in their original order."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(examples))[:count])
    return [examples.items[index] for index in drawn]


def _store(predictor: Predictor, item: Item, bundle: Path, index: int) -> str:
    """Write an image as a golden example; return its path in the bundle."""
    from PIL import Image

    name = f"{GOLDEN_IMAGES}/{index:03d}.png"
    pixels = _stored_pixels(load_pixels(item), ImageFormat.from_dict(predictor.task["image"]))
    make_folder(bundle / GOLDEN_IMAGES)
    with replacing(bundle / name) as temporary:
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(temporary)
    return name


def _stored_pixels(pixels: Pixels, image: ImageFormat) -> Pixels:
    """Return the pixels of an image as stored: (height, width, channels), red first."""
    if image.framing.resize == "squash" and not image.framing.resize_to:
        return apply_framing(
            pixels, image.size, image.channels, Framing(interpolation=image.framing.interpolation)
        )
    height, width = pixels.shape[:2]
    sides = max(image.size, image.framing.resize_to[:1] * 2)
    scale = min(
        1.0, *(_MAX_SCALE * wanted / side for wanted, side in zip(sides, (height, width), strict=True))
    )
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return apply_framing(pixels, size, image.channels)
