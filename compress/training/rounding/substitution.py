"""Run a model with substituted weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def run_with_weights(model: nn.Module, weights: Mapping[str, Tensor], batch: Mapping[str, Any]) -> Any:
    """Run a model on a batch with some parameters replaced, by name; tied ones are replaced under all names.

    torch can replace tied parameters itself, but if they belong to one module, such as a factor that several
    layers share, it leaves the replacement in place afterwards.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    replacements = {id(parameters[name]): weight for name, weight in weights.items()}
    owners: dict[tuple[nn.Module, str], str] = {}
    for name, parameter in parameters.items():
        if id(parameter) in replacements:
            owner, _, attribute = name.rpartition(".")
            owners.setdefault((model.get_submodule(owner), attribute), name)
    substitutes = {name: replacements[id(parameters[name])] for name in owners.values()}
    return functional_call(model, substitutes, (), dict(batch), tie_weights=False)
