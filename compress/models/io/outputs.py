"""What a model of any kind gives for a batch, as one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from compress.core.errors import ModelError


def outputs_of(result: Any) -> Tensor:
    """The outputs (n, ...) in what a model's forward returned; which shape they must have is its task's business.

    It may be a tensor, (n, labels, 1, 1) for (n, labels); an object or a mapping with `logits`; or hold one such tensor
    alone.

    Raises:
        ModelError: it is something else, or several things.
    """
    found = _logits(result)
    if isinstance(found, Tensor) and found.ndim == 4 and found.shape[2:] == (1, 1):
        found = found.flatten(1)
    if not isinstance(found, Tensor) or found.ndim < 2:
        raise _unfit(result)
    return found


@contextmanager
def without_cache(model: Any) -> Iterator[None]:
    """Meanwhile a decoder keeps no cache of what it has read, which training has no use for.

    Only so does transformers look at `position_ids` for texts that stand side by side.
    """
    config: Any = getattr(model, "config", None)
    before = getattr(config, "use_cache", None)
    if before is None:
        yield
        return
    config.use_cache = False
    try:
        yield
    finally:
        config.use_cache = before


def rows_of(result: Any) -> Tensor:
    """The outputs (n, labels) of a model that gives one number a label.

    Raises:
        ModelError: they are of another shape.
    """
    found = outputs_of(result)
    if found.ndim != 2:
        raise _unfit(result)
    return found


def _unfit(result: Any) -> ModelError:
    return ModelError(
        f"the model gives {_described(result)}; expected a tensor (batch, outputs), or an object with `logits`",
        hint="Make its forward return only the logits, one number per label.",
        code="module-outputs",
    )


def _logits(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result
    if isinstance(result, Mapping) and "logits" in result:
        return result["logits"]
    if (named := getattr(result, "logits", None)) is not None:
        return named
    held = list(result.values()) if isinstance(result, Mapping) else result
    return held[0] if isinstance(held, (list, tuple)) and len(held) == 1 else None


def _described(result: Any) -> str:
    if isinstance(result, Tensor):
        return f"a tensor {list(result.shape)}"
    held = list(result) if isinstance(result, (list, tuple, Mapping)) else []
    return f"{type(result).__name__} of {len(held)}" if held else type(result).__name__
