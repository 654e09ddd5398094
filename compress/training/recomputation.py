"""Gradient checkpointing: layers are recomputed in the backward pass, which trades time for memory.

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
def with_checkpointing(model: nn.Module) -> Iterator[None]:
    """Enable gradient checkpointing of a model's layers inside the context; gradients do not change.

    Raises:
        ModelError: the model does not support it.
    """
    models = [
        module
        for module in model.modules()
        if isinstance(module, PreTrainedModel) and module.supports_gradient_checkpointing
    ]
    if not models:
        raise ModelError(
            "this model does not support gradient checkpointing",
            where="gradient_checkpointing",
            hint="Transformers models do; for others lower `batch_size`, or set `accumulate`.",
        )
    settings = {"use_reentrant": False, "context_fn": _recompute_contexts}
    for module in models:
        _switch(module, "enable")(settings)
    try:
        yield
    finally:
        for module in models:
            _switch(module, "disable")()


def _switch(model: PreTrainedModel, action: str) -> Any:
    # transformers 6 drops the old name, which is the only one in 5.3.
    method = getattr(model, f"activation_checkpointing_{action}", None)
    return method or getattr(model, f"gradient_checkpointing_{action}")


def _recompute_contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    # torch restores autocast for the recomputation, but not other modes of the first forward pass.
    return nullcontext(), Float32Attention()
