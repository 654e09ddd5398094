"""What a model is at a point of a pipeline: its framework, its structure, its number format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any


class Framework(StrEnum):
    """What loads the model; texts that one wrote are none."""

    TORCH = "torch"
    ONNX = "onnx"
    TEXTS = "texts"


class Structure(StrEnum):
    """Whether the shapes follow from the config alone (regular), differ by layer (pruned), or belong to products of two
    maps where the config says one (factored, whatever else was pruned)."""

    REGULAR = "regular"
    PRUNED = "pruned"
    FACTORED = "factored"


class Numbers(StrEnum):
    """How the weights and the arithmetic are stored."""

    FLOAT = "float"
    QDQ = "qdq"
    OPERATOR = "operator"
    WEIGHT_ONLY = "weight_only"
    HALF = "half"
    BITSANDBYTES = "bitsandbytes"


@dataclass(frozen=True)
class Form:
    """The form of a model. `bundled` is true once it is packaged for deployment; nothing follows that."""

    framework: Framework
    structure: Structure = Structure.REGULAR
    numbers: Numbers = Numbers.FLOAT
    bundled: bool = False

    def __str__(self) -> str:
        if self.framework is Framework.TEXTS:
            return self.framework.value
        words = [self.framework.value, self.numbers.value]
        if self.structure is not Structure.REGULAR:
            words.append(self.structure.value)
        if self.bundled:
            words.append("bundle")
        return " ".join(words)

    def with_(self, **changes: object) -> Form:
        """The same form with some of its fields replaced."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, str | bool]:
        """The form as plain JSON values."""
        return {
            "framework": self.framework.value,
            "structure": self.structure.value,
            "numbers": self.numbers.value,
            "bundled": self.bundled,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Form:
        """The form that `as_dict` gave."""
        return cls(
            Framework(values["framework"]),
            Structure(values["structure"]),
            Numbers(values["numbers"]),
            bool(values["bundled"]),
        )


TORCH_FLOAT = Form(Framework.TORCH)
ONNX_FLOAT = Form(Framework.ONNX)
TEXTS = Form(Framework.TEXTS)
