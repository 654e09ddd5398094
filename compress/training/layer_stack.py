"""The layers of a transformer of any family, found by what stands in them instead of by their names."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

_PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"))
_FUSED = ("qkv", "Wqkv")
_HEAD_SIZE = ("attention_head_size", "head_dim")
_HEADS = ("num_attention_heads", "num_heads", "n_heads")


@dataclass(frozen=True)
class Attention:
    """The attention module of a layer; `projections`: its query, key and value maps, None where they are fused."""

    module: nn.Module
    projections: tuple[nn.Linear, nn.Linear, nn.Linear] | None

    @property
    def head_size(self) -> int | None:
        """Dimensions of one head; None where the module does not say it."""
        for name in _HEAD_SIZE:
            if isinstance(size := getattr(self.module, name, None), int):
                return size
        if self.projections is not None:
            for name in _HEADS:
                if isinstance(heads := getattr(self.module, name, None), int):
                    return self.projections[0].out_features // heads
        return None


@dataclass(frozen=True)
class StackLayer:
    """A layer: its output is a hidden state."""

    module: nn.Module
    attention: Attention


def layers_of(model: nn.Module) -> tuple[StackLayer, ...]:
    """The layers, lowest first: the one stack of modules with one attention each that holds all of the model's.

    Nothing where there is no such stack: in convolutional models, in those with stages of their own resolutions, in
    several models under one roof.
    """
    total = len(attentions_of(model))
    for stack in model.modules():
        if total and isinstance(stack, nn.ModuleList | nn.Sequential) and len(stack) == total:
            found = [attentions_of(layer) for layer in stack]
            if all(len(attentions) == 1 for attentions in found):
                return tuple(StackLayer(layer, one) for layer, (one,) in zip(stack, found, strict=True))
    return ()


def attentions_of(model: nn.Module) -> list[Attention]:
    """Every attention module inside a module, itself included."""
    found = []
    for module in model.modules():
        parts = dict(module.named_children())
        for names in _PROJECTIONS:
            maps = tuple(part for name in names if isinstance(part := parts.get(name), nn.Linear))
            if len(maps) == 3:
                found.append(Attention(module, maps))
        if isinstance(module, nn.MultiheadAttention) or any(name in parts for name in _FUSED):
            found.append(Attention(module, None))
    return found


def heads_of(layers: tuple[StackLayer, ...]) -> tuple[tuple[int, ...], int | None]:
    """The heads of each layer and the size of one; nothing where queries and keys cannot be captured."""
    sizes = {layer.attention.head_size for layer in layers}
    size = sizes.pop() if len(sizes) == 1 else None
    queries = [layer.attention.projections[0] for layer in layers if layer.attention.projections is not None]
    if size is None or len(queries) != len(layers):
        return (), None
    return tuple(query.out_features // size for query in queries), size
