"""Golden examples: texts with the outputs that a bundle must reproduce wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compress.forms import Form, Numbers
from compress.runtimes.runner import Classifier, softmax

FLOAT_TOLERANCE = 1e-3
QUANTIZED_TOLERANCE = 0.05
"""Another processor sums in another order; where that moves a value to the next integer, the output moves visibly."""


def tolerance_of(form: Form) -> float:
    """Allowed difference of a probability."""
    return FLOAT_TOLERANCE if form.numbers is Numbers.FLOAT else QUANTIZED_TOLERANCE


def golden_examples(bundle: str, texts: Sequence[str], tolerance: float) -> dict[str, Any]:
    """What the model of `bundle` answers to each text alone, as JSON values."""
    classifier = Classifier(bundle)
    examples = []
    for text in texts:
        row = softmax(classifier.logits([text]))[0]
        examples.append(
            {
                "text": text,
                "label": classifier.labels[int(row.argmax())],
                "probabilities": [round(float(value), 7) for value in row],
            }
        )
    return {"tolerance": tolerance, "labels": list(classifier.labels), "examples": examples}


def choose_texts(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` of the texts, drawn by the seed, in their order."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(texts))[:count])
    return [texts[index] for index in drawn]
