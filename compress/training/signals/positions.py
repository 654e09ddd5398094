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


def rotated_signal(layer: Block, part: str, captured: dict[str, Tensor], name: str) -> Hooks:
    """Register hooks that store the queries or keys of a layer as `captured[name]`, (n, t, heads * size).

    They are normalized where the family does so, rotated by position, and queries include the scaling of the
    scores, so that their products divided by the square root of the head size are the scores.
    """
    raw_outputs: dict[str, Tensor] = {}
    size = layer.head_size
    assert size is not None

    def save_raw(module: nn.Module, given: Any, result: Tensor) -> None:
        raw_outputs[part] = result

    def rotate(module: nn.Module, given: Any, named: dict[str, Any], result: Any) -> None:
        raw = raw_outputs.pop(part)
        values = raw.reshape(*raw.shape[:2], -1, size)
        if norm is not None:
            values = norm(values)
        if getattr(module, "use_rope", True):
            values = apply_rotary(values, *named["position_embeddings"])
        if part == "query":
            values = values * (getattr(module, "scaling", size**-0.5) * math.sqrt(size))
        captured[name] = values.flatten(2)

    norm = layer.parts.get(f"{part}_norm")
    return Hooks(
        layer.parts[part].register_forward_hook(save_raw),
        layer.attention.register_forward_hook(rotate, with_kwargs=True),
    )


def apply_rotary(values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply rotary position embedding to heads (n, t, heads, size); values beyond the number of angles are unchanged.

    Su et al., RoFormer, 2021 (arXiv:2104.09864), in the layout of transformers: each value is paired with the
    one half the rotated size away.

    Args:
        cosine, sine: (n or 1, t, angles).
    """
    angles = cosine.shape[-1]
    rotated, unrotated = values[..., :angles], values[..., angles:]
    first, second = rotated.chunk(2, -1)
    half_swapped = torch.cat([-second, first], -1)
    return torch.cat([rotated * cosine[:, :, None] + half_swapped * sine[:, :, None], unrotated], -1)


def window_of(attention: nn.Module) -> int | None:
    """Return the number of tokens, itself included, that a token of this layer attends to; None: unlimited."""
    config_window: int | None = getattr(getattr(attention, "config", None), "sliding_window", None)
    layer_window: int | None = getattr(attention, "sliding_window", config_window)
    return layer_window
