"""Queries and keys of a decoder as its attention multiplies them, derived from captured projections."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compress.models.anatomy.blocks import Block


class Hooks:
    """Several hooks that are removed together."""

    def __init__(self, *handles: RemovableHandle) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Remove all of them."""
        for handle in self._handles:
            handle.remove()


def rotated_signal(layer: Block, part: str, held: dict[str, Tensor], name: str) -> Hooks:
    """Register hooks that store the queries or keys of a layer as `held[name]`, (n, t, heads * size).

    They are normalized where the family does so, rotated by position, and queries include the scaling of the
    scores, so that their products divided by the square root of the head size are the scores.
    """
    seen: dict[str, Tensor] = {}
    size = layer.head_size
    assert size is not None

    def see(module: nn.Module, given: Any, result: Tensor) -> None:
        seen[part] = result

    def turn(module: nn.Module, given: Any, named: dict[str, Any], result: Any) -> None:
        raw = seen.pop(part)
        values = raw.reshape(*raw.shape[:2], -1, size)
        if norm is not None:
            values = norm(values)
        if getattr(module, "use_rope", True):
            values = apply_rotary(values, *named["position_embeddings"])
        if part == "query":
            values = values * (getattr(module, "scaling", size**-0.5) * math.sqrt(size))
        held[name] = values.flatten(2)

    norm = layer.parts.get(f"{part}_norm")
    return Hooks(
        layer.parts[part].register_forward_hook(see),
        layer.attention.register_forward_hook(turn, with_kwargs=True),
    )


def apply_rotary(values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply rotary position embedding to heads (n, t, heads, size); values beyond the number of angles are unchanged.

    Su et al., RoFormer, 2021 (arXiv:2104.09864), in the layout of transformers: each value is paired with the
    one half the rotated size away.

    Args:
        cosine, sine: (n or 1, t, angles).
    """
    angles = cosine.shape[-1]
    some, rest = values[..., :angles], values[..., angles:]
    first, second = some.chunk(2, -1)
    across = torch.cat([-second, first], -1)
    return torch.cat([some * cosine[:, :, None] + across * sine[:, :, None], rest], -1)


def window_of(attention: nn.Module) -> int | None:
    """Return the number of tokens, itself included, that a token of this layer attends to; None: unlimited."""
    of_all: int | None = getattr(getattr(attention, "config", None), "sliding_window", None)
    own: int | None = getattr(attention, "sliding_window", of_all)
    return own
