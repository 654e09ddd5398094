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
from compress.models.anatomy.factors import Map, output_linear
from compress.models.anatomy.observing import evaluating, module_input, observe_tokens, removing_hooks
from compress.passes.prune.choosing.saliency import ImportanceData

RIDGE = 0.02
"""Ridge penalty of a weight's change, as a fraction of the sum of squares of its input: examples are few."""


def reconstruct(
    decoder: Decoder, whole: Decoder, layers: Sequence[int], material: ImportanceData
) -> list[float]:
    """Refit the output projection of each feed-forward part, in place, on the batches that importance reads.

    Args:
        whole: the decoder before anything was removed.
        layers: indices of its layers that remain.

    Returns:
        For each remaining layer, the fraction of its stream's error that was eliminated.
    """
    batch = model_inputs(material.read(np.concatenate(material.batches())))
    ends = [*(place - 1 for place in layers[1:]), len(whole.blocks) - 1]
    wanted = layer_outputs(whole, ends, batch)
    mask = batch["attention_mask"].bool()
    read: dict[nn.Module, Tensor] = {}
    gone: list[float] = []

    def keep(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        read[module] = module_input(args, kwargs)

    def refit(place: int, gives: Any) -> Any:
        stream = gives if isinstance(gives, Tensor) else gives[0]
        owner: Any = output_linear(cast(Map, decoder.blocks[place].parts["feed_out"]))
        target, reads = wanted.pop(ends[place]), read.pop(owner)
        # Tokens are weighted by relative error: the first token of a text often has a huge norm.
        weights = 1 / target.square().mean(1).sqrt().clamp_min(torch.finfo(target.dtype).tiny)
        short = (target - stream[mask].float()) * weights[:, None]
        rows, has_bias = reads[mask].float(), getattr(owner, "bias", None) is not None
        if has_bias:
            rows = torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
        rows *= weights[:, None]
        change = ridge_update(rows, short)
        gone.append(1 - float((short - rows @ change).square().sum() / short.square().sum().clamp_min(1e-30)))
        if has_bias:
            change, moved = change[:-1], change[-1]
            owner.bias += moved.to(owner.bias)
            stream = stream + moved.to(stream)
        owner.weight += (change.T if isinstance(owner, nn.Linear) else change).to(owner.weight)
        stream = stream + reads @ change.to(reads)
        return stream if isinstance(gives, Tensor) else (stream, *gives[1:])

    hooks = [
        output_linear(cast(Map, block.parts["feed_out"])).register_forward_pre_hook(keep, with_kwargs=True)
        for block in decoder.blocks
    ]
    hooks += [
        block.module.register_forward_hook(lambda _, __, gives, place=place: refit(place, gives))
        for place, block in enumerate(decoder.blocks)
    ]
    base = base_of(decoder.model, decoder.network)
    with evaluating(base), torch.no_grad(), removing_hooks(hooks):
        base(**batch, use_cache=False)
    return gone


def layer_outputs(decoder: Decoder, places: Sequence[int], batch: dict[str, Tensor]) -> dict[int, Tensor]:
    """Return the outputs of layers of a decoder, one row per real token, float32 (tokens, hidden)."""
    modules = {decoder.blocks[place].module: place for place in places}
    found: dict[int, Tensor] = {}

    def note(module: nn.Module, _: Tensor, gives: Tensor) -> None:
        found[modules[module]] = gives

    observe_tokens(base_of(decoder.model, decoder.network), lambda: [batch], modules, note)
    return found


def ridge_update(rows: Tensor, short: Tensor) -> Tensor:
    """Return the change of a map (inputs, outputs) that brings `rows` (n, inputs) closest to `short` (n, outputs).

    Ridge regression (Hoerl and Kennard 1970): changes supported by few rows are kept small.
    """
    square = (rows.T @ rows).double()
    square.diagonal().add_(RIDGE * square.diagonal() + 1e-12)
    change: Tensor = torch.linalg.solve(square, (rows.T @ short).double()).to(rows)
    return change
