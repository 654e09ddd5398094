"""Run a model with substituted weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def run_on(model: nn.Module, weights: Mapping[str, Tensor], batch: Mapping[str, Any]) -> Any:
    """Run a model on a batch with some parameters replaced, by name; tied ones are replaced under all names.

    torch can replace tied parameters itself, but if they belong to one module, such as a factor that several
    layers share, it leaves the replacement in place afterwards.
    """
    held = dict(model.named_parameters(remove_duplicate=False))
    replaced = {id(held[name]): weight for name, weight in weights.items()}
    places: dict[tuple[nn.Module, str], str] = {}
    for name, parameter in held.items():
        if id(parameter) in replaced:
            owner, _, own = name.rpartition(".")
            places.setdefault((model.get_submodule(owner), own), name)
    found = {name: replaced[id(held[name])] for name in places.values()}
    return functional_call(model, found, (), dict(batch), tie_weights=False)
