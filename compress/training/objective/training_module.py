"""All modules that training against a teacher updates: student, projections of the losses, trained teacher."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compress.core.errors import PassError
from compress.encoding.inputs import model_inputs
from compress.training.objective.weighted_losses import Objective
from compress.training.signals.capture import Recorder, Signals

Augmentation = Callable[[dict[str, Tensor]], tuple[dict[str, Tensor], bool]]
"""A batch -> the augmented batch, and whether its labels still hold."""


class TrainingModule(nn.Module):
    """The student with everything that is trained or averaged beside it, so that a checkpoint contains all of it.

    In training mode, forward augments the batch (`change`) and captures the signals that the losses need;
    `last_batch` is the augmented batch and `labels_valid` whether its labels are valid. In eval mode it is the student
    alone.

    Args:
        student: the model to be saved.
        objective: its learned projections are trained too.
        change: draws from torch's global generator, whose state checkpoints hold.
        teacher: trained together with the student (mutual learning); None: no teacher is trained.
        decay: of the moving average of the student, `moving_average`; None: no average.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        *,
        augment: Augmentation | None = None,
        teacher: nn.Module | None = None,
        decay: float | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.teacher = teacher
        self.moving_average = None if decay is None else copy.deepcopy(student).requires_grad_(False)
        self.last_batch: dict[str, Tensor] = {}
        self.labels_valid = True
        self._augment = augment
        self._decay = decay
        self._captured: Signals | None = None
        # Built once: finding the layers of a model takes longer than registering hooks.
        self._recorder = Recorder(student, objective.student_needs)

    def forward(self, **batch: Tensor) -> Any:
        """Return the student's result for a batch."""
        if not self.training:
            return self.student(**model_inputs(batch))
        self.labels_valid = True
        if self._augment is not None:
            batch, self.labels_valid = self._augment(batch)
        self.last_batch = batch
        with self._recorder as recorder:
            result = self.student(**model_inputs(batch))
            self._captured = recorder.take()
        return result

    def after_step(self) -> None:
        """Update the moving average, once per step."""
        if self.moving_average is not None and self._decay is not None:
            update_average(self.moving_average, self.student, self._decay)

    def take(self) -> Signals:
        """Return and release the student's signals of the last training forward pass."""
        if self._captured is None:
            raise PassError("the student's signals were taken before it was run")
        signals, self._captured = self._captured, None
        return signals


@torch.no_grad()
def update_average(average: nn.Module, student: nn.Module, decay: float) -> None:
    """Update an exponential moving average of a student's weights: `decay * average + (1 - decay) * student`.

    Tied weights are updated once; integers are copied.
    Tarvainen, Valpola: Mean teachers are better role models, 2017 (arXiv:1703.01780).
    """
    states = (model.state_dict(keep_vars=True).values() for model in (average, student))
    weights = ({id(weight): weight for weight in state}.values() for state in states)
    for average_weight, student_weight in zip(*weights, strict=True):
        if average_weight.is_floating_point():
            average_weight.lerp_(student_weight.detach().to(average_weight.dtype), 1.0 - decay)
        else:
            average_weight.copy_(student_weight)
