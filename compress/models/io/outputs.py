"""Extracting the output tensor of a model of any kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from compress.core.errors import ModelError


def outputs_of(result: Any) -> Tensor:
    """Return the outputs (n, ...) in the result of a model's forward; the task checks their shape.

    The result may be a tensor, where (n, labels, 1, 1) becomes (n, labels); an object or mapping with `logits`; or a
    container of a single such tensor.

    Raises:
        ModelError: it is anything else, or has several items.
    """
    found = _logits(result)
    if isinstance(found, Tensor) and found.ndim == 4 and found.shape[2:] == (1, 1):
        found = found.flatten(1)
    if not isinstance(found, Tensor) or found.ndim < 2:
        raise _unfit(result)
    return found


@contextmanager
def without_cache(model: Any) -> Iterator[None]:
    """Disable a decoder's key-value cache, which training does not need.

    transformers only uses the `position_ids` of packed texts if there is no cache.
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


def classifier_outputs(result: Any) -> Tensor:
    """Return the outputs (n, labels) of a model with one number per label.

    Raises:
        ModelError: they have another shape.
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
