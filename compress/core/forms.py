"""The form of a model at a point of the pipeline: framework, structure and number format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any


class Framework(StrEnum):
    """The framework that loads the model; `TEXTS` is for generated texts, which are not a model."""

    TORCH = "torch"
    ONNX = "onnx"
    TEXTS = "texts"


class Structure(StrEnum):
    """Layer shapes: as in the config (regular), differing by layer (pruned), or with some matrices replaced by products
    of two (factored, whether or not also pruned)."""

    REGULAR = "regular"
    PRUNED = "pruned"
    FACTORED = "factored"


class NumberFormat(StrEnum):
    """Number format of the weights and the arithmetic."""

    FLOAT = "float"
    QDQ = "qdq"
    OPERATOR = "operator"
    WEIGHT_ONLY = "weight_only"
    HALF = "half"
    BITSANDBYTES = "bitsandbytes"


@dataclass(frozen=True)
class Form:
    """The form of a model. `bundled` is true once it is packaged for deployment; no step may follow that."""

    framework: Framework
    structure: Structure = Structure.REGULAR
    numbers: NumberFormat = NumberFormat.FLOAT
    bundled: bool = False

    def __str__(self) -> str:
        if self.framework is Framework.TEXTS:
            return self.framework.value
        parts = [self.framework.value, self.numbers.value]
        if self.structure is not Structure.REGULAR:
            parts.append(self.structure.value)
        if self.bundled:
            parts.append("bundle")
        return " ".join(parts)

    def with_fields(self, **changes: object) -> Form:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, str | bool]:
        """Return the form as JSON values."""
        return {
            "framework": self.framework.value,
            "structure": self.structure.value,
            "numbers": self.numbers.value,
            "bundled": self.bundled,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Form:
        """Rebuild the form from the result of `as_dict`."""
        return cls(
            Framework(values["framework"]),
            Structure(values["structure"]),
            NumberFormat(values["numbers"]),
            bool(values["bundled"]),
        )


TORCH_FLOAT = Form(Framework.TORCH)
ONNX_FLOAT = Form(Framework.ONNX)
TEXTS = Form(Framework.TEXTS)
