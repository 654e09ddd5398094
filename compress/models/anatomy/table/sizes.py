"""The sizes and parameters of a model, from its config alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from compress.core.errors import ModelError
from compress.models.anatomy.table.families import FAMILIES, FAMILY_UNSUPPORTED, why_not_taken_apart
from compress.models.anatomy.table.family import ROLES, Config, Head, Network

_LABELS = 2
"""Number of labels if the config names none."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model; `vocabulary` is None for images.

    `groups`: key-value heads, fewer than `heads` with grouped-query attention. `stored`: layers with weights of
    their own, fewer than `layers` if layers share weights.
    """

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int | None
    groups: int
    head_size: int
    stored: int


def network_of(kind: str) -> Network:
    """Return the layer structure of a `model_type`.

    Raises:
        ModelError: it is not known.
    """
    family = FAMILIES.get(kind)
    if family is None or family.network is None:
        raise ModelError(why_not_taken_apart(kind) or kind, code=FAMILY_UNSUPPORTED)
    return family.network


def sizes_of_config(config: Config) -> Sizes:
    """Return the sizes in a config, whatever its family calls them.

    Raises:
        ModelError: the layer structure of its family is not known, or a size is missing.
    """
    network = network_of(str(config.get("model_type")))
    found = dimensions(network, config)
    return Sizes(
        hidden=found["hidden"],
        layers=found["layers"],
        heads=found["heads"],
        feed_forward=found["feed_forward"],
        vocabulary=found.get("vocabulary"),
        groups=found["groups"],
        head_size=found["head_size"],
        stored=found["stored"],
    )


def dimensions(network: Network, config: Config) -> dict[str, int]:
    """Return the sizes by which the shapes of parts are given.

    Raises:
        ModelError: a size that every model has is missing.
    """
    config = {**network.defaults, **config}
    found: dict[str, int] = {
        size: value for size, key in network.keys.items() if isinstance(value := config.get(key), int)
    }
    missing = [network.keys[size] for size in ("hidden", "layers", "heads") if not found.get(size)]
    if missing:
        raise ModelError(f"its config.json lacks {', '.join(f'`{key}`' for key in missing)}")
    hidden, heads = found["hidden"], found["heads"]
    found.setdefault("feed_forward", 4 * hidden)
    found.setdefault("groups", heads)
    found.setdefault("head_size", hidden // heads)
    found.setdefault("embedding", hidden)
    found["stored"] = found["layers"] if network.shared is None else int(config[network.shared])
    found["labels"] = len(config.get("id2label") or range(_LABELS))
    found["one"] = 1
    found["queries"] = heads * found["head_size"]
    found["keys"] = found["groups"] * found["head_size"]
    found["queries_keys_values"] = found["queries"] + 2 * found["keys"]
    found["gate_feed_forward"] = 2 * found["feed_forward"]
    return found | {size: compute(config) for size, compute in network.computed.items()}


def parts_of(network: Network, config: Config, head: Head) -> Iterator[tuple[str, str]]:
    """Yield the role and the path in the whole model of every part that a model has, in no particular order."""
    base = "" if head == "none" else f"{network.base}."
    for role, path in network.outside.items():
        if network.has(role, config):
            yield role, base + path
    for layer in range(dimensions(network, config)["stored"]):
        for role, path in network.inside.items():
            if network.has(role, config) and not (layer == 0 and role in network.not_in_first):
                yield role, f"{base}{network.layer.format(i=layer)}.{path}"
    yield from network.heads[head].items()


def parameters_of(config: Config, head: Head) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every parameter of a transformers model of this config, tied ones under each name.

    Raises:
        ModelError: the layer structure of its family is not known, or it has no such head.
    """
    network = network_of(str(config.get("model_type")))
    if head not in network.heads:
        raise ModelError(f"a {config['model_type']} has no head of {head}")
    sizes = dimensions(network, config)
    found: dict[str, tuple[int, ...]] = {}
    for role, path in parts_of(network, config, head):
        kind = ROLES[role].kind
        shape = tuple(sizes[name] for name in ROLES[role].shape)
        if kind == "parameter":
            found[path] = shape
            continue
        turned = network.in_out and kind == "linear" and role in network.inside
        found[f"{path}.weight"] = shape[::-1] if turned else shape
        if network.has_bias(role, config):
            found[f"{path}.bias"] = shape[:1]
    return found


def tied_parameters(config: Config, head: Head) -> Mapping[str, str]:
    """Return the tied parameters: name -> the name of the parameter that it is tied to."""
    network = network_of(str(config.get("model_type")))
    head_words = network.heads[head].get("head_words")
    if head_words is None or not {**network.defaults, **config}["tie_word_embeddings"]:
        return {}
    return {f"{head_words}.weight": f"{network.base}.{network.outside['words']}.weight"}


def count_parameters(config: Config, head: Head) -> int:
    """Return the number of parameters of a model of this config, tied ones counted once."""
    tied = tied_parameters(config, head)
    return sum(math.prod(shape) for name, shape in parameters_of(config, head).items() if name not in tied)
