"""Choice of the teacher's layers that the student is built from. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from compress.core.errors import ModelError

_WHERE = "student"

LayerStrategy = Literal["uniform", "first", "last", "similarity"]


def choose_layers(
    requested: int | Sequence[int],
    available: int,
    strategy: LayerStrategy = "uniform",
    influence: Sequence[float] | None = None,
) -> tuple[int, ...]:
    """Return the teacher's layers that the student is built from, lowest first; a given list is returned unchanged.

    `uniform` spreads the layers evenly and always includes the last one: 2 of 6 are (2, 5). `first` and `last` take
    the lowest and the highest. `similarity` takes those with the most `influence`, leaving out layers whose output
    is similar to their input (Men et al., ShortGPT, 2024, arXiv:2403.03853); ties go to the lower layer.

    Args:
        influence: one number per layer, for `similarity`.

    Raises:
        ModelError: more layers are requested than the teacher has, a listed layer does not exist or is listed twice,
            or `similarity` has no `influence`.
    """
    if not isinstance(requested, int):
        return _checked_layers(tuple(requested), available)
    if requested > available:
        raise ModelError(
            f"{requested} layers requested, but the teacher has {available}", where=f"{_WHERE}.layers"
        )
    if strategy == "first":
        return tuple(range(requested))
    if strategy == "last":
        return tuple(range(available - requested, available))
    if strategy == "uniform":
        return tuple((i + 1) * available // requested - 1 for i in range(requested))
    if influence is None or len(influence) != available:
        raise ModelError(
            "layers can only be compared on examples, and there are none",
            where=f"{_WHERE}.choose",
            hint="Use `choose: uniform`, or name the layers.",
        )
    most = sorted(range(available), key=lambda layer: (-influence[layer], layer))[:requested]
    return tuple(sorted(most))


def _checked_layers(layers: tuple[int, ...], available: int) -> tuple[int, ...]:
    if not layers or len(set(layers)) < len(layers) or min(layers) < 0 or max(layers) >= available:
        raise ModelError(
            f"layers {list(layers)} must be distinct and from 0 to {available - 1}", where=f"{_WHERE}.layers"
        )
    return layers
