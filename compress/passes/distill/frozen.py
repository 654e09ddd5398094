"""Frozen teachers on fixed examples: their signals are computed once and cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.passes.distill.examples import EncodedExamples, TeacherRef
from compress.passes.distill.selection import trusted
from compress.profile.specs.teaching import SelectSpec
from compress.step import StepContext
from compress.tasks.base import Answers, Truth, answers_of
from compress.training.prediction import BATCH_SIZE
from compress.training.signals.averaging import Combine
from compress.training.signals.teachers import TeacherSource, averaged, signals_in, signals_of_mean

_NOTHING_INSIDE = frozenset[str]()


@dataclass(frozen=True)
class FrozenTeachers:
    """The teachers of a step with their weights, and all examples encoded for each of them."""

    ctx: StepContext
    teachers: Sequence[TeacherRef]
    shown: EncodedExamples
    combine: Combine

    def say(self, needs: frozenset[str]) -> TeacherSource:
        """Return the outputs and the named signals of all teachers as one."""
        if self.ctx.task.kind.writes and len(self.teachers) > 1:
            entries = [(teacher.artifact, teacher.weight) for teacher in self.teachers]
            return signals_of_mean(self.ctx, entries, self.combine, self.shown.teachers[0], needs)
        said = [(self._one(number, needs), teacher.weight) for number, teacher in enumerate(self.teachers)]
        return averaged(said, self.combine)

    def trusted(self, spec: SelectSpec | None) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """Return the indices of the examples that `spec` selects by the teachers, and the facts."""
        every = np.arange(len(self.shown.labels), dtype=np.int64)
        # For language models tokens are selected instead, batch by batch.
        if spec is None or self.ctx.task.kind.writes:
            return every, {}
        kept = trusted(np.asarray(self.say(_NOTHING_INSIDE).outputs), self.shown.labels, spec)
        return every[kept], {"kept": {"examples": int(kept.sum()), "of": len(every)}}

    def training_scores(self) -> list[float] | None:
        """Return each teacher's score on the training examples; None if those were not shown with their labels."""
        train = self.ctx.data.train
        task, count = self.ctx.task, len(train)
        # The full outputs of a language model on the training texts would fill the disk.
        if (
            task.kind.writes
            or task.kind.label_loss is None
            or self.shown.of_training < count
            or not len(task.scored(train))
        ):
            return None
        return [
            task.score(self._answers(number, count), Truth.of(train)).rank
            for number in range(len(self.teachers))
        ]

    def _answers(self, number: int, count: int) -> Answers:
        """Return what the task keeps of a teacher's outputs on the first `count` examples, batch by batch."""
        said, inputs = self._one(number, _NOTHING_INSIDE), self.shown.teachers[number]
        found = []
        for first in range(0, count, BATCH_SIZE):
            places = np.arange(first, min(first + BATCH_SIZE, count))
            outputs = said.take(places)["outputs"].cpu().numpy()
            found.append(answers_of(self.ctx.task, outputs, inputs.batch(places)))
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def _one(self, number: int, needs: frozenset[str]) -> TeacherSource:
        teacher = self.teachers[number]
        return signals_in(self.ctx, teacher.artifact, self.shown.teachers[number], needs, teacher.name)
