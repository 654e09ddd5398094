"""The contract of a loss: a spec, which defines what is compared and where, and the term that computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from compress.core.spec import PassSpecBase
from compress.core.task_kind import TaskKind

Weight = Annotated[float, Field(gt=0)]
LayerNumber = Annotated[int, Field(ge=0)]
LayerMap = Annotated[
    Literal["uniform", "last"] | tuple[tuple[LayerNumber, LayerNumber], ...],
    Field(
        description="Which layer learns from which. `uniform`: evenly spaced, the last from the last; `last`: only the "
        "last from the last; or a list of pairs [student layer, teacher layer], 0 the lowest."
    ),
]
"""`uniform`: student layer i of m learns from layer (i + 1) * n / m - 1 of the teacher's n."""


Divergence = Literal["forward", "reverse", "jsd", "skew", "skew_reverse"]
"""Divergence of the student's probabilities from the teacher's."""


@dataclass(frozen=True)
class LossContext:
    """The setting in which a loss is used, as far as the profile determines it.

    `generated_images`: an image generator produces the examples.
    """

    task: TaskKind
    teachers: int = 1
    generated_images: bool = False

    @property
    def is_classifier(self) -> bool:
        """Whether the outputs are logits of the examples' labels."""
        return self.task.head == "classifier"

    @property
    def has_logits(self) -> bool:
        """Whether the outputs are logits along their last axis, of labels or of something else."""
        return self.task.logits

    @property
    def one_row_per_example(self) -> bool:
        """Whether the outputs are one vector per example."""
        return self.task.head != "own"

    @property
    def input_kind(self) -> str:
        """Type of the model inputs: `texts` or `images`."""
        return f"{self.task.items}s"

    @property
    def why_no_logits(self) -> str:
        """The reason why a loss on logits or labels cannot be used without them."""
        if self.one_row_per_example:
            return (
                "embeddings are not logits and have no labels: use output, similarity, hidden or contrastive"
            )
        label_loss = self.task.label_loss
        return f"{self.task.name} has no such outputs" + ("" if label_loss is None else f": use {label_loss}")


class LossSpec(PassSpecBase):
    """A loss with its weight; a word alone stands for its `short` key: `hidden: cosine`."""

    short: ClassVar[str | None] = None
    needs_teacher: ClassVar[bool] = True
    """Whether the loss needs a teacher."""
    uses_soft_targets: ClassVar[bool] = False
    """Whether the loss uses the relative probabilities of wrong classes, which label smoothing destroys."""

    weight: Weight = 1.0
    """Weight of this loss in the sum."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {cls.short: value} if cls.short is not None and isinstance(value, str) else value

    @property
    def reaches_outputs(self) -> bool:
        """Whether the loss acts on the student's outputs, so that the validation score reflects its progress."""
        return False

    @property
    def uses_labels(self) -> bool:
        """Whether the loss uses the true labels."""
        return self.reaches_outputs and not self.needs_teacher

    @property
    def needs_all_logits(self) -> bool:
        """Whether the loss needs all of a teacher's outputs, too many to cache for every token of a text."""
        return False

    @property
    def compares_internals(self) -> bool:
        """Whether the loss compares hidden states, and so needs a single teacher with the same tokens."""
        return self.needs_teacher and not self.reaches_outputs

    @property
    def needs(self) -> Literal["layers", "attention", "convolutions"] | None:
        """The part of both models that the loss compares, if not every family has it."""
        return None

    def likely_problem(self, task: TaskKind) -> str | None:
        """Return why the loss is likely to work badly on this task; None if there is no known reason."""
        return None

    def fault(self, context: LossContext) -> str | None:
        """Return why the loss cannot be used for this lesson; None if it can, as far as the profile determines."""
        if context.teachers > 1 and self.compares_internals:
            return "several teachers can be averaged in their outputs only, not in their layers"
        if context.generated_images:
            return "with generated images only `logits` can be used"
        return None


@dataclass(frozen=True)
class LossKind:
    """A loss: its spec, and the `module:function` that builds its term from a spec and the models.

    `recovery_default`: default recovery loss of this kind, from the lesson and the temperature of logits, used where
    the profile names no losses; None: another kind provides it.
    """

    spec: type[LossSpec]
    term: str
    recovery_default: Callable[[LossContext, float], LossSpec | None] = lambda lesson, temperature: None
