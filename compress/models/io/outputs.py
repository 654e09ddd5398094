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
    outputs = _logits(result)
    if isinstance(outputs, Tensor) and outputs.ndim == 4 and outputs.shape[2:] == (1, 1):
        outputs = outputs.flatten(1)
    if not isinstance(outputs, Tensor) or outputs.ndim < 2:
        raise _unexpected_output(result)
    return outputs


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
    outputs = outputs_of(result)
    if outputs.ndim != 2:
        raise _unexpected_output(result)
    return outputs


def _unexpected_output(result: Any) -> ModelError:
    return ModelError(
        f"the model gives {_describe(result)}; expected a tensor (batch, outputs), or an object with `logits`",
        hint="Make its forward return only the logits, one number per label.",
        code="module-outputs",
    )


def _logits(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result
    if isinstance(result, Mapping) and "logits" in result:
        return result["logits"]
    if (logits := getattr(result, "logits", None)) is not None:
        return logits
    items = list(result.values()) if isinstance(result, Mapping) else result
    return items[0] if isinstance(items, (list, tuple)) and len(items) == 1 else None


def _describe(result: Any) -> str:
    if isinstance(result, Tensor):
        return f"a tensor {list(result.shape)}"
    items = list(result) if isinstance(result, (list, tuple, Mapping)) else []
    return f"{type(result).__name__} of {len(items)}" if items else type(result).__name__
