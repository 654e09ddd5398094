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
class Place:
    """A layer of the graph and the names of the parameters that make up its weight.

    `reads`: the modules that receive the layer's input, empty if a module multiplies it by parameters of its own;
    `norm`: the BatchNorm folded into the weight.
    """

    layer: Layer
    parameters: tuple[str, ...]
    reads: tuple[str, ...]
    norm: str | None = None


@dataclass
class ForwardTrace:
    """Trace of a forward pass.

    `called`: modules that got a tensor; `norms`: the BatchNorm that reads each module's output; `made`: operations'
    outputs.
    """

    called: set[str] = field(default_factory=set)
    norms: dict[str, str] = field(default_factory=dict)
    made: list[tuple[Operation, Floats]] = field(default_factory=list)

    def maker(self, wanted: Floats) -> Operation | None:
        """Return the first operation that produced a value; None if there is none."""
        near = 1e-4 * float(np.abs(wanted).max(initial=0.0))
        for operation, made in self.made:
            if made.shape == wanted.shape and np.allclose(made, wanted, rtol=0, atol=near):
                return operation
        return None


def places_of(model: nn.Module, found: Sequence[Layer], seen: ForwardTrace) -> list[Place | None]:
    """Return the match of each layer; None for a layer whose weight is not made of the model's parameters.

    Args:
        model: float32, on the CPU, in eval mode.
        found: the layers of the graph that it was lowered to, in graph order.
    """
    search = _Search(model, seen)
    return [search.place(layer) for layer in found]


def watch(model: nn.Module, batch: Mapping[str, Tensor]) -> ForwardTrace:
    """Run a model on a batch, and record its modules' inputs and outputs and its operations' outputs."""
    seen = ForwardTrace()
    makers: dict[int, str] = {}
    kept: list[Tensor] = []  # keeps tensors alive, so that their ids are not reused

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, reads: tuple[Any, ...], gives: Any) -> None:
            if not reads or not isinstance(reads[0], Tensor) or not isinstance(gives, Tensor):
                return
            seen.called.add(name)
            if isinstance(module, _BatchNorm) and id(reads[0]) in makers:
                seen.norms[makers[id(reads[0])]] = name
            # A container returns the output of its last part, and its hook runs later.
            makers.setdefault(id(gives), name)
            kept.extend((reads[0], gives))

        return hook

    def keep(operation: Operation, made: Tensor) -> Tensor:
        if made.is_floating_point() and made.ndim > 1:
            # A copy, as later operations may write into it.
            seen.made.append((operation, made.detach().clone().numpy()))
        return made

    hooks = (module.register_forward_hook(note(name)) for name, module in model.named_modules() if name)
    with removing_hooks(hooks), torch.no_grad(), InterceptedOperations(keep):
        model(**batch)
    return seen


def tokens_read(graph: ir.Graph) -> dict[ir.Node, tuple[int, ...]]:
    """Return the nodes after an early token selection, with the selected token positions."""
    after: dict[ir.Value, tuple[int, ...]] = {}
    found: dict[ir.Node, tuple[int, ...]] = {}
    for node in graph:
        chosen = next((after[value] for value in node.inputs if value in after), None)
        if chosen is None and node.op_type == "Gather" and (node.name or "").endswith(".selected"):
            chosen = tuple(int(index) for index in np.atleast_1d(np.asarray(constant(node.inputs[1]))))
        if chosen is not None:
            found[node] = chosen
            after.update(dict.fromkeys(node.outputs, chosen))
    return found


class _Search:
    """Finds parameters by value; of several equal ones each is used once, in model order."""

    def __init__(self, model: nn.Module, seen: ForwardTrace) -> None:
        self.seen = seen
        self.norms = {
            maker: (norm, _factors(model.get_submodule(norm))) for maker, norm in seen.norms.items()
        }
        self.parameters: dict[str, Floats] = {
            name: parameter.detach().numpy()
            for name, parameter in model.named_parameters()
            if parameter.ndim > 1
        }
        self.taken: set[str] = set()

    def place(self, layer: Layer) -> Place | None:
        """Return the match of a layer; None if its weight is not made of parameters."""
        if isinstance(layer, Table):
            found = [self._holding(layer.weight)]
        elif isinstance(layer, FusedAttention):
            weight = layer.weight
            widths = attribute(layer.node, "qkv_hidden_sizes", None) or [weight.shape[1] // 3] * 3
            parts = np.split(weight, np.cumsum(widths)[:-1], axis=1)
            found = [self._holding(np.ascontiguousarray(part.T)) for part in parts]
        else:
            weight = layer.weight
            found = [self._holding(weight if isinstance(layer, Convolution) else weight.T)]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        owners = dict.fromkeys(name.rpartition(".")[0] for name, _ in known)
        reads = tuple(owner for owner in owners if owner in self.seen.called and not isinstance(layer, Table))
        return Place(layer, tuple(name for name, _ in known), reads, known[0][1])

    def _holding(self, wanted: Floats) -> tuple[str, str | None] | None:
        """Return the parameter that equals a weight (outputs, ...), as it is or with a norm folded in, and the norm."""
        rows = wanted.reshape(len(wanted), -1)
        matching: list[tuple[str, str | None]] = []
        for name, held in self.parameters.items():
            if held.size != wanted.size or len(held) != len(wanted):
                continue
            norm, factors = self.norms.get(name.rpartition(".")[0], (None, None))
            flat = held.reshape(len(held), -1)
            if np.array_equal(flat, rows):
                matching.append((name, None))
            elif factors is not None and np.allclose(flat * factors[:, None], rows, rtol=1e-4, atol=1e-7):
                matching.append((name, norm))
        free = [one for one in matching if one[0] not in self.taken]
        if not matching:
            return None
        chosen = (free or matching)[0]
        self.taken.add(chosen[0])
        return chosen


def _factors(norm: nn.Module) -> Floats:
    assert isinstance(norm, _BatchNorm)
    return np.asarray(folding_factors(norm).numpy(), np.float32)
