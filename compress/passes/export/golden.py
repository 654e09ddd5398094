"""Golden examples: texts or images with the outputs that a bundle must reproduce wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.files import make_folder, replacing
from compress.core.forms import Form, Numbers
from compress.data.framing import Framing, Pixels, framed
from compress.data.images import pixels_of
from compress.data.splits import Examples, Item
from compress.encoding.images import ImageFormat
from compress.passes.export.layout import GOLDEN_IMAGES
from compress.runtimes.runner import Predictor, SentenceEncoder, open_predictor, softmax

PROBABILITY_TOLERANCE = 1e-3
QUANTIZED_PROBABILITY_TOLERANCE = 0.05
"""Another processor sums in another order; where that moves a value to the next integer, the output moves visibly."""
_LARGEST = 2
"""Images that are stored in their own proportions are scaled down to so many times what the model scales to."""
COSINE_TOLERANCE = 1e-4
QUANTIZED_COSINE_TOLERANCE = 0.02


def tolerance_of(form: Form, *, labelled: bool) -> float:
    """Allowed difference of a probability, or of the cosine of two embeddings from 1 where there are no labels."""
    if labelled:
        return PROBABILITY_TOLERANCE if form.numbers is Numbers.FLOAT else QUANTIZED_PROBABILITY_TOLERANCE
    return COSINE_TOLERANCE if form.numbers is Numbers.FLOAT else QUANTIZED_COSINE_TOLERANCE


def golden_examples(bundle: Path, items: Sequence[Item], tolerance: float) -> dict[str, Any]:
    """What the model of `bundle` answers to each item alone, as JSON values.

    Images are stored in the bundle as PNG files: of the model's size where it takes whole images, else in their own
    proportions, so that what is cropped or padded is tried too.
    """
    predictor = open_predictor(str(bundle))
    examples = []
    for number, item in enumerate(items):
        shown = (
            {"text": item} if isinstance(item, str) else {"image": _store(predictor, item, bundle, number)}
        )
        given = item if isinstance(item, str) else str(bundle / shown["image"])
        examples.append({**shown, **_answer(predictor, predictor.outputs([given])[0])})
    return {"tolerance": tolerance, "examples": examples}


def choose_items(examples: Examples, count: int, seed: int) -> list[Item]:
    """`count` of the items, drawn by the seed, in their order."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(examples))[:count])
    return [examples.items[index] for index in drawn]


def _store(predictor: Predictor, item: Item, bundle: Path, number: int) -> str:
    """Write an image for the model to be tried on; its path in the bundle."""
    from PIL import Image

    name = f"{GOLDEN_IMAGES}/{number:03d}.png"
    pixels = _shown(pixels_of(item), ImageFormat.from_dict(predictor.task["image"]))
    make_folder(bundle / GOLDEN_IMAGES)
    with replacing(bundle / name) as temporary:
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(temporary)
    return name


def _shown(pixels: Pixels, image: ImageFormat) -> Pixels:
    """What is stored of an image: (height, width, channels), red first."""
    if image.framing.resize == "squash" and not image.framing.resize_to:
        return framed(pixels, image.size, image.channels, Framing(interpolation=image.framing.interpolation))
    height, width = pixels.shape[:2]
    sides = max(image.size, image.framing.resize_to[:1] * 2)
    smaller = min(
        1.0, *(_LARGEST * wanted / side for wanted, side in zip(sides, (height, width), strict=True))
    )
    size = max(1, round(height * smaller)), max(1, round(width * smaller))
    return framed(pixels, size, image.channels)


def _answer(predictor: Predictor, output: NDArray[np.float32]) -> dict[str, Any]:
    if isinstance(predictor, SentenceEncoder):
        return {"embedding": _rounded(output)}
    return {
        "label": predictor.labels[int(output.argmax())],
        "probabilities": _rounded(softmax(output)),
    }


def _rounded(values: NDArray[np.float32]) -> list[float]:
    return [round(float(value), 7) for value in values]
