"""The layers of a loaded model, from the table of its family or else by inspecting its modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.factors import Factored, Map
from compress.models.anatomy.table.families import FAMILIES, families_that_can, network_of_kind
from compress.models.anatomy.table.family import Network

_PROJECTIONS = ("query", "key", "value")
HEADS = ("num_attention_heads", "num_heads", "n_heads")
"""Attribute names under which attention modules store their number of heads."""
HEAD_SIZE = ("attention_head_size", "head_dim")
"""Attribute names under which attention modules store the size of a head."""


@dataclass(frozen=True)
class Block:
    """A layer of a model, whose output is a hidden state.

    `attention` is the module that stores the head counts; `parts` maps those of `ROLES` that the layer has, or as
    many as were found, to their modules.
    """

    module: nn.Module
    attention: nn.Module
    parts: Mapping[str, nn.Module]

    @property
    def projections(self) -> tuple[Map, Map, Map] | None:
        """Query, key and value projections, weights as (out, in); None if they are not three separate layers."""
        query, key, value = (self.parts.get(role) for role in _PROJECTIONS)
        if (
            isinstance(query, nn.Linear | Factored)
            and isinstance(key, nn.Linear | Factored)
            and isinstance(value, nn.Linear | Factored)
        ):
            return query, key, value
        return None

    @property
    def head_size(self) -> int | None:
        """Dimensions of one head; None if they cannot be determined from the attention module."""
        for name in HEAD_SIZE:
            if isinstance(size := getattr(self.attention, name, None), int):
                return size
        if self.projections is not None:
            for name in HEADS:
                if isinstance(heads := getattr(self.attention, name, None), int):
                    return self.projections[0].out_features // heads
        return None


def transformer_of(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model that holds the config.

    It is the model itself, or the encoder inside a sentence encoder.

    Raises:
        ModelError: there is none.
    """
    if (inside := _transformer_in(model)) is not None:
        return inside
    raise ModelError(
        f"a {type(model).__name__} is not a transformer with a known layer structure",
        hint=f"Known families: {', '.join(families_that_can('take apart'))}.",
    )


def base_of(model: PreTrainedModel, network: Network) -> nn.Module:
    """Return the base model without its head: the inner module, or the model itself."""
    found: nn.Module = getattr(model, network.base, model)
    return found


def blocks_of(base: nn.Module, network: Network) -> tuple[Block, ...]:
    """Return the layers of a base model that have weights of their own, lowest first, as many as it has now.

    Raises:
        AttributeError: a part is not where the family's table puts it.
    """
    stack, own = (path.strip(".") for path in network.layer.split("{i}"))
    blocks = []
    for number, entry in enumerate(base.get_submodule(stack).children()):
        layer = entry.get_submodule(own)
        lacking = (*network.when, *(network.not_in_first if number == 0 else ()))
        parts = {
            role: found
            for role, path in network.inside.items()
            if (found := _submodule(layer, path, role in lacking)) is not None
        }
        blocks.append(Block(layer, layer.get_submodule(network.attention), parts))
    return tuple(blocks)


def layers_of(model: nn.Module) -> tuple[Block, ...]:
    """Return the layers of any model, lowest first.

    For a model that is not from transformers, or whose family is not in the table: the entries of the module list in
    which each entry has exactly one attention module and which together contain all of the model's.

    Empty if there is no such list (convolutional models, models with stages of different resolutions, several models
    in one module), or if the layers of the family cannot be compared.
    """
    if (inside := _transformer_in(model)) is not None:
        family = FAMILIES.get(str(inside.config.model_type))
        if family is not None and family.network is not None:
            if "compare" in family.cannot:
                return ()
            return blocks_of(base_of(inside, family.network), family.network)
    total = len(attentions_of(model))
    for stack in model.modules():
        if total and isinstance(stack, nn.ModuleList | nn.Sequential) and len(stack) == total:
            found = [attentions_of(layer) for layer in stack]
            if all(len(attentions) == 1 for attentions in found):
                return tuple(Block(layer, *one) for layer, (one,) in zip(stack, found, strict=True))
    return ()


def is_causal(model: nn.Module) -> bool:
    """Whether each token attends only to itself and earlier tokens, as far as the table knows the family."""
    inside = _transformer_in(model)
    network = None if inside is None else network_of_kind(str(inside.config.model_type))
    return network is not None and network.causal


def attentions_of(model: nn.Module) -> list[tuple[nn.Module, Mapping[str, nn.Module]]]:
    """Return every attention module in `model`, itself included, with the projections whose names the table knows."""
    found: list[tuple[nn.Module, Mapping[str, nn.Module]]] = []
    for module in model.modules():
        children = dict(module.named_children())
        for names in _SEPARATE:
            maps = {role: children.get(name) for role, name in zip(_PROJECTIONS, names, strict=True)}
            linear = {role: part for role, part in maps.items() if isinstance(part, nn.Linear)}
            if len(linear) == len(maps):
                found.append((module, linear))
        if isinstance(module, nn.MultiheadAttention) or any(name in children for name in _FUSED):
            found.append((module, {}))
    return found


def heads_of(layers: tuple[Block, ...]) -> tuple[tuple[int, ...], int | None]:
    """Return the heads of each layer and the head size; `((), None)` if queries and keys cannot be captured."""
    sizes = {layer.head_size for layer in layers}
    size = sizes.pop() if len(sizes) == 1 else None
    queries = [layer.projections[0] for layer in layers if layer.projections is not None]
    if size is None or len(queries) != len(layers):
        return (), None
    return tuple(query.out_features // size for query in queries), size


def _transformer_in(model: nn.Module) -> PreTrainedModel | None:
    inside = model if isinstance(model, PreTrainedModel) else getattr(model, "encoder", None)
    return inside if isinstance(inside, PreTrainedModel) else None


def _names(*roles: str) -> list[tuple[str, ...]]:
    """Return the distinct attribute names that the families of the table use for these parts of attention."""
    networks = [family.network for family in FAMILIES.values() if family.network is not None]
    found = [
        tuple(network.inside[role].rpartition(".")[2] for role in roles)
        for network in networks
        if network.inside.keys() >= set(roles)
    ]
    return list(dict.fromkeys(found))


_SEPARATE = _names(*_PROJECTIONS)
_FUSED = [*(name for (name,) in _names("qkv")), "qkv"]


def _submodule(layer: nn.Module, path: str, may_lack: bool) -> nn.Module | None:
    try:
        found = layer.get_submodule(path)
    except AttributeError:
        if may_lack:
            return None
        raise
    return None if may_lack and isinstance(found, nn.Identity) else found
