"""The contract of a loss: its spec, which says what it compares and where it fits, and what computes it."""

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
"""Of the student's probabilities from the teacher's."""


@dataclass(frozen=True)
class Lesson:
    """What a loss would work on, as far as a profile tells: the task, how many teachers there are, and whether a
    generator makes the examples."""

    task: TaskKind
    teachers: int = 1
    generated: bool = False

    @property
    def labelled(self) -> bool:
        """Whether outputs are the logits of labels that the examples have."""
        return self.task.head == "classifier"

    @property
    def logits(self) -> bool:
        """Whether outputs are logits along their last axis, of labels or of something else."""
        return self.task.logits

    @property
    def rows(self) -> bool:
        """Whether outputs are one row of numbers an example."""
        return self.task.head != "own"

    @property
    def reads(self) -> str:
        """What the models read: `texts` or `images`."""
        return f"{self.task.items}s"

    @property
    def no_logits(self) -> str:
        """Why a loss of logits or labels cannot be used where there are none."""
        if self.rows:
            return (
                "embeddings are not logits and have no labels: use output, similarity, hidden or contrastive"
            )
        alone = self.task.label_loss
        return f"{self.task.name} has no such outputs" + ("" if alone is None else f": use {alone}")


class LossSpec(PassSpecBase):
    """A loss with its weight; a word alone stands for its `short` key: `hidden: cosine`."""

    short: ClassVar[str | None] = None
    compares: ClassVar[bool] = True
    """Whether it compares with a teacher."""
    softens: ClassVar[bool] = False
    """Whether it learns how much likelier one wrong class is than another, which smoothed labels hide."""

    weight: Weight = 1.0
    """Weight of this loss in the sum."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {cls.short: value} if cls.short is not None and isinstance(value, str) else value

    @property
    def reaches_outputs(self) -> bool:
        """Whether it reaches the outputs of the student, so that its score says how far it has come."""
        return False

    @property
    def learns_labels(self) -> bool:
        """Whether the true labels teach it."""
        return self.reaches_outputs and not self.compares

    @property
    def reads_all(self) -> bool:
        """Whether it reads all that a teacher puts out, which of every token of a text is too much to keep."""
        return False

    @property
    def looks_inside(self) -> bool:
        """Whether it compares what lies inside the models, and so needs one teacher that reads the same tokens."""
        return self.compares and not self.reaches_outputs

    @property
    def needs(self) -> Literal["layers", "attention", "convolutions"] | None:
        """What of both models it compares, where not every family has it."""
        return None

    def disappoints(self, task: TaskKind) -> str | None:
        """Why it is likely to disappoint there; None where nothing speaks against it."""
        return None

    def fault(self, lesson: Lesson) -> str | None:
        """Why it cannot be used there; None where it can, as far as a profile tells."""
        if lesson.teachers > 1 and self.looks_inside:
            return "several teachers can be averaged in their outputs only, not in their layers"
        if lesson.generated:
            return "with generated images only `logits` can be used"
        return None


@dataclass(frozen=True)
class LossKind:
    """A loss: its spec, and the `module:function` that makes its term of a spec and the models.

    `recovers`: what of it brings a damaged model back to the outputs of its teacher where the profile names no losses,
    by the lesson and the temperature of logits; None: another does.
    """

    spec: type[LossSpec]
    term: str
    recovers: Callable[[Lesson, float], LossSpec | None] = lambda lesson, temperature: None
