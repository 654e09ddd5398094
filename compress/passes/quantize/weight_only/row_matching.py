"""Match rows of a graph's weights with rows of the torch parameters, through concatenation and transposition."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from torch import nn
from transformers.pytorch_utils import Conv1D

from compress.core.errors import ModelError
from compress.passes.quantize.layers import Convolution, Table, weighted_layers


class ParameterRow(NamedTuple):
    """Row `row_index` of a parameter (a kernel flattened), or its column if `transposed`."""

    parameter: str
    row_index: int
    transposed: bool


def match_rows(model: nn.Module, graph: ir.Graph) -> dict[str, list[ParameterRow]]:
    """Return the source rows of each layer's weight by node name: one row per output, or per token of a table.

    Rows are matched by value, equal ones in their order.

    Args:
        model: float32, on the CPU.
        graph: the graph that it was lowered to.

    Raises:
        ModelError: a row is not found in any parameter.
    """
    rows_by_value: dict[bytes, list[ParameterRow]] = {}
    for owner, module in model.named_modules():
        for name, parameter in module.named_parameters(owner, recurse=False):
            if parameter.ndim > 1:
                held, transposed = parameter.detach().flatten(1).numpy(), isinstance(module, Conv1D)
                for number, row in enumerate(np.ascontiguousarray(held.T if transposed else held)):
                    rows_by_value.setdefault(row.tobytes(), []).append(ParameterRow(name, number, transposed))
    matches = {}
    for layer in weighted_layers(graph):
        if isinstance(layer, Convolution):
            continue
        weight = layer.weight if isinstance(layer, Table) else layer.weight.T
        candidates = [rows_by_value.get(row.tobytes(), []) for row in np.ascontiguousarray(weight)]
        if not all(candidates):
            raise ModelError(
                f"the weight of {layer.node.name} in the file does not match the torch model's, so its scales cannot "
                "be trained there",
                where="quantize.train",
                hint="Leave `train` out.",
            )
        # The last candidate stays: an embedding table may be the head too.
        matches[layer.node.name or ""] = [rows.pop(0) if len(rows) > 1 else rows[0] for rows in candidates]
    return matches
