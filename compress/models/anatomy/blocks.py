"""The layers of a loaded model, from the table of its family or else by inspecting its modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.factors import Factored, LinearLike
from compress.models.anatomy.table.families import FAMILIES, families_supporting, network_of_kind
from compress.models.anatomy.table.family import Network

_PROJECTIONS = ("query", "key", "value")
HEAD_COUNT_ATTRIBUTES = ("num_attention_heads", "num_heads", "n_heads")
"""Attribute names under which attention modules store their number of heads."""
HEAD_SIZE_ATTRIBUTES = ("attention_head_size", "head_dim")
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
    def projections(self) -> tuple[LinearLike, LinearLike, LinearLike] | None:
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
        for name in HEAD_SIZE_ATTRIBUTES:
            if isinstance(size := getattr(self.attention, name, None), int):
                return size
        if self.projections is not None:
            for name in HEAD_COUNT_ATTRIBUTES:
                if isinstance(heads := getattr(self.attention, name, None), int):
                    return self.projections[0].out_features // heads
        return None


def transformer_of(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model that holds the config.

    It is the model itself, or the encoder inside a sentence encoder.

    Raises:
        ModelError: there is none.
    """
    if (transformer := _transformer_in(model)) is not None:
        return transformer
    raise ModelError(
        f"a {type(model).__name__} is not a transformer with a known layer structure",
        hint=f"Known families: {', '.join(families_supporting('take apart'))}.",
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
    stack, sublayer_path = (path.strip(".") for path in network.layer_path.split("{i}"))
    blocks = []
    for index, entry in enumerate(base.get_submodule(stack).children()):
        layer = entry.get_submodule(sublayer_path)
        optional_roles = (*network.present_if, *(network.not_in_first if index == 0 else ()))
        parts = {
            role: found
            for role, path in network.layer_parts.items()
            if (found := _submodule(layer, path, role in optional_roles)) is not None
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
    if (transformer := _transformer_in(model)) is not None:
        family = FAMILIES.get(str(transformer.config.model_type))
        if family is not None and family.network is not None:
            if "compare" in family.cannot:
                return ()
            return blocks_of(base_of(transformer, family.network), family.network)
    total = len(attentions_of(model))
    for stack in model.modules():
        if total and isinstance(stack, nn.ModuleList | nn.Sequential) and len(stack) == total:
            found = [attentions_of(layer) for layer in stack]
            if all(len(attentions) == 1 for attentions in found):
                return tuple(Block(layer, *one) for layer, (one,) in zip(stack, found, strict=True))
    return ()


def is_causal(model: nn.Module) -> bool:
    """Whether each token attends only to itself and earlier tokens, as far as the table knows the family."""
    transformer = _transformer_in(model)
    network = None if transformer is None else network_of_kind(str(transformer.config.model_type))
    return network is not None and network.causal


def attentions_of(model: nn.Module) -> list[tuple[nn.Module, Mapping[str, nn.Module]]]:
    """Return every attention module in `model`, itself included, with the projections whose names the table knows."""
    found: list[tuple[nn.Module, Mapping[str, nn.Module]]] = []
    for module in model.modules():
        children = dict(module.named_children())
        for names in _SEPARATE_NAMES:
            projections = {role: children.get(name) for role, name in zip(_PROJECTIONS, names, strict=True)}
            linear = {role: part for role, part in projections.items() if isinstance(part, nn.Linear)}
            if len(linear) == len(projections):
                found.append((module, linear))
        if isinstance(module, nn.MultiheadAttention) or any(name in children for name in _FUSED_NAMES):
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
    transformer = model if isinstance(model, PreTrainedModel) else getattr(model, "encoder", None)
    return transformer if isinstance(transformer, PreTrainedModel) else None


def _names(*roles: str) -> list[tuple[str, ...]]:
    """Return the distinct attribute names that the families of the table use for these parts of attention."""
    networks = [family.network for family in FAMILIES.values() if family.network is not None]
    found = [
        tuple(network.layer_parts[role].rpartition(".")[2] for role in roles)
        for network in networks
        if network.layer_parts.keys() >= set(roles)
    ]
    return list(dict.fromkeys(found))


_SEPARATE_NAMES = _names(*_PROJECTIONS)
_FUSED_NAMES = [*(name for (name,) in _names("qkv")), "qkv"]


def _submodule(layer: nn.Module, path: str, optional: bool) -> nn.Module | None:
    try:
        found = layer.get_submodule(path)
    except AttributeError:
        if optional:
            return None
        raise
    return None if optional and isinstance(found, nn.Identity) else found
