"""Match rows of a graph's weights with rows of the torch parameters, through concatenation and transposition."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from torch import nn
from transformers.pytorch_utils import Conv1D

from compress.core.errors import ModelError
from compress.passes.quantize.layers import Convolution, Table, layers


class Row(NamedTuple):
    """Row `number` of a parameter (a kernel flattened), or its column if `turned`."""

    parameter: str
    number: int
    turned: bool


def rows_of(model: nn.Module, graph: ir.Graph) -> dict[str, list[Row]]:
    """Return the source rows of each layer's weight by node name: one row per output, or per token of a table.

    Rows are matched by value, equal ones in their order.

    Args:
        model: float32, on the CPU.
        graph: the graph that it was lowered to.

    Raises:
        ModelError: a row is not found in any parameter.
    """
    known: dict[bytes, list[Row]] = {}
    for owner, module in model.named_modules():
        for name, parameter in module.named_parameters(owner, recurse=False):
            if parameter.ndim > 1:
                held, turned = parameter.detach().flatten(1).numpy(), isinstance(module, Conv1D)
                for number, row in enumerate(np.ascontiguousarray(held.T if turned else held)):
                    known.setdefault(row.tobytes(), []).append(Row(name, number, turned))
    found = {}
    for layer in layers(graph):
        if isinstance(layer, Convolution):
            continue
        weight = layer.weight if isinstance(layer, Table) else layer.weight.T
        alike = [known.get(row.tobytes(), []) for row in np.ascontiguousarray(weight)]
        if not all(alike):
            raise ModelError(
                f"the weight of {layer.node.name} in the file does not match the torch model's, so its scales cannot "
                "be trained there",
                where="quantize.train",
                hint="Leave `train` out.",
            )
        # The last candidate stays: an embedding table may be the head too.
        found[layer.node.name or ""] = [rows.pop(0) if len(rows) > 1 else rows[0] for rows in alike]
    return found
