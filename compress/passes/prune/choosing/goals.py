"""What pruning leaves of a decoder, from its config alone."""

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
class DecoderGoals:
    """The sizes that are left, alike in every layer; `multiple`: of what the width of the stream is one where it
    shrinks."""

    layers: int
    groups: int
    heads: int
    feed_forward: int
    hidden: int
    multiple: int


def decoder_goals(config: Config, remove: RemoveSpec, round_to: int) -> DecoderGoals:
    """What is left of a decoder whose heads may go.

    Raises:
        PassError: a fraction removes nothing or everything, or there is no model of the heads that it leaves.
    """
    sizes = dimensions(network_of(str(config["model_type"])), config)
    groups = kept_count(sizes["groups"], remove.heads, "heads")
    each = sizes["heads"] // sizes["groups"]
    # What transformers takes of a config.
    multiple = math.lcm(round_to, groups * each)
    found = DecoderGoals(
        layers=kept_count(sizes["layers"], remove.layers, "layers"),
        groups=groups,
        heads=groups * each,
        feed_forward=kept_width(sizes["feed_forward"], remove.feed_forward, round_to),
        hidden=kept_width(sizes["hidden"], remove.hidden, multiple, "hidden"),
        multiple=multiple,
    )
    faults = SmallerDecoder(config, found.hidden, found.heads, found.feed_forward).faults()
    for _, why in faults if remove.heads else ():
        may = [str(count) for count in range(1, sizes["groups"]) if not sizes["hidden"] % (count * each)]
        raise PassError(
            f"{why}: of its {sizes['groups']} groups of heads {' or '.join(may) or 'only all'} can be kept, or any "
            "number if `hidden` is reduced too",
            where="prune.remove.heads",
        )
    return found


def config_left(spec: PruneSpec, config: Config) -> Config | None:
    """The config of what is left of a model; None where only the pass tells."""
    if spec.remove is None or config.get("model_type") not in DECODERS:
        return None
    try:
        goals = decoder_goals(config, spec.remove, spec.round_to)
    except PassError:
        return None  # told where the pass is checked
    smaller = SmallerDecoder(config, goals.hidden, goals.heads, goals.feed_forward)
    return {**config, **smaller.described(goals.layers)}
