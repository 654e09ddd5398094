"""A decoder whose stream between layers is rotated, and which computes what it did (QuaRot).

Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", 2024. A norm by the root of the mean
square does not see a rotation once its gain is part of the maps behind it, so what writes to the stream can be turned
one way and what reads from it the other. What stood out in single channels is spread over all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from compress.core.errors import ModelError
from compress.lowering.decoder.layout import Layout

READING = {
    "attention_norm": ("query", "key", "value", "qkv"),
    "output_norm": ("gate", "feed_in", "gate_feed_in"),
}
"""The maps behind each norm of a layer."""
WRITING = ("attention_output", "feed_out")


def rotate(layout: Layout, weights: Mapping[str, Tensor], seed: int = 0) -> tuple[Layout, dict[str, Tensor]]:
    """Turn the stream by a random orthogonal matrix, with the gains of norms folded into the maps behind them.

    The gain of the last norm goes into the head, which is no longer the table of words then.

    Returns:
        The decoder with a head of its own, and its float32 weights by the same names.

    Raises:
        ModelError: the model has norms that see a rotation.
    """
    network = layout.network
    if network.norm != "rms" or network.norms == "around" or network.in_out:
        raise ModelError(
            "only decoders with RMS norms before attention and feed-forward alone can be rotated"
        )
    turn = rotation(layout.sizes["hidden"], seed)
    made = {name: tensor.detach().float() for name, tensor in weights.items()}
    base, head = f"{network.base}.", f"{network.heads['words']['head_words']}.weight"
    words, final = (f"{base}{network.outside[role]}.weight" for role in ("words", "final_norm"))

    def fold(norm: str, readers: list[str]) -> None:
        gain = made[norm].double() + network.norm_offset
        made[norm] = torch.full_like(made[norm], 1 - network.norm_offset)
        for name in readers:
            made[name] = (made[name].double() * gain @ turn).float()

    if layout.tied:
        made[head] = made[words]
    fold(final, [head])
    made[words] = (made[words].double() @ turn).float()
    for layer in range(layout.sizes["layers"]):
        path = f"{base}{network.layer.format(i=layer)}."
        inside = {role: f"{path}{place}" for role, place in network.inside.items()}
        for norm, readers in READING.items():
            fold(f"{inside[norm]}.weight", [f"{inside[role]}.weight" for role in readers if role in inside])
        for role in WRITING:
            for name in (f"{inside[role]}.weight", f"{inside[role]}.bias"):
                if name in made:
                    made[name] = (turn.T @ made[name].double()).float()
    return replace(layout, tied=False), made


def rotation(width: int, seed: int) -> Tensor:
    """A random orthogonal matrix, float64 (width, width)."""
    drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turn, upper = torch.linalg.qr(drawn)
    # With these signs every rotation is as likely.
    signed: Tensor = turn * upper.diagonal().sign()
    return signed
