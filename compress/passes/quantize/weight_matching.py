"""Match the layers of a lowered graph with the torch model.

Finds the parameters behind each weight, the modules that read the layer's input, and the norm folded into the weight.

Parameters are matched by value, not by name, so that training rounds exactly what the file will store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.lowering.graph import attribute, constant
from compress.models.anatomy.observing import removing_hooks
from compress.passes.quantize.layers import Convolution, FusedAttention, Layer, Table
from compress.training.rounding.operations import InterceptedOperations, Operation
from compress.training.rounding.rounded_model import folding_factors

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LayerMatch:
    """A layer of the graph and the names of the parameters that make up its weight.

    `input_modules`: the modules that receive the layer's input, empty if a module multiplies it by parameters of its
    own; `norm`: the BatchNorm folded into the weight.
    """

    layer: Layer
    parameters: tuple[str, ...]
    input_modules: tuple[str, ...]
    norm: str | None = None


@dataclass
class ForwardTrace:
    """Trace of a forward pass.

    `called`: modules that got a tensor; `norms`: the BatchNorm that reads each module's output; `operation_outputs`:
    operations' outputs.
    """

    called: set[str] = field(default_factory=set)
    norms: dict[str, str] = field(default_factory=dict)
    operation_outputs: list[tuple[Operation, Floats]] = field(default_factory=list)

    def producer_of(self, target: Floats) -> Operation | None:
        """Return the first operation that produced a value; None if there is none."""
        tolerance = 1e-4 * float(np.abs(target).max(initial=0.0))
        for operation, made in self.operation_outputs:
            if made.shape == target.shape and np.allclose(made, target, rtol=0, atol=tolerance):
                return operation
        return None


def match_layers(model: nn.Module, layers: Sequence[Layer], trace: ForwardTrace) -> list[LayerMatch | None]:
    """Return the match of each layer; None for a layer whose weight is not made of the model's parameters.

    Args:
        model: float32, on the CPU, in eval mode.
        layers: the layers of the graph that it was lowered to, in graph order.
    """
    search = _ParameterSearch(model, trace)
    return [search.match_layer(layer) for layer in layers]


def trace_forward(model: nn.Module, batch: Mapping[str, Tensor]) -> ForwardTrace:
    """Run a model on a batch, and record its modules' inputs and outputs and its operations' outputs."""
    trace = ForwardTrace()
    module_of_output: dict[int, str] = {}
    alive: list[Tensor] = []  # keeps tensors alive, so that their ids are not reused

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not inputs or not isinstance(inputs[0], Tensor) or not isinstance(output, Tensor):
                return
            trace.called.add(name)
            if isinstance(module, _BatchNorm) and id(inputs[0]) in module_of_output:
                trace.norms[module_of_output[id(inputs[0])]] = name
            # A container returns the output of its last part, and its hook runs later.
            module_of_output.setdefault(id(output), name)
            alive.extend((inputs[0], output))

        return hook

    def keep(operation: Operation, output: Tensor) -> Tensor:
        if output.is_floating_point() and output.ndim > 1:
            # A copy, as later operations may write into it.
            trace.operation_outputs.append((operation, output.detach().clone().numpy()))
        return output

    hooks = (module.register_forward_hook(note(name)) for name, module in model.named_modules() if name)
    with removing_hooks(hooks), torch.no_grad(), InterceptedOperations(keep):
        model(**batch)
    return trace


def selected_tokens(graph: ir.Graph) -> dict[ir.Node, tuple[int, ...]]:
    """Return the nodes after an early token selection, with the selected token positions."""
    positions_of_value: dict[ir.Value, tuple[int, ...]] = {}
    positions_of_node: dict[ir.Node, tuple[int, ...]] = {}
    for node in graph:
        positions = next(
            (positions_of_value[value] for value in node.inputs if value in positions_of_value), None
        )
        if positions is None and node.op_type == "Gather" and (node.name or "").endswith(".selected"):
            positions = tuple(int(index) for index in np.atleast_1d(np.asarray(constant(node.inputs[1]))))
        if positions is not None:
            positions_of_node[node] = positions
            positions_of_value.update(dict.fromkeys(node.outputs, positions))
    return positions_of_node


class _ParameterSearch:
    """Finds parameters by value; of several equal ones each is used once, in model order."""

    def __init__(self, model: nn.Module, trace: ForwardTrace) -> None:
        self.trace = trace
        self.norms = {
            maker: (norm, _folding_factors(model.get_submodule(norm))) for maker, norm in trace.norms.items()
        }
        self.parameters: dict[str, Floats] = {
            name: parameter.detach().numpy()
            for name, parameter in model.named_parameters()
            if parameter.ndim > 1
        }
        self.used: set[str] = set()

    def match_layer(self, layer: Layer) -> LayerMatch | None:
        """Return the match of a layer; None if its weight is not made of parameters."""
        if isinstance(layer, Table):
            candidates = [self._find_parameter(layer.weight)]
        elif isinstance(layer, FusedAttention):
            weight = layer.weight
            widths = attribute(layer.node, "qkv_hidden_sizes", None) or [weight.shape[1] // 3] * 3
            parts = np.split(weight, np.cumsum(widths)[:-1], axis=1)
            candidates = [self._find_parameter(np.ascontiguousarray(part.T)) for part in parts]
        else:
            weight = layer.weight
            candidates = [self._find_parameter(weight if isinstance(layer, Convolution) else weight.T)]
        matched = [one for one in candidates if one is not None]
        if len(matched) < len(candidates):
            return None
        owners = dict.fromkeys(name.rpartition(".")[0] for name, _ in matched)
        reads = tuple(
            owner for owner in owners if owner in self.trace.called and not isinstance(layer, Table)
        )
        return LayerMatch(layer, tuple(name for name, _ in matched), reads, matched[0][1])

    def _find_parameter(self, weight: Floats) -> tuple[str, str | None] | None:
        """Return the parameter that equals a weight (outputs, ...), as it is or with a norm folded in, and the norm."""
        rows = weight.reshape(len(weight), -1)
        matching: list[tuple[str, str | None]] = []
        for name, parameter in self.parameters.items():
            if parameter.size != weight.size or len(parameter) != len(weight):
                continue
            norm, factors = self.norms.get(name.rpartition(".")[0], (None, None))
            flat = parameter.reshape(len(parameter), -1)
            if np.array_equal(flat, rows):
                matching.append((name, None))
            elif factors is not None and np.allclose(flat * factors[:, None], rows, rtol=1e-4, atol=1e-7):
                matching.append((name, norm))
        unused = [one for one in matching if one[0] not in self.used]
        if not matching:
            return None
        chosen = (unused or matching)[0]
        self.used.add(chosen[0])
        return chosen


def _folding_factors(norm: nn.Module) -> Floats:
    assert isinstance(norm, _BatchNorm)
    return np.asarray(folding_factors(norm).numpy(), np.float32)
