"""Who answers for a batch: a frozen teacher from the cache, models that are run in every step, or nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.core.task_kind import TaskKind
from compress.encoding.inputs import Inputs, taken
from compress.losses.contract import LossSpec
from compress.training.batches import to_tensors
from compress.training.prediction import Device
from compress.training.signals.capture import Recorder, Signals
from compress.training.signals.teachers import Teaching
from compress.training.signals.top_k import taken_from, with_top_k

Answers = Callable[[NDArray[np.int64], dict[str, Tensor]], Signals]
"""Whoever teaches: the indices of the examples of a batch and the batch that was shown -> the teacher's signals of
these examples, on the device of the batch."""


def nobody(indices: NDArray[np.int64], shown: dict[str, Tensor]) -> Signals:
    """No signals: the labels alone teach."""
    return {}


def is_kept(task: TaskKind, losses: Sequence[LossSpec], epochs: float) -> bool:
    """Whether what a frozen teacher says of the data is kept: where a language model shows some texts once, that is not
    worth it, and what it says of all words is too much."""
    return not (task.writes and (epochs < 1 or any(loss.reads_all for loss in losses)))


def fixed(teacher: Teaching) -> Answers:
    """A frozen teacher on inputs that do not change: its signals are read from the cache."""
    return lambda indices, shown: teacher.take(indices)


def live(
    model: nn.Module,
    names: frozenset[str],
    device: Device,
    *,
    inputs: Inputs | None = None,
    learns: bool = False,
) -> Answers:
    """A teacher that is run in every step: because it changes, or because what is shown does.

    Args:
        model: read at each call, so that it may be trained meanwhile.
        names: the signals that are asked for.
        inputs: what the teacher reads at the indices; None: the very batch that was shown to the student.
        learns: keep the graph of its outputs, because it is trained too.
    """
    recorder = Recorder(model, taken_from(names))

    def answer(indices: NDArray[np.int64], shown: dict[str, Tensor]) -> Signals:
        batch = shown if inputs is None else to_tensors(inputs.batch(indices), device)
        if not learns:
            model.eval()
        with torch.set_grad_enabled(learns), recorder:
            model(**taken(batch))
            return with_top_k(recorder.take(), names)

    return answer
