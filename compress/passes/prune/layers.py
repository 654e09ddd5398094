"""Removing whole layers of an encoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from compress.core.errors import ModelError
from compress.models.anatomy.blocks import transformer_of
from compress.models.anatomy.encoder import Encoder
from compress.models.anatomy.sizes import config_keys


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
