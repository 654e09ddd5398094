"""Mapping between a task's inputs and outputs and those of a model with other names, dtypes or order.

It is stored in the `interface` section of the model's `task.json`; models created by this package have none.
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
class InputSpec:
    """The model's name and NumPy dtype of one of the task's inputs; `channels_last` for images."""

    name: str
    dtype: str
    channels_last: bool = False


@dataclass(frozen=True)
class Interface:
    """Mapping of a model's inputs and outputs.

    Attributes:
        inputs: the task's name of each input -> the model's.
        output: name of the output to read; None: the first one.
        order: for each label of the data, the index of its output; None: no labels, or unknown.
        length: the fixed number of tokens of the model; None: any number.
        width: the model's number of labels; None: that of the data.
    """

    inputs: Mapping[str, InputSpec]
    output: str | None = None
    order: tuple[int, ...] | None = None
    length: int | None = None
    width: int | None = None

    @property
    def num_outputs(self) -> int | None:
        """Number of values per example that the model outputs; None if unknown."""
        return self.width if self.width is not None or self.order is None else len(self.order)

    def check_outputs(self, shape: Sequence[int]) -> None:
        """Refuse outputs (n, ...) that are not one row of values per example or, given `order`, one value per label.

        Axes of size 1 are ignored: (n, labels, 1, 1) is the output of a head of 1 x 1 convolutions.

        Raises:
            ModelError: the shape is not supported.
        """
        non_unit_axes = [size for size in shape[1:] if size != 1]
        if len(shape) != 2 and (len(shape) < 2 or len(non_unit_axes) > 1):
            raise ModelError(
                f"the model's output has the shape {_shape_words(shape)}; expected one row of numbers per example",
                hint="`--output NAME` reads another output.",
                code="wrong-outputs",
            )
        row_size = math.prod(shape[1:])
        if self.order is not None and row_size != self.num_outputs:
            raise ModelError(
                f"the model's output has the shape n x {row_size}: {row_size} numbers per example "
                f"for {self.num_outputs} labels",
                hint="`--output NAME` reads another output, `--labels` names its numbers in order.",
                code="wrong-outputs",
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the section as plain JSON values."""
        return {
            "inputs": {role: vars(spec) for role, spec in self.inputs.items()},
            "output": self.output,
            "order": None if self.order is None else list(self.order),
            "length": self.length,
            "width": self.width,
        }

    @classmethod
    def of(cls, task: Mapping[str, Any]) -> Interface | None:
        """Return the interface in a parsed `task.json`; None if it has none."""
        section = task.get(SECTION)
        if section is None:
            return None
        order = section["order"]
        return cls(
            {role: InputSpec(**spec) for role, spec in section["inputs"].items()},
            section["output"],
            None if order is None else tuple(order),
            section.get("length"),
            section.get("width"),
        )


@dataclass(frozen=True, eq=False)
class MappedInputs:
    """Encoded examples with the names and dtypes of one model, padded to its `length` if it has one."""

    base: Inputs
    mapping: Mapping[str, InputSpec]
    length: int | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Cost of each example."""
        if self.length is None:
            return self.base.lengths
        return np.full(len(self.base), self.length, np.int64)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the model's inputs."""
        return tuple(self.mapping[role].name for role in self.base.input_names)

    def __len__(self) -> int:
        return len(self.base)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the examples at `indices`, as the model expects them."""
        return {
            self.mapping[role].name: _converted(self._padded(role, values), self.mapping[role])
            for role, values in self.base.batch(indices).items()
        }

    def digest(self) -> str:
        """Return the sha256 of everything that is fed to the model."""
        return hashlib.sha256(f"{self.base.digest()} {dict(self.mapping)} {self.length}".encode()).hexdigest()

    def _padded(self, role: str, values: NDArray[Any]) -> NDArray[Any]:
        """Pad int64 (n, longest) to (n, length): padding ids after the tokens, 0 in the mask and the token types."""
        if self.length is None:
            return values
        assert isinstance(self.base, TokenInputs)
        fill = self.base.pad_id if role == INPUT_IDS else 0
        return np.pad(values, ((0, 0), (0, self.length - values.shape[1])), constant_values=fill)


def as_model_inputs(inputs: Inputs, model: Path) -> Inputs:
    """Return the inputs with the names, dtypes and length that the model in the directory `model` expects."""
    interface = Interface.of(read_mapping(model / TASK))
    return inputs if interface is None else MappedInputs(inputs, interface.inputs, interface.length)


def _converted(values: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    laid_out = values.transpose(_CHANNELS_LAST) if spec.channels_last else values
    return np.ascontiguousarray(laid_out, np.dtype(spec.dtype))


def _shape_words(shape: Sequence[int]) -> str:
    return " x ".join(("n", *map(str, shape[1:])))
