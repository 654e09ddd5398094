"""The logits of a torch model on encoded examples, and its score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.encoding.inputs import Inputs
from compress.models.io.outputs import outputs_of
from compress.tasks.base import Task, Truth, score_of
from compress.training.attention_precision import Float32Attention
from compress.training.batches import batches_by_length, to_tensors

Precision = Literal["fp32", "bf16"]
Device = Literal["cpu", "cuda"]

BATCH_SIZE = 64


def arithmetic(precision: Precision, device: Device) -> AbstractContextManager[object]:
    """bf16 autocast, with float32 attention where a CPU trains; or nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    if device == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return _bf16_on_cpu()


@contextmanager
def _bf16_on_cpu() -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16), Float32Attention():
        yield


def forward(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The outputs of one batch: (n, labels or width), in the type that the arithmetic gave."""
    return outputs_of(model(**batch))


def predict(
    model: nn.Module,
    inputs: Inputs,
    *,
    precision: Precision,
    device: Device,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
    batch_size: int = BATCH_SIZE,
) -> NDArray[np.float32]:
    """Logits (n, labels), float32, in the order of the examples; the model's training flag is left as it was.

    Args:
        indices: the examples to predict; None: all.
    """
    chosen = np.arange(len(inputs)) if indices is None else np.asarray(indices, dtype=np.int64)
    if len(chosen) == 0:
        return np.zeros((0, 0), dtype=np.float32)
    results: NDArray[np.float32] | None = None
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), arithmetic(precision, device):
            for places in batches_by_length(inputs.lengths[chosen], batch_size):
                batch = to_tensors(inputs.batch(chosen[places]), device)
                logits = forward(model, batch).float().cpu().numpy()
                if results is None:
                    results = np.empty((len(chosen), logits.shape[1]), dtype=np.float32)
                results[places] = logits
    finally:
        model.train(was_training)
    assert results is not None
    return results


def score(
    model: nn.Module,
    inputs: Inputs,
    truth: Truth,
    task: Task,
    *,
    precision: Precision,
    device: Device,
) -> float:
    """The task's metric of the model on encoded examples, as passes compare it: larger is better."""
    return score_of(task, predict(model, inputs, precision=precision, device=device), truth).rank
