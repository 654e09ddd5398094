"""Whole layers: how much each matters, and how those of an encoder are removed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.core.errors import ModelError
from compress.encoding.inputs import taken
from compress.models.anatomy.blocks import transformer_of
from compress.models.anatomy.encoder import Encoder
from compress.models.anatomy.sizes import config_keys
from compress.models.anatomy.stream import block_influence
from compress.passes.prune.saliency import Material, total_of, weight_saliency


def layer_scores(model: nn.Module, blocks: Sequence[nn.Module], material: Material) -> Tensor:
    """Of layers of a model: with `activation` how much each changes the stream, else the saliency of its weights."""
    if material.spec.importance == "activation":
        batches = material.batches()
        return torch.tensor(block_influence(model, blocks, lambda: map(taken, map(material.read, batches))))
    saliency = weight_saliency(model, material)
    return torch.tensor([total_of(block, saliency) for block in blocks])


def remove_layers(encoder: Encoder, places: Sequence[int]) -> None:
    """Remove layers from the model of an encoder, in place; its config says how many are left.

    Raises:
        ModelError: its layers do not stand in one list.
    """
    blocks = {layer.block for layer in encoder.layers}
    lists = (module for module in encoder.model.modules() if isinstance(module, nn.ModuleList))
    stack = next((each for each in lists if set(each) == blocks), None)
    if stack is None:
        raise ModelError("the layers of this model do not stand in one list", where="prune.remove.layers")
    for place in sorted(places, reverse=True):
        del stack[place]
    setattr(transformer_of(encoder.model).config, config_keys(encoder.model)["layers"], len(stack))
