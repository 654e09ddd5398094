"""Frozen teachers on fixed examples: their signals are computed once and cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.passes.distill.examples import EncodedExamples, TeacherRef
from compress.passes.distill.selection import trusted_mask
from compress.profile.specs.teaching import SelectSpec
from compress.step import StepContext
from compress.tasks.base import Answers, Truth, answers_of
from compress.training.prediction import BATCH_SIZE
from compress.training.signals.averaging import Combine
from compress.training.signals.teachers import TeacherSource, combine_teachers, mean_signals, step_signals

_OUTPUTS_ONLY = frozenset[str]()


@dataclass(frozen=True)
class FrozenTeachers:
    """The teachers of a step with their weights, and all examples encoded for each of them."""

    ctx: StepContext
    teachers: Sequence[TeacherRef]
    encoded: EncodedExamples
    combine: Combine

    def signals(self, needs: frozenset[str]) -> TeacherSource:
        """Return the outputs and the named signals of all teachers as one."""
        if self.ctx.task.kind.generates and len(self.teachers) > 1:
            entries = [(teacher.artifact, teacher.weight) for teacher in self.teachers]
            return mean_signals(self.ctx, entries, self.combine, self.encoded.teachers[0], needs)
        sources = [
            (self._source_of(number, needs), teacher.weight) for number, teacher in enumerate(self.teachers)
        ]
        return combine_teachers(sources, self.combine)

    def select_examples(self, spec: SelectSpec | None) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """Return the indices of the examples that `spec` selects by the teachers, and the facts."""
        indices = np.arange(len(self.encoded.labels), dtype=np.int64)
        # For language models tokens are selected instead, batch by batch.
        if spec is None or self.ctx.task.kind.generates:
            return indices, {}
        mask = trusted_mask(np.asarray(self.signals(_OUTPUTS_ONLY).outputs), self.encoded.labels, spec)
        return indices[mask], {"kept": {"examples": int(mask.sum()), "of": len(indices)}}

    def training_scores(self) -> list[float] | None:
        """Return each teacher's score on the training examples; None if those were not shown with their labels."""
        train = self.ctx.data.train
        task, count = self.ctx.task, len(train)
        # The full outputs of a language model on the training texts would fill the disk.
        if (
            task.kind.generates
            or task.kind.label_loss is None
            or self.encoded.num_train < count
            or not len(task.scorable(train))
        ):
            return None
        return [
            task.score(self._task_outputs(number, count), Truth.of(train)).rank
            for number in range(len(self.teachers))
        ]

    def _task_outputs(self, number: int, count: int) -> Answers:
        """Return what the task keeps of a teacher's outputs on the first `count` examples, batch by batch."""
        source, inputs = self._source_of(number, _OUTPUTS_ONLY), self.encoded.teachers[number]
        batches = []
        for first in range(0, count, BATCH_SIZE):
            indices = np.arange(first, min(first + BATCH_SIZE, count))
            outputs = source.take(indices)["outputs"].cpu().numpy()
            batches.append(answers_of(self.ctx.task, outputs, inputs.batch(indices)))
        return {name: np.concatenate([one[name] for one in batches]) for name in batches[0]}

    def _source_of(self, number: int, needs: frozenset[str]) -> TeacherSource:
        teacher = self.teachers[number]
        return step_signals(self.ctx, teacher.artifact, self.encoded.teachers[number], needs, teacher.name)
