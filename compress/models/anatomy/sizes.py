"""The sizes of a loaded model, as stated by its config."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from compress.models.anatomy.blocks import transformer_of
from compress.models.anatomy.table.sizes import Sizes, network_of, sizes_of_config


def sizes_of(model: nn.Module) -> Sizes:
    """Return the sizes in the config of a model, whatever its family calls them.

    Raises:
        ModelError: the layer structure of its family is not known.
    """
    return sizes_of_config(transformer_of(model).config.to_dict())


def config_keys(model: nn.Module) -> Mapping[str, str]:
    """Return the config keys of the model's sizes: `hidden`, `layers`, `heads`, `feed_forward`, for texts
    `vocabulary`, and others that its family has.

    Raises:
        ModelError: the layer structure of its family is not known.
    """
    return network_of(str(transformer_of(model).config.model_type)).keys
