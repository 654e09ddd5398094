"""How bundles predict and what they are verified by: one entry per kind of output, to which tasks refer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from compress.bundles.layout import PREDICT, PREDICTOR, TEMPLATES
from compress.core.forms import Form, NumberFormat
from compress.core.plugins import import_object
from compress.core.task_kind import TaskKind
from compress.runtimes.runner import softmax

PROBABILITY_TOLERANCE = 1e-3
QUANTIZED_PROBABILITY_TOLERANCE = 0.05
"""Machines sum in different orders; if that changes the rounding of an integer, the output changes visibly."""
COSINE_TOLERANCE = 1e-4
QUANTIZED_COSINE_TOLERANCE = 0.02


@dataclass(frozen=True)
class BundleCode:
    """How the bundle of a task predicts.

    `predict`: script that predicts from the command line. `golden`: maps a predictor and the output of one example to
    its entry in `golden.json`. `tolerance` and `quantized_tolerance`: how far outputs on another machine may differ
    from that, for float and quantized models. `predictor`: file with a class `Predictor`, if the runner's own cannot
    make the inputs; `modules`: further code files that it imports.
    """

    predict: Path
    golden: Callable[[Any, NDArray[np.float32]], dict[str, Any]]
    tolerance: float
    quantized_tolerance: float
    predictor: Path | None = None
    modules: tuple[Path, ...] = ()

    def code(self) -> dict[str, Path]:
        """Return the code files of a bundle besides the runner, by their names in it."""
        predictor_file = {} if self.predictor is None else {PREDICTOR: self.predictor}
        return {PREDICT: self.predict, **predictor_file, **{file.name: file for file in self.modules}}

    def tolerance_for(self, form: Form) -> float:
        """Return the tolerance for a model of this form."""
        return self.tolerance if form.numbers is NumberFormat.FLOAT else self.quantized_tolerance


def bundle_code_of(kind: TaskKind) -> BundleCode:
    """Return how the bundle of a task predicts."""
    return cast(BundleCode, import_object(kind.bundle))


def _label_entry(predictor: Any, output: NDArray[np.float32]) -> dict[str, Any]:
    return {"label": predictor.labels[int(output.argmax())], "probabilities": round_values(softmax(output))}


def _embedding_entry(predictor: Any, output: NDArray[np.float32]) -> dict[str, Any]:
    return {"embedding": round_values(output)}


def outputs(predictor: Any, output: NDArray[np.float32]) -> dict[str, Any]:
    """Return an output of any shape unchanged; `tolerance` is then relative to its largest value."""
    return {"outputs": round_values(output.ravel()), "shape": list(output.shape)}


def round_values(values: NDArray[np.float32]) -> list[float]:
    """Round values as stored in golden examples."""
    return [round(float(value), 7) for value in values]


LABELS = BundleCode(
    TEMPLATES / "classify.py", _label_entry, PROBABILITY_TOLERANCE, QUANTIZED_PROBABILITY_TOLERANCE
)
"""A label and the probabilities of all labels; the tolerance is that of a probability."""
VECTORS = BundleCode(TEMPLATES / "embed.py", _embedding_entry, COSINE_TOLERANCE, QUANTIZED_COSINE_TOLERANCE)
"""An embedding; the tolerance is that of the cosine's difference from 1."""
