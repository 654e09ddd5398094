"""Base of tasks with one label per example: from outputs to answers, and from answers to a score."""

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
    """Task with one label per example, scored by accuracy; subclasses define the encoding."""

    kind: ClassVar[TaskKind]
    scorer: ClassVar[Any] = label_scorer

    def __init__(self, data: DataSpec) -> None:
        self.data = data

    def scorable(self, examples: Examples) -> Examples:
        """Return the examples with a known label."""
        return examples.take(np.flatnonzero(examples.labels != UNLABELLED))

    def needs_reference(self, examples: Examples) -> bool:
        """Return False: labels are the ground truth."""
        return False

    def settings(self, task_json: Mapping[str, Any]) -> dict[str, Any]:
        """Return the output index of each label of the data if the model has its own order."""
        interface = Interface.of(task_json)
        return {"order": None if interface is None or interface.order is None else list(interface.order)}

    def check_outputs(self, shape: tuple[int, ...], task_json: Mapping[str, Any], where: str) -> None:
        """Reject outputs that are not one number per label.

        Raises:
            ModelError: they have another shape.
        """
        interface, labels = Interface.of(task_json), task_json.get("labels") or ()
        if interface is not None:
            interface.check_outputs(shape)
        elif len(shape) != 2 or (labels and shape[1] != len(labels)):
            raise wrong_shape(shape, str(len(labels) or "some"), where)

    def score(self, answers: Answers, truth: Truth) -> Score:
        """Return the accuracy on the labelled examples.

        Raises:
            ModelError: an output is not finite, so no label is the highest.
            ValueError: no example has a label, or the number of labels differs from that of answers.
        """
        if not np.isfinite(answers["softmax"]).all():
            raise not_finite()
        return Score(self.kind.metric, accuracy(answers["label"], truth.labels))

    def divergence(self, reference: NDArray[np.float32], outputs: NDArray[np.float32]) -> float:
        """Return KL(reference || outputs) of the softmax of outputs (n, labels) in nats, averaged over the examples."""
        reference_logs, output_logs = (
            _log_softmax(logits.astype(np.float64)) for logits in (reference, outputs)
        )
        return float((np.exp(reference_logs) * (reference_logs - output_logs)).sum(axis=1).mean())


def accuracy(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Return the fraction of the labelled examples that are predicted correctly; both int64 (n,).

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
    """Return the probability of each answer (n,) among the labels of the data.

    By softmax, or by its share of the outputs if these are already probabilities.
    """
    return answers["output"] if answers["distribution"].all() else answers["softmax"]


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised
