"""The sizes of a live model, as its config names them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from compress.models.anatomy.blocks import transformer_of
from compress.models.anatomy.table.sizes import Sizes, network_of, sizes_of_config


def sizes_of(model: nn.Module) -> Sizes:
    """The sizes that the config of a model names, whatever its family calls them.

    Raises:
        ModelError: where the parts of its family stand is not known.
    """
    return sizes_of_config(transformer_of(model).config.to_dict())


def config_keys(model: nn.Module) -> Mapping[str, str]:
    """What the model's config calls its sizes: `hidden`, `layers`, `heads`, `feed_forward`, for texts `vocabulary`, and
    what else its family names.

    Raises:
        ModelError: where the parts of its family stand is not known.
    """
    return network_of(str(transformer_of(model).config.model_type)).keys
