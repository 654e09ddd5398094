"""Validation of a bundle's `golden.json` before anything is compared with it: the file is untrusted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from compress.bundles.answers import QUANTIZED_PROBABILITY_TOLERANCE
from compress.bundles.layout import GOLDEN
from compress.core.disk.reading import read_mapping
from compress.core.errors import ModelError

MAX_TOLERANCE = QUANTIZED_PROBABILITY_TOLERANCE
"""No export writes a larger one."""
_NO_EXAMPLES = f"{GOLDEN} holds no golden examples"


def golden_problems(file: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Return the problems of a bundle's golden examples that can be found without running anything.

    Args:
        manifest: of the bundle; only images listed in its `files` may be used.
    """
    try:
        golden = read_mapping(file)
    except (ModelError, FileNotFoundError):
        return [_NO_EXAMPLES]
    examples, tolerance = golden.get("examples"), golden.get("tolerance")
    if not isinstance(examples, list) or not examples:
        return [_NO_EXAMPLES]
    problems = []
    if not _is_number(tolerance) or not 0 < tolerance <= MAX_TOLERANCE:
        problems.append(
            f"{GOLDEN} allows a difference of {tolerance!r}; expected more than 0 and at most {MAX_TOLERANCE}"
        )
    elif tolerance != manifest.get("tolerance"):
        problems.append(f"{GOLDEN} allows a different tolerance than the manifest")
    for number, example in enumerate(examples):
        problems += [f"golden example {number}: {fault}" for fault in _example_faults(example, manifest)]
    return problems


def _example_faults(example: Any, manifest: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(example, dict):
        yield "expected a mapping"
        return
    text, image = example.get("text"), example.get("image")
    if isinstance(text, str) == isinstance(image, str):
        yield "expected a text or an image"
    elif isinstance(image, str) and image not in manifest["files"]:
        yield f"it names {image!r}, which is not in the manifest"
    if "outputs" in example:
        yield from _vector_faults(example["outputs"], "outputs")
        return
    labels = manifest.get("labels")
    if not labels:
        yield from _vector_faults(example.get("embedding"), "embedding")
        return
    yield from _vector_faults(example.get("probabilities"), "probabilities")
    if not isinstance(labels, list) or example.get("label") not in labels:
        yield "its label is not in the manifest"


def _vector_faults(values: Any, name: str) -> Iterator[str]:
    if not isinstance(values, list) or not values or not all(map(_is_number, values)):
        yield f"its {name} are not numbers"
    elif not any(values):
        yield f"its {name} are all 0"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
