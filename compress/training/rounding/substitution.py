"""A model run on other weights than its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def run_on(model: nn.Module, weights: Mapping[str, Tensor], batch: Mapping[str, Any]) -> Any:
    """What a model gives for a batch, some of its parameters replaced by others, by name, and by all their names.

    torch ties names itself, but where they are those of one module, as of a factor that several maps share, it leaves
    the replacement behind as if it had been there before.
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
