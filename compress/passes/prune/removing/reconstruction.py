"""Refit the feed-forward output projections of a pruned decoder to the residual stream of the unpruned model.

A map that writes to the stream can compensate for what was removed nearby, as far as that is linear in its input: later
layers (ReplaceMe, Shopkhoev et al. 2025, arXiv:2505.02819, which fits one map for a cut), removed units beside its
inputs, and errors of earlier layers (channel pruning by reconstruction, He et al. 2017, arXiv:1707.06168). Nothing is
trained: each fit is a least-squares problem, solved in the order of computation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from compress.encoding.inputs import model_inputs
from compress.models.anatomy.blocks import base_of
from compress.models.anatomy.decoder import Decoder
from compress.models.anatomy.factors import LinearLike, output_linear
from compress.models.anatomy.observing import evaluating, module_input, observe_tokens, removing_hooks
from compress.passes.prune.choosing.saliency import ImportanceData

RIDGE = 0.02
"""Ridge penalty of a weight's change, as a fraction of the sum of squares of its input: examples are few."""


def reconstruct(
    decoder: Decoder, original: Decoder, layers: Sequence[int], data: ImportanceData
) -> list[float]:
    """Refit the output projection of each feed-forward part, in place, on the batches that importance reads.

    Args:
        original: the decoder before anything was removed.
        layers: indices of its layers that remain.

    Returns:
        For each remaining layer, the fraction of its stream's error that was eliminated.
    """
    batch = model_inputs(data.to_batch(np.concatenate(data.batches())))
    target_layers = [*(index - 1 for index in layers[1:]), len(original.blocks) - 1]
    targets = layer_outputs(original, target_layers, batch)
    mask = batch["attention_mask"].bool()
    captured_inputs: dict[nn.Module, Tensor] = {}
    eliminated: list[float] = []

    def keep(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        captured_inputs[module] = module_input(args, kwargs)

    def refit(index: int, output: Any) -> Any:
        stream = output if isinstance(output, Tensor) else output[0]
        linear: Any = output_linear(cast(LinearLike, decoder.blocks[index].parts["feed_out"]))
        target, inputs = targets.pop(target_layers[index]), captured_inputs.pop(linear)
        # Tokens are weighted by relative error: the first token of a text often has a huge norm.
        weights = 1 / target.square().mean(1).sqrt().clamp_min(torch.finfo(target.dtype).tiny)
        residual = (target - stream[mask].float()) * weights[:, None]
        rows, has_bias = inputs[mask].float(), getattr(linear, "bias", None) is not None
        if has_bias:
            rows = torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
        rows *= weights[:, None]
        change = ridge_update(rows, residual)
        eliminated.append(
            1 - float((residual - rows @ change).square().sum() / residual.square().sum().clamp_min(1e-30))
        )
        if has_bias:
            change, bias_change = change[:-1], change[-1]
            linear.bias += bias_change.to(linear.bias)
            stream = stream + bias_change.to(stream)
        linear.weight += (change.T if isinstance(linear, nn.Linear) else change).to(linear.weight)
        stream = stream + inputs @ change.to(inputs)
        return stream if isinstance(output, Tensor) else (stream, *output[1:])

    hooks = [
        output_linear(cast(LinearLike, block.parts["feed_out"])).register_forward_pre_hook(
            keep, with_kwargs=True
        )
        for block in decoder.blocks
    ]
    hooks += [
        block.module.register_forward_hook(lambda _, __, gives, place=index: refit(place, gives))
        for index, block in enumerate(decoder.blocks)
    ]
    base = base_of(decoder.model, decoder.network)
    with evaluating(base), torch.no_grad(), removing_hooks(hooks):
        base(**batch, use_cache=False)
    return eliminated


def layer_outputs(decoder: Decoder, indices: Sequence[int], batch: dict[str, Tensor]) -> dict[int, Tensor]:
    """Return the outputs of layers of a decoder, one row per real token, float32 (tokens, hidden)."""
    index_of = {decoder.blocks[place].module: place for place in indices}
    outputs: dict[int, Tensor] = {}

    def note(module: nn.Module, _: Tensor, output: Tensor) -> None:
        outputs[index_of[module]] = output

    observe_tokens(base_of(decoder.model, decoder.network), lambda: [batch], index_of, note)
    return outputs


def ridge_update(rows: Tensor, residual: Tensor) -> Tensor:
    """Return the change of a map (inputs, outputs) that brings `rows` (n, inputs) closest to `residual` (n, outputs).

    Ridge regression (Hoerl and Kennard 1970): changes supported by few rows are kept small.
    """
    gram = (rows.T @ rows).double()
    gram.diagonal().add_(RIDGE * gram.diagonal() + 1e-12)
    change: Tensor = torch.linalg.solve(gram, (rows.T @ residual).double()).to(rows)
    return change
