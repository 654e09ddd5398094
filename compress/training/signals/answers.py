"""Sources of the teacher's signals for a batch: the cache, a model that runs in every step, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.core.task_kind import TaskKind
from compress.encoding.inputs import Inputs, model_inputs
from compress.losses.contract import LossSpec
from compress.training.batches import to_tensors
from compress.training.prediction import Device
from compress.training.signals.capture import Recorder, Signals
from compress.training.signals.teachers import TeacherSource
from compress.training.signals.top_k import source_signals, with_top_k

SignalSource = Callable[[NDArray[np.int64], dict[str, Tensor]], Signals]
"""Function from the example indices of a batch and the batch shown to the student to the teacher's signals of
these examples, on the device of the batch."""


def no_signals(indices: NDArray[np.int64], student_batch: dict[str, Tensor]) -> Signals:
    """Return no signals: there is no teacher."""
    return {}


def is_cached(task: TaskKind, losses: Sequence[LossSpec], epochs: float) -> bool:
    """Whether the signals of a frozen teacher are cached.

    For language models that is not worth it if only part of the data is seen once, and a loss that reads the
    whole vocabulary would need too much space.
    """
    return not (task.generates and (epochs < 1 or any(loss.needs_all_logits for loss in losses)))


def from_cache(teacher: TeacherSource) -> SignalSource:
    """Return answers of a frozen teacher on fixed inputs: its signals are read from the cache."""
    return lambda indices, shown: teacher.take(indices)


def from_model(
    model: nn.Module,
    names: frozenset[str],
    device: Device,
    *,
    inputs: Inputs | None = None,
    trainable: bool = False,
) -> SignalSource:
    """Return answers of a teacher that runs in every step, because it is trained or because the inputs change.

    Args:
        model: called in each step, so it may be trained meanwhile.
        names: names of the needed signals.
        inputs: the teacher's inputs at the indices; None: the batch shown to the student.
        trainable: keep the graph of its outputs, because it is trained too.
    """
    recorder = Recorder(model, source_signals(names))

    def answer(indices: NDArray[np.int64], student_batch: dict[str, Tensor]) -> Signals:
        batch = student_batch if inputs is None else to_tensors(inputs.batch(indices), device)
        if not trainable:
            model.eval()
        with torch.set_grad_enabled(trainable), recorder:
            model(**model_inputs(batch))
            return with_top_k(recorder.take(), names)

    return answer
