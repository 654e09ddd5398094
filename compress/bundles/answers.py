"""What a bundle predicts with and is proved by: one entry for each kind of answer, which tasks name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from compress.bundles.layout import PREDICT, PREDICTOR, TEMPLATES
from compress.core.forms import Form, Numbers
from compress.core.plugins import named
from compress.core.task_kind import TaskKind
from compress.runtimes.runner import softmax

PROBABILITY_TOLERANCE = 1e-3
QUANTIZED_PROBABILITY_TOLERANCE = 0.05
"""Another processor sums in another order; where that moves a value to the next integer, the output moves visibly."""
COSINE_TOLERANCE = 1e-4
QUANTIZED_COSINE_TOLERANCE = 0.02


@dataclass(frozen=True)
class BundleAnswers:
    """How the bundle of a task answers.

    `predict`: the file that predicts from the command line. `golden`: from a predictor and the output of one example to
    what `golden.json` keeps of it. `tolerance` is how far another machine's answer may lie from that, of a float model
    and of a quantized one. `predictor`: a file with a class `Predictor`, where the runner's own cannot make the inputs;
    `beside`: further files of code that it imports.
    """

    predict: Path
    golden: Callable[[Any, NDArray[np.float32]], dict[str, Any]]
    tolerance: float
    quantized_tolerance: float
    predictor: Path | None = None
    beside: tuple[Path, ...] = ()

    def code(self) -> dict[str, Path]:
        """The files that a bundle runs beside the runner, by their names in it."""
        own = {} if self.predictor is None else {PREDICTOR: self.predictor}
        return {PREDICT: self.predict, **own, **{file.name: file for file in self.beside}}

    def allowed(self, form: Form) -> float:
        """The tolerance of a model of this form."""
        return self.tolerance if form.numbers is Numbers.FLOAT else self.quantized_tolerance


def answers_of(kind: TaskKind) -> BundleAnswers:
    """How the bundle of a task answers."""
    return cast(BundleAnswers, named(kind.bundle))


def _label(predictor: Any, output: NDArray[np.float32]) -> dict[str, Any]:
    return {"label": predictor.labels[int(output.argmax())], "probabilities": rounded(softmax(output))}


def _vector(predictor: Any, output: NDArray[np.float32]) -> dict[str, Any]:
    return {"embedding": rounded(output)}


def outputs(predictor: Any, output: NDArray[np.float32]) -> dict[str, Any]:
    """An output of any shape as it is; `tolerance` is then a share of the largest of its values."""
    return {"outputs": rounded(output.ravel()), "shape": list(output.shape)}


def rounded(values: NDArray[np.float32]) -> list[float]:
    """Numbers as a golden example holds them."""
    return [round(float(value), 7) for value in values]


LABELS = BundleAnswers(
    TEMPLATES / "classify.py", _label, PROBABILITY_TOLERANCE, QUANTIZED_PROBABILITY_TOLERANCE
)
"""A label and the probabilities of all; a difference is that of a probability."""
VECTORS = BundleAnswers(TEMPLATES / "embed.py", _vector, COSINE_TOLERANCE, QUANTIZED_COSINE_TOLERANCE)
"""An embedding; a difference is that of the cosine from 1."""
