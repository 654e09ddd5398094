"""Compute the sizes of a pruned decoder from its config alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compress.core.errors import PassError
from compress.models.anatomy.table.decoders import DECODERS
from compress.models.anatomy.table.family import Config
from compress.models.anatomy.table.sizes import dimensions, network_of
from compress.models.anatomy.table.smaller import SmallerDecoder
from compress.passes.prune.choosing.prediction import kept_count, kept_width
from compress.passes.prune.spec import PruneSpec, RemoveSpec


@dataclass(frozen=True)
class DecoderSizes:
    """Remaining sizes, equal in all layers; a reduced hidden size is a multiple of `hidden_multiple`."""

    layers: int
    groups: int
    heads: int
    feed_forward: int
    hidden: int
    hidden_multiple: int


def remaining_sizes(config: Config, remove: RemoveSpec, round_to: int) -> DecoderSizes:
    """Return the remaining sizes of a decoder whose heads can be removed.

    Raises:
        PassError: a fraction removes nothing or everything, or no config describes a model with the remaining heads.
    """
    sizes = dimensions(network_of(str(config["model_type"])), config)
    groups = kept_count(sizes["groups"], remove.heads, "heads")
    heads_per_group = sizes["heads"] // sizes["groups"]
    # Transformers requires the hidden size to be divisible by the number of heads.
    hidden_multiple = math.lcm(round_to, groups * heads_per_group)
    goals = DecoderSizes(
        layers=kept_count(sizes["layers"], remove.layers, "layers"),
        groups=groups,
        heads=groups * heads_per_group,
        feed_forward=kept_width(sizes["feed_forward"], remove.feed_forward, round_to),
        hidden=kept_width(sizes["hidden"], remove.hidden, hidden_multiple, "hidden"),
        hidden_multiple=hidden_multiple,
    )
    faults = SmallerDecoder(config, goals.hidden, goals.heads, goals.feed_forward).faults()
    for _, why in faults if remove.heads else ():
        possible = [
            str(count)
            for count in range(1, sizes["groups"])
            if not sizes["hidden"] % (count * heads_per_group)
        ]
        raise PassError(
            f"{why}: of its {sizes['groups']} groups of heads {' or '.join(possible) or 'only all'} can be "
            "kept, or any "
            "number if `hidden` is reduced too",
            where="prune.remove.heads",
        )
    return goals


def pruned_config(spec: PruneSpec, config: Config) -> Config | None:
    """Return the config of the pruned model; None if it cannot be derived from the config."""
    if spec.remove is None or config.get("model_type") not in DECODERS:
        return None
    try:
        goals = remaining_sizes(config, spec.remove, spec.round_to)
    except PassError:
        return None  # reported where the pass is checked
    smaller = SmallerDecoder(config, goals.hidden, goals.heads, goals.feed_forward)
    return {**config, **smaller.config_values(goals.layers)}
