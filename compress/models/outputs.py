"""What a model of any kind gives for a batch, as one tensor."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from compress.errors import ModelError


def outputs_of(result: Any) -> Tensor:
    """The outputs (n, labels or width) in what a model's forward returned: a tensor, or an object with `logits`.

    Raises:
        ModelError: it is neither.
    """
    found = result if isinstance(result, Tensor) else getattr(result, "logits", None)
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise ModelError(
            f"the model gives {type(result).__name__}; expected a tensor (batch, outputs), or an object with `logits`"
        )
    return found
