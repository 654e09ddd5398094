"""Loss on the teacher's predictions."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from compress.core.task_kind import TaskKind
from compress.losses.contract import Divergence, LossContext, LossKind, LossSpec

_DEFAULT_MIX: dict[Divergence, float] = {"jsd": 0.5, "skew": 0.1, "skew_reverse": 0.1}


class LogitsLoss(LossSpec):
    """Divergence from the teacher's softened probabilities, times T^2 (Hinton et al. 2015)."""

    uses_soft_targets: ClassVar[bool] = True

    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Divides the logits of both models before the softmax. For language models use 1, or `top_k: all`."""
    divergence: Divergence = "forward"
    """`forward`: KL(teacher || student), which covers all that the teacher considers possible; `reverse`: KL(student ||
    teacher), which concentrates on what it considers likely (MiniLLM 2023); `jsd`: generalized Jensen-Shannon
    divergence, between the two (GKD 2023); `skew` and `skew_reverse`: forward and reverse KL against a mixture of both
    models, so that gradients stay bounded (DistiLLM 2024)."""
    mix: Annotated[float, Field(gt=0, lt=1)] | None = None
    """`jsd`: weight of the teacher (unset: 0.5). `skew`: share of the teacher in the mixture, `skew_reverse`: share of
    the student in it (unset: 0.1)."""
    top_k: Annotated[int, Field(ge=1)] | Literal["all"] | None = None
    """Language models only: keep this many of the teacher's most likely tokens at each position, and the total
    probability of the others; unset: 64 if the vocabulary has more than 1,024 tokens, else all."""
    hard: bool = False
    """Cross-entropy with the teacher's most probable class instead (DeiT, Touvron et al. 2021). Excludes
    `divergence`."""
    standardize: bool = False
    """z-score the logits of both models before the temperature (Sun et al. 2024). Excludes a number as `top_k`."""

    @model_validator(mode="after")
    def _goes_together(self) -> LogitsLoss:
        if self.hard and self.divergence != "forward":
            raise ValueError(
                "`hard` learns a single class, so `divergence` does not apply: leave one of them out"
            )
        if self.standardize and isinstance(self.top_k, int):
            raise ValueError("`standardize` needs all logits: leave it or `top_k` out")
        if self.mix is not None and self.divergence not in _DEFAULT_MIX:
            raise ValueError(
                f"`mix` belongs to {', '.join(_DEFAULT_MIX)}, not to `divergence: {self.divergence}`"
            )
        return self

    @property
    def mix_weight(self) -> float:
        """The mixing weight; arbitrary for divergences without one."""
        return self.mix if self.mix is not None else _DEFAULT_MIX.get(self.divergence, 0.5)

    @property
    def reaches_outputs(self) -> bool:
        """Whether the loss acts on the student's outputs."""
        return True

    @property
    def needs_all_logits(self) -> bool:
        """Whether the loss needs the teacher's logits of the whole vocabulary."""
        return self.top_k == "all" or self.standardize

    def likely_problem(self, task: TaskKind) -> str | None:
        """Return a warning if most of the teacher's probability mass would be dropped."""
        if not task.generates or self.temperature <= 1 or self.needs_all_logits:
            return None
        return (
            "with a `temperature` above 1, most of a language model's probability lies outside its most likely tokens, "
            "the only ones kept of a teacher: use `temperature: 1`, or `top_k: all`"
        )

    def fault(self, context: LossContext) -> str | None:
        """Return why the loss cannot be used for this lesson; None if it can, as far as the profile determines."""
        if not context.has_logits:
            return context.why_no_logits
        if self.top_k is not None and not context.task.generates:
            return "`top_k` is for the tokens of a language model; other outputs are kept whole: leave it out"
        return None


LOGITS = LossKind(
    LogitsLoss,
    "compress.losses.logits.term:LogitsTerm",
    recovery_default=lambda lesson, temperature: (
        LogitsLoss(temperature=temperature) if lesson.has_logits else None
    ),
)
