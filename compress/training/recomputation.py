"""Layers that are computed once more for their gradients instead of keeping what they computed: less memory for time.

Chen et al.: Training Deep Nets with Sublinear Memory Cost, 2016 (arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.training.attention_precision import Float32Attention


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Meanwhile the layers of a model that trains keep what they read alone; gradients stay what they were.

    Raises:
        ModelError: its layers cannot be computed once more.
    """
    found = [
        module
        for module in model.modules()
        if isinstance(module, PreTrainedModel) and module.supports_gradient_checkpointing
    ]
    if not found:
        raise ModelError(
            "this model does not support gradient checkpointing",
            where="gradient_checkpointing",
            hint="Transformers models do; for others lower `batch_size`, or set `accumulate`.",
        )
    settings = {"use_reentrant": False, "context_fn": _arithmetics}
    for module in found:
        _switch(module, "enable")(settings)
    try:
        yield
    finally:
        for module in found:
            _switch(module, "disable")()


def _switch(model: PreTrainedModel, what: str) -> Any:
    # Version 6 of transformers drops the old name, which is the only one that 5.3 has.
    new = getattr(model, f"activation_checkpointing_{what}", None)
    return new or getattr(model, f"gradient_checkpointing_{what}")


def _arithmetics() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    # Autocast is remembered by torch; what else the first pass was computed under is not.
    return nullcontext(), Float32Attention()
