"""What tasks share whose examples have one label each: how outputs become answers, and answers a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.core.task_kind import TaskKind
from compress.data.splits import UNLABELLED, Examples
from compress.encoding.interface import Interface
from compress.profile.schema import DataSpec
from compress.tasks import label_scorer
from compress.tasks.base import Answers, Score, Truth, not_finite, wrong_shape


class LabelTask:
    """One label an example, scored by accuracy; what is encoded is the business of each task."""

    kind: ClassVar[TaskKind]
    scorer: ClassVar[Any] = label_scorer

    def __init__(self, data: DataSpec) -> None:
        self.data = data

    def scored(self, examples: Examples) -> Examples:
        """The examples whose label is known."""
        return examples.take(np.flatnonzero(examples.labels != UNLABELLED))

    def needs_reference(self, examples: Examples) -> bool:
        """Never: labels say what is right."""
        return False

    def settings(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """Which output stands for each label of the data, where the model has an order of its own."""
        interface = Interface.of(described)
        return {"order": None if interface is None or interface.order is None else list(interface.order)}

    def check_outputs(self, shape: tuple[int, ...], described: Mapping[str, Any], where: str) -> None:
        """Refuse outputs that are not one number a label.

        Raises:
            ModelError: they are of another shape.
        """
        interface, labels = Interface.of(described), described.get("labels") or ()
        if interface is not None:
            interface.check_outputs(shape)
        elif len(shape) != 2 or (labels and shape[1] != len(labels)):
            raise wrong_shape(shape, str(len(labels) or "some"), where)

    def score(self, answers: Answers, truth: Truth) -> Score:
        """The share of the labelled examples that are answered rightly.

        Raises:
            ModelError: an output is not a finite number, so no label is the highest.
            ValueError: no example has a label, or there are more or fewer than answers.
        """
        if not np.isfinite(answers["softmax"]).all():
            raise not_finite()
        return Score(self.kind.metric, accuracy(answers["label"], truth.labels))

    def divergence(self, reference: NDArray[np.float32], outputs: NDArray[np.float32]) -> float:
        """KL(reference || outputs) of the softmax of outputs (n, labels), nats: the mean over the examples."""
        sure, guess = (_log_softmax(each.astype(np.float64)) for each in (reference, outputs))
        return float((np.exp(sure) * (sure - guess)).sum(axis=1).mean())


def accuracy(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Share of the labelled examples whose prediction is right; both int64 (n,).

    Raises:
        ValueError: the shapes differ, or no example has a label.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"predictions of shape {predicted.shape} against truth of shape {truth.shape}")
    labelled = truth != UNLABELLED
    if not labelled.any():
        raise ValueError("no example has a label")
    return float((predicted[labelled] == truth[labelled]).mean())


def confidence(answers: Answers) -> NDArray[np.float64]:
    """The probability of each answer (n,) among the labels of the data: by softmax, or its share of the outputs where
    these are probabilities already."""
    return answers["output"] if answers["distribution"].all() else answers["softmax"]


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised
