"""The outputs of a torch model on encoded examples, and its score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.encoding.inputs import LEARNT, Batch, Inputs, taken
from compress.models.anatomy.observing import evaluating
from compress.models.io.outputs import outputs_of
from compress.runtimes.torch_decoder import TorchDecoder
from compress.runtimes.torch_worker import Torch
from compress.tasks.base import Answers, Task, Truth, answers_of
from compress.training.attention_precision import Float32Attention
from compress.training.batches import batches_by_length, to_tensors

Precision = Literal["fp32", "bf16"]
Device = Literal["cpu", "cuda"]

BATCH_SIZE = 64
"""Examples at once."""
WINDOWS = 4
"""Likewise of texts that are gone on with, of which a model says something of every word at every token."""
LOGITS = 2**24
"""Of several such texts that are scored together, at most."""


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


def examples_at_once(inputs: Inputs) -> int:
    """How many examples a model is run on together where it is not trained."""
    return WINDOWS if len(inputs) and LEARNT in inputs.batch([0]) else BATCH_SIZE


def forward(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The outputs of one batch, (n, ...), in the type that the arithmetic gave."""
    return outputs_of(model(**taken(batch)))


def predict(
    model: nn.Module,
    inputs: Inputs,
    *,
    precision: Precision,
    device: Device,
) -> NDArray[np.float32]:
    """Outputs (n, ...), float32, in the order of the examples; the model's training flag is left as it was."""
    size = examples_at_once(inputs)
    return _kept(model, inputs, lambda batch: {"": _outputs(model, batch, device)}, precision, device, size)[
        ""
    ]


def answers(model: nn.Module, inputs: Inputs, task: Task, *, precision: Precision, device: Device) -> Answers:
    """What the task keeps of the outputs of a model on encoded examples; those of one batch are held at a time, and
    of texts that are gone on with no more logits than where a saved model is scored."""
    if (made := getattr(task.scorer, "outputs", None)) is None:
        size = examples_at_once(inputs)
        return _kept(
            model,
            inputs,
            lambda batch: answers_of(task, _outputs(model, batch, device), batch),
            precision,
            device,
            size,
        )
    runs = Torch(model, device, TorchDecoder(model))
    with evaluating(model), arithmetic(precision, device):
        words = runs(inputs.batch([int(np.argmin(inputs.lengths))])).shape[-1]
    return _kept(
        model,
        inputs,
        lambda batch: answers_of(task, made(runs, batch, {"words": words}), batch),
        precision,
        device,
        BATCH_SIZE,
        # No more tokens at once than those of some of the longest texts.
        min(LOGITS // words, WINDOWS * int(inputs.lengths.max())),
    )


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
    return task.score(answers(model, inputs, task, precision=precision, device=device), truth).rank


def _kept(
    model: nn.Module,
    inputs: Inputs,
    keep: Callable[[Batch], Mapping[str, NDArray[Any]]],
    precision: Precision,
    device: Device,
    size: int,
    tokens: int | None = None,
) -> dict[str, NDArray[Any]]:
    """What is kept of each batch, of `size` examples and `tokens` tokens at most, in the order of the examples."""
    kept: dict[str, NDArray[Any]] = {}
    with evaluating(model), torch.inference_mode(), arithmetic(precision, device):
        for places in batches_by_length(inputs.lengths, size, tokens):
            for name, rows in keep(inputs.batch(places)).items():
                if name not in kept:
                    kept[name] = np.empty((len(inputs), *rows.shape[1:]), rows.dtype)
                kept[name][places] = rows
    return kept


def _outputs(model: nn.Module, batch: Batch, device: Device) -> NDArray[np.float32]:
    found: NDArray[np.float32] = forward(model, to_tensors(batch, device)).float().cpu().numpy()
    return found
