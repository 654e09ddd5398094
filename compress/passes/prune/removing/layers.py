"""Rank whole layers by importance, and remove layers from an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.core.errors import ModelError
from compress.encoding.inputs import model_inputs
from compress.models.anatomy.blocks import transformer_of
from compress.models.anatomy.encoder import Encoder
from compress.models.anatomy.observing import evaluating, module_input, removing_hooks
from compress.models.anatomy.sizes import config_keys
from compress.models.anatomy.stream import block_influence
from compress.passes.prune.choosing.importance import least_important
from compress.passes.prune.choosing.saliency import ImportanceData, loss_on, total_saliency, weight_saliency


def layers_to_remove(
    model: nn.Module, blocks: Sequence[nn.Module], data: ImportanceData, count: int
) -> tuple[int, ...]:
    """Return the indices of the `count` least important of the `blocks`, the layers of a model, ascending.

    By `loss`, layers are chosen one after another, each time the one whose removal, in addition to the previous ones,
    gives the smallest loss; by `importance`, all at once, see `layer_scores`.
    """
    if data.spec.layers_by == "importance":
        return least_important(layer_scores(model, blocks, data), count)
    removed, batches = list[int](), data.batches()
    for _ in range(count):
        losses = {
            place: loss_without(model, [blocks[each] for each in (*removed, place)], data, batches)
            for place in range(len(blocks))
            if place not in removed
        }
        removed.append(min(losses, key=losses.__getitem__))
    return tuple(sorted(removed))


def loss_without(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    data: ImportanceData,
    batches: Sequence[NDArray[np.int64]],
) -> float:
    """Return the mean loss over batches while some blocks are skipped (their output is their input)."""

    def skip(_: nn.Module, args: Sequence[Any], kwargs: dict[str, Any], output: Any) -> Any:
        reads = module_input(args, kwargs)
        return reads if isinstance(output, Tensor) else (reads, *output[1:])

    hooks = (block.register_forward_hook(skip, with_kwargs=True) for block in blocks)
    with evaluating(model), torch.no_grad(), removing_hooks(hooks):
        losses = [float(loss_on(model, data, batch)) for batch in batches]
    return sum(losses) / len(losses)


def layer_scores(model: nn.Module, blocks: Sequence[nn.Module], data: ImportanceData) -> Tensor:
    """Score layers: with `activation` by influence on the residual stream, else by the saliency of their weights."""
    if data.spec.importance == "activation":
        batches = data.batches()
        return torch.tensor(
            block_influence(model, blocks, lambda: map(model_inputs, map(data.to_batch, batches)))
        )
    saliency = weight_saliency(model, data)
    return torch.tensor([total_saliency(block, saliency) for block in blocks])


def remove_layers(encoder: Encoder, indices: Sequence[int]) -> None:
    """Remove layers from the model of an encoder, in place, and update its config.

    Raises:
        ModelError: the layers are not in a single `ModuleList`.
    """
    blocks = {layer.block for layer in encoder.layers}
    lists = (module for module in encoder.model.modules() if isinstance(module, nn.ModuleList))
    layer_list = next((each for each in lists if set(each) == blocks), None)
    if layer_list is None:
        raise ModelError("the layers of this model are not in one list", where="prune.remove.layers")
    for place in sorted(indices, reverse=True):
        del layer_list[place]
    setattr(transformer_of(encoder.model).config, config_keys(encoder.model)["layers"], len(layer_list))
