"""The sizes of a model as its config gives them: one vocabulary for all families."""

from __future__ import annotations

from dataclasses import dataclass

from optimum.utils import NormalizedConfigManager
from torch import nn

from compress.core.errors import ModelError
from compress.models.anatomy.families import FAMILIES, transformer_of


@dataclass(frozen=True)
class Sizes:
    """The sizes of an encoder as its config gives them; `vocabulary` is None for images."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int | None


_FEED_FORWARD_NAMES = ("intermediate_size", "hidden_dim")


def sizes_of(model: nn.Module) -> Sizes:
    """The sizes that the config of a model names, whatever the family calls them."""
    config = transformer_of(model).config
    values = {name: int(getattr(config, key)) for name, key in config_keys(model).items()}
    return Sizes(
        hidden=values["hidden"],
        layers=values["layers"],
        heads=values["heads"],
        feed_forward=values["feed_forward"],
        vocabulary=values.get("vocabulary"),
    )


def config_keys(model: nn.Module) -> dict[str, str]:
    """What the model's config calls the sizes: `hidden`, `layers`, `heads`, `feed_forward` and, for texts,
    `vocabulary`.

    Raises:
        ModelError: the family is unknown.
    """
    kind = transformer_of(model).config.model_type
    if kind in FAMILIES and FAMILIES[kind].vision:
        # optimum's word for vision models names the images' sizes only.
        names = {"hidden": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
        return {**names, "feed_forward": feed_forward_key(model)}
    try:
        config = NormalizedConfigManager.get_normalized_config_class(kind)(transformer_of(model).config)
    except KeyError as error:
        raise ModelError(f"do not know what a {kind!r} model calls its sizes") from error
    return {
        "hidden": config.HIDDEN_SIZE,
        "layers": config.NUM_LAYERS,
        "heads": config.NUM_ATTENTION_HEADS,
        "feed_forward": feed_forward_key(model),
        "vocabulary": config.VOCAB_SIZE,
    }


def feed_forward_key(model: nn.Module) -> str:
    """What the model's config calls the feed-forward width; optimum has no word for it."""
    values = transformer_of(model).config.to_dict()
    found = next((name for name in _FEED_FORWARD_NAMES if name in values), None)
    if found is None:
        raise ModelError(f"a {type(model).__name__} does not say how wide its feed-forward parts are")
    return found
