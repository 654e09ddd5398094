"""Models whose inputs and outputs are called, typed or ordered otherwise than the task's: the mapping between the two.

It stands in the `interface` section of a model's `task.json`; models that this package made have none.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.artifacts import TASK
from compress.core.disk.reading import read_mapping
from compress.core.errors import ModelError
from compress.encoding.inputs import Batch, Inputs
from compress.encoding.tokens import INPUT_IDS, TokenInputs

SECTION = "interface"
_CHANNELS_LAST = (0, 2, 3, 1)


@dataclass(frozen=True)
class OwnInput:
    """What a model calls one of the task's inputs, and the numpy dtype it wants; `channels_last` for images."""

    name: str
    dtype: str
    channels_last: bool = False


@dataclass(frozen=True)
class Interface:
    """How a model's inputs and outputs are mapped.

    `inputs`: the task's name of each input -> the model's. `output`: the name of the output that is read; None: the
    first one. `order`: for each label of the data, which output stands for it; None: no labels, or nobody said.
    `length`: the only number of tokens that the model takes; None: it takes any. `width`: how many labels the model
    knows; None: those of the data.
    """

    inputs: Mapping[str, OwnInput]
    output: str | None = None
    order: tuple[int, ...] | None = None
    length: int | None = None
    width: int | None = None

    @property
    def outputs(self) -> int | None:
        """How many numbers an example the model gives; None: nobody said."""
        return self.width if self.width is not None or self.order is None else len(self.order)

    def check_outputs(self, shape: Sequence[int]) -> None:
        """Refuse outputs (n, ...) that are not one row of numbers an example, or not one number a label.

        Axes of one number each count for none: (n, labels, 1, 1) is what a head of 1 x 1 convolutions gives.

        Raises:
            ModelError: they are.
        """
        wide = [size for size in shape[1:] if size != 1]
        if len(shape) != 2 and (len(shape) < 2 or len(wide) > 1):
            raise ModelError(
                f"the model's output has the shape {_shape(shape)}; expected one row of numbers per example",
                hint="`--output NAME` reads another output.",
                code="wrong-outputs",
            )
        numbers = math.prod(shape[1:])
        if self.order is not None and numbers != self.outputs:
            raise ModelError(
                f"the model's output has the shape n x {numbers}: {numbers} numbers per example "
                f"for {self.outputs} labels",
                hint="`--output NAME` reads another output, `--labels` names its numbers in order.",
                code="wrong-outputs",
            )

    def as_dict(self) -> dict[str, Any]:
        """The section as plain JSON values."""
        return {
            "inputs": {role: vars(own) for role, own in self.inputs.items()},
            "output": self.output,
            "order": None if self.order is None else list(self.order),
            "length": self.length,
            "width": self.width,
        }

    @classmethod
    def of(cls, task: Mapping[str, Any]) -> Interface | None:
        """The section of a parsed `task.json`; None where it has none."""
        section = task.get(SECTION)
        if section is None:
            return None
        order = section["order"]
        return cls(
            {role: OwnInput(**own) for role, own in section["inputs"].items()},
            section["output"],
            None if order is None else tuple(order),
            section.get("length"),
            section.get("width"),
        )


@dataclass(frozen=True, eq=False)
class OwnInputs:
    """Encoded examples under the names and in the dtypes of one model, padded to its `length` where it has one."""

    whole: Inputs
    own: Mapping[str, OwnInput]
    length: int | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Cost of each example."""
        if self.length is None:
            return self.whole.lengths
        return np.full(len(self.whole), self.length, np.int64)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs of the model, by its own names."""
        return tuple(self.own[role].name for role in self.whole.input_names)

    def __len__(self) -> int:
        return len(self.whole)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The examples at `indices`, as the model takes them."""
        return {
            self.own[role].name: _as_wanted(self._padded(role, values), self.own[role])
            for role, values in self.whole.batch(indices).items()
        }

    def digest(self) -> str:
        """sha256 over all that the model is given."""
        return hashlib.sha256(f"{self.whole.digest()} {dict(self.own)} {self.length}".encode()).hexdigest()

    def _padded(self, role: str, values: NDArray[Any]) -> NDArray[Any]:
        """int64 (n, longest) -> (n, length): padding ids behind the tokens, 0 in the mask and the token types."""
        if self.length is None:
            return values
        assert isinstance(self.whole, TokenInputs)
        filler = self.whole.pad_id if role == INPUT_IDS else 0
        return np.pad(values, ((0, 0), (0, self.length - values.shape[1])), constant_values=filler)


def as_taken(inputs: Inputs, model: Path) -> Inputs:
    """Encoded examples as the model of the directory `model` takes them: under the names that it has for them."""
    interface = Interface.of(read_mapping(model / TASK))
    return inputs if interface is None else OwnInputs(inputs, interface.inputs, interface.length)


def _as_wanted(values: NDArray[Any], own: OwnInput) -> NDArray[Any]:
    turned = values.transpose(_CHANNELS_LAST) if own.channels_last else values
    return np.ascontiguousarray(turned, np.dtype(own.dtype))


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(("n", *map(str, shape[1:])))
