"""Outputs and scores of a torch model on encoded examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.encoding.inputs import LOSS_MASK, Batch, Inputs, model_inputs
from compress.models.anatomy.observing import evaluating
from compress.models.io.outputs import outputs_of
from compress.runtimes.torch_decoder import TorchDecoder
from compress.runtimes.torch_worker import TorchModel
from compress.tasks.base import Answers, Task, Truth, answers_of
from compress.training.attention_precision import Float32Attention
from compress.training.batches import batches_by_length, to_tensors

Precision = Literal["fp32", "bf16"]
Device = Literal["cpu", "cuda"]

BATCH_SIZE = 64
"""Batch size for inference."""
LM_BATCH_SIZE = 4
"""Batch size for causal language models, whose outputs are logits over the vocabulary at every token."""
LOGITS = 2**24
"""Maximum number of logits of one batch when several such texts are scored together."""


def autocast_for(precision: Precision, device: Device) -> AbstractContextManager[object]:
    """Return the context for `precision`: bf16 autocast (on CPUs with float32 attention), or none for fp32."""
    if precision == "fp32":
        return nullcontext()
    if device == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return _bf16_on_cpu()


@contextmanager
def _bf16_on_cpu() -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16), Float32Attention():
        yield


def inference_batch_size(inputs: Inputs) -> int:
    """Return the inference batch size for these inputs."""
    return LM_BATCH_SIZE if len(inputs) and LOSS_MASK in inputs.batch([0]) else BATCH_SIZE


def forward(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the outputs of one batch, (n, ...), in the dtype of the computation."""
    return outputs_of(model(**model_inputs(batch)))


def predict(
    model: nn.Module,
    inputs: Inputs,
    *,
    precision: Precision,
    device: Device,
) -> NDArray[np.float32]:
    """Return outputs (n, ...), float32, in the order of the examples; the model's training mode is restored."""
    size = inference_batch_size(inputs)
    return _run_batches(
        model, inputs, lambda batch: {"": _outputs(model, batch, device)}, precision, device, size
    )[""]


def predict_answers(
    model: nn.Module, inputs: Inputs, task: Task, *, precision: Precision, device: Device
) -> Answers:
    """Return what the task keeps of the model's outputs on encoded examples.

    Only one batch of full outputs is in memory at a time; for causal language models its logits are bounded as
    they are when a saved model is scored.
    """
    if (compute_outputs := getattr(task.scorer, "outputs", None)) is None:
        size = inference_batch_size(inputs)
        return _run_batches(
            model,
            inputs,
            lambda batch: answers_of(task, _outputs(model, batch, device), batch),
            precision,
            device,
            size,
        )
    runner = TorchModel(model, device, TorchDecoder(model))
    with evaluating(model), autocast_for(precision, device):
        vocabulary_size = runner(inputs.batch([int(np.argmin(inputs.lengths))])).shape[-1]
    return _run_batches(
        model,
        inputs,
        lambda batch: answers_of(task, compute_outputs(runner, batch, {"words": vocabulary_size}), batch),
        precision,
        device,
        BATCH_SIZE,
        # At most as many tokens as `LM_BATCH_SIZE` of the longest texts.
        min(LOGITS // vocabulary_size, LM_BATCH_SIZE * int(inputs.lengths.max())),
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
    """Return the task's metric of the model on encoded examples, as passes compare it: larger is better."""
    return task.score(predict_answers(model, inputs, task, precision=precision, device=device), truth).rank


def _run_batches(
    model: nn.Module,
    inputs: Inputs,
    reduce: Callable[[Batch], Mapping[str, NDArray[Any]]],
    precision: Precision,
    device: Device,
    batch_size: int,
    max_tokens: int | None = None,
) -> dict[str, NDArray[Any]]:
    """Apply `reduce` to batches of at most `batch_size` examples and `max_tokens` tokens; return arrays in example
    order."""
    results: dict[str, NDArray[Any]] = {}
    with evaluating(model), torch.inference_mode(), autocast_for(precision, device):
        for indices in batches_by_length(inputs.lengths, batch_size, max_tokens):
            for name, rows in reduce(inputs.batch(indices)).items():
                if name not in results:
                    results[name] = np.empty((len(inputs), *rows.shape[1:]), rows.dtype)
                results[name][indices] = rows
    return results


def _outputs(model: nn.Module, batch: Batch, device: Device) -> NDArray[np.float32]:
    outputs: NDArray[np.float32] = forward(model, to_tensors(batch, device)).float().cpu().numpy()
    return outputs
