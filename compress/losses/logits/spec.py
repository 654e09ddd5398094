"""The teacher's predictions."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from compress.core.task_kind import TaskKind
from compress.losses.contract import Divergence, Lesson, LossKind, LossSpec

_MIXES: dict[Divergence, float] = {"jsd": 0.5, "skew": 0.1, "skew_reverse": 0.1}


class LogitsLoss(LossSpec):
    """Divergence from the teacher's softened probabilities, times T^2 (Hinton et al. 2015)."""

    softens: ClassVar[bool] = True

    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Divides the logits of both models before the softmax."""
    divergence: Divergence = "forward"
    """`forward`: KL(teacher || student), which covers all that the teacher holds possible; `reverse`: KL(student ||
    teacher), which keeps to what it holds likely (MiniLLM 2023); `jsd`: between both (GKD 2023); `skew` and
    `skew_reverse`: against a mixture with the other, so that gradients stay bounded (DistiLLM 2024)."""
    mix: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of `jsd` the weight of the teacher, 0.5 where unset; of `skew` and `skew_reverse` the share of the one in the
    mixture, 0.1 where unset."""
    top_k: Annotated[int, Field(ge=1)] | Literal["all"] | None = None
    """Of a teacher that foretells words: so many of the likeliest at each token are kept, and the mass of the rest;
    unset: 64 of more than 1,024 words, else all."""
    hard: bool = False
    """Cross-entropy with the teacher's most probable class instead (Touvron et al. 2021, DeiT)."""
    standardize: bool = False
    """z-score the logits of both models before the temperature (Sun et al. 2024)."""

    @model_validator(mode="after")
    def _goes_together(self) -> LogitsLoss:
        if self.hard and self.divergence != "forward":
            raise ValueError(
                "`hard` learns one class alone, so there is no `divergence`: leave one of them out"
            )
        if self.standardize and isinstance(self.top_k, int):
            raise ValueError("`standardize` needs all logits: leave it or `top_k` out")
        if self.mix is not None and self.divergence not in _MIXES:
            raise ValueError(f"`mix` belongs to {', '.join(_MIXES)}, not to `divergence: {self.divergence}`")
        return self

    @property
    def mixed(self) -> float:
        """The share of a mixture; of divergences without one any."""
        return self.mix if self.mix is not None else _MIXES.get(self.divergence, 0.5)

    @property
    def reaches_outputs(self) -> bool:
        """It compares them."""
        return True

    @property
    def reads_all(self) -> bool:
        """Whether no choice of words does."""
        return self.top_k == "all" or self.standardize

    def disappoints(self, task: TaskKind) -> str | None:
        """Where most of what the teacher says is lost."""
        if not task.writes or self.temperature <= 1 or self.reads_all:
            return None
        return (
            "softened by a `temperature` above 1, most of what a language model holds possible lies outside its "
            "likeliest words, which are all that is kept of a teacher: use `temperature: 1`, or `top_k: all`"
        )

    def fault(self, lesson: Lesson) -> str | None:
        """Why it cannot be used there; None where it can."""
        if not lesson.logits:
            return lesson.no_logits
        if self.top_k is not None and not lesson.task.writes:
            return "`top_k` chooses among the words of a language model; other outputs are kept whole: leave it out"
        return None


LOGITS = LossKind(
    LogitsLoss,
    "compress.losses.logits.term:LogitsTerm",
    recovers=lambda lesson, temperature: LogitsLoss(temperature=temperature) if lesson.logits else None,
)
