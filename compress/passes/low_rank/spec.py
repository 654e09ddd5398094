"""Spec of the low-rank factorization pass."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from compress.core.forms import Form, Framework, NumberFormat, Structure
from compress.core.numerics import Precision
from compress.core.spec import Fraction, Positive, Seed, requires_one_of
from compress.passes.contract import PassSpec
from compress.profile.specs.recovery import RecoverySpec


class LowRankSpec(PassSpec):
    """Low-rank factorisation: replace linear layers and convolutions by products of two smaller ones (SVD), then
    recover by training. A layer whose factors would need no fewer multiplications stays as it is. Set exactly one of
    `ratio`, `energy`, `max_drop`."""

    kind: ClassVar[str] = "low_rank"
    accepts: ClassVar[str] = "a float torch model"

    model_config = requires_one_of("ratio", "energy", "max_drop")

    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of the multiplications of each layer to remove."""
    energy: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Minimum fraction of each layer's squared output that the kept directions carry."""
    max_drop: Fraction | None = None
    """Maximum drop of the validation score before recovery (0.01: one point; of language models one percent of
    retention): the lowest ranks that hold it are taken, with the same energy for all layers."""
    weighted: bool = True
    """Weight directions by the layer's inputs on training examples (DRONE, Chen et al. 2021; SVD-LLM, Wang et al.
    2024); `false`: plain SVD of the weights."""
    examples: Positive = 256
    """Number of training examples for the weighting; for language models, windows."""
    exclude: tuple[str, ...] = ()
    """Names of modules to leave as they are (shell patterns)."""
    round_to: Positive = 8
    """Ranks are rounded to a multiple of this."""
    recover: RecoverySpec | None = RecoverySpec()
    """Training after factoring; `null`: none."""
    seed: Seed | None = None
    """Seed of the examples for the weighting and of the order of batches in recovery; unset: the profile's, which also
    seeds teachers and splits."""

    @model_validator(mode="after")
    def _check_one_criterion(self) -> LowRankSpec:
        if sum(value is not None for value in (self.ratio, self.energy, self.max_drop)) != 1:
            raise ValueError("give exactly one of ratio, energy and max_drop: it determines the ranks")
        return self

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        unfactored = form.structure is not Structure.FACTORED
        return form.framework is Framework.TORCH and form.numbers is NumberFormat.FLOAT and unfactored

    def training_precision(self) -> Precision:
        """Precision of the recovery training."""
        return self.recover.precision if self.recover is not None else "auto"

    def produces(self, form: Form) -> Form:
        """Return the form of the output model."""
        return form.with_fields(structure=Structure.FACTORED)
