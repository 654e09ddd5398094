"""Who answers for a batch: a frozen teacher from the cache, models that are run in every step, or nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.encoding.inputs import Inputs
from compress.training.batches import to_tensors
from compress.training.prediction import Device
from compress.training.signals.capture import Recorder, Signals
from compress.training.signals.teachers import Teaching, mean_outputs


class Answers(Protocol):
    """Whoever teaches: the signals of a batch, given the indices of its examples and the batch that was shown."""

    def __call__(self, indices: NDArray[np.int64], shown: dict[str, Tensor]) -> Signals:
        """The teacher's signals of these examples, on the device of the batch."""


class NoAnswers:
    """The labels alone teach."""

    def __call__(self, indices: NDArray[np.int64], shown: dict[str, Tensor]) -> Signals:
        """No signals."""
        return {}


class FixedAnswers:
    """A frozen teacher on inputs that do not change: its signals are read from the cache."""

    def __init__(self, teacher: Teaching) -> None:
        self._teacher = teacher

    def __call__(self, indices: NDArray[np.int64], shown: dict[str, Tensor]) -> Signals:
        """The cached signals."""
        return self._teacher.take(indices)


class LiveAnswers:
    """A teacher that is run in every step: because it changes, or because what is shown does.

    Args:
        model: read at each call, so that it may be trained meanwhile.
        names: the signals that are asked for.
        inputs: what the teacher reads at the indices; None: the very batch that was shown to the student.
        learns: keep the graph of its outputs, because it is trained too.
    """

    def __init__(
        self,
        model: nn.Module,
        names: frozenset[str],
        device: Device,
        *,
        inputs: Inputs | None = None,
        learns: bool = False,
    ) -> None:
        self._model = model
        self._recorder = Recorder(model, names)
        self._device = device
        self._inputs = inputs
        self._learns = learns

    def __call__(self, indices: NDArray[np.int64], shown: dict[str, Tensor]) -> Signals:
        """The signals of a forward pass."""
        batch = shown if self._inputs is None else to_tensors(self._inputs.batch(indices), self._device)
        if not self._learns:
            self._model.eval()
        with torch.set_grad_enabled(self._learns), self._recorder as recorder:
            self._model(**batch)
            return recorder.take()


class MeanAnswers:
    """Several teachers that are run in every step, as one."""

    def __init__(
        self, teachers: Sequence[tuple[LiveAnswers, float]], combine: Literal["probabilities", "logits"]
    ) -> None:
        total = sum(weight for _, weight in teachers)
        self._teachers = [(teacher, weight / total) for teacher, weight in teachers]
        self._combine = combine

    def __call__(self, indices: NDArray[np.int64], shown: dict[str, Tensor]) -> Signals:
        """The mean of their outputs, and the other signals of the first."""
        taken = [(teacher(indices, shown), weight) for teacher, weight in self._teachers]
        outputs = mean_outputs([(signals["outputs"], weight) for signals, weight in taken], self._combine)
        return {**taken[0][0], "outputs": outputs}
