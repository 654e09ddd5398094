"""How linear maps and convolutions are factored."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from compress.core.forms import Form, Framework, Numbers, Structure
from compress.core.numerics import Precision
from compress.core.spec import Fraction, Positive, one_of
from compress.passes.contract import PassSpec
from compress.profile.specs.recovery import RecoverySpec


class LowRankSpec(PassSpec):
    """Replace linear maps and convolutions by products of two smaller ones (SVD), then recover by training. A map whose
    factors would multiply no less than it does keeps its weight."""

    kind: ClassVar[str] = "low_rank"
    accepts: ClassVar[str] = "a float torch model"

    model_config = one_of("ratio", "energy", "max_drop")

    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of the multiplications of each map removed."""
    energy: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of each map's output that the kept directions carry, in squares, at least."""
    max_drop: Fraction | None = None
    """Keep the fewest directions whose loss of validation score, before recovery, is at most this (0.01: one point; of
    a language model one percent of its retention); the same energy for all maps."""
    weighted: bool = True
    """Weigh the directions by what the maps read on training examples; `false`: plain SVD of the weights."""
    examples: Positive = 256
    """Training examples that are looked at for the weighting; of a language model, windows."""
    exclude: tuple[str, ...] = ()
    """Names of modules that keep their weight (shell patterns)."""
    round_to: Positive = 8
    """Ranks are rounded to a multiple of this."""
    recover: RecoverySpec | None = RecoverySpec()
    """Training after factoring; `null`: none."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seeds which examples are looked at and the order of the recovery's batches; unset: the profile's, which seeds
    teachers and splits too."""

    @model_validator(mode="after")
    def _one_rule(self) -> LowRankSpec:
        if sum(value is not None for value in (self.ratio, self.energy, self.max_drop)) != 1:
            raise ValueError("name one of ratio, energy and max_drop: it decides the ranks")
        return self

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        unfactored = form.structure is not Structure.FACTORED
        return form.framework is Framework.TORCH and form.numbers is Numbers.FLOAT and unfactored

    def asked_precision(self) -> Precision:
        """That of the recovery."""
        return self.recover.precision if self.recover is not None else "auto"

    def produces(self, form: Form) -> Form:
        """The form of the result."""
        return form.with_(structure=Structure.FACTORED)
