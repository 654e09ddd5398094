"""How weights are clustered."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from compress.core.forms import Form, Framework, NumberFormat
from compress.core.numerics import Precision
from compress.passes.contract import PassSpec
from compress.profile.specs.recovery import RecoverySpec


class ClusterSpec(PassSpec):
    """Let the weights of each linear map share a few values (Han et al. 2016, Deep Compression)."""

    kind: ClassVar[str] = "cluster"
    accepts: ClassVar[str] = "a float torch model"

    values: Annotated[int, Field(ge=2, le=256)] = 16
    """How many values a map's weights may take."""
    recover: RecoverySpec | None = None
    """Training after a first clustering; the weights are clustered again after it."""

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        return form.framework is Framework.TORCH and form.numbers is NumberFormat.FLOAT

    def produces(self, form: Form) -> Form:
        """The form of the result: the same, with other weights."""
        return form

    def training_precision(self) -> Precision:
        """That of the recovery."""
        return self.recover.precision if self.recover is not None else "auto"
