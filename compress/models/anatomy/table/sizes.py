"""The sizes and parameters of a model, from its config alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from compress.core.errors import ModelError
from compress.models.anatomy.table.families import FAMILIES, FAMILY_UNSUPPORTED, why_not_taken_apart
from compress.models.anatomy.table.family import ROLES, Config, Head, Network

_DEFAULT_LABELS = 2
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


def network_of(model_type: str) -> Network:
    """Return the layer structure of a `model_type`.

    Raises:
        ModelError: it is not known.
    """
    family = FAMILIES.get(model_type)
    if family is None or family.network is None:
        raise ModelError(why_not_taken_apart(model_type) or model_type, code=FAMILY_UNSUPPORTED)
    return family.network


def sizes_of_config(config: Config) -> Sizes:
    """Return the sizes in a config, whatever its family calls them.

    Raises:
        ModelError: the layer structure of its family is not known, or a size is missing.
    """
    network = network_of(str(config.get("model_type")))
    sizes = dimensions(network, config)
    return Sizes(
        hidden=sizes["hidden"],
        layers=sizes["layers"],
        heads=sizes["heads"],
        feed_forward=sizes["feed_forward"],
        vocabulary=sizes.get("vocabulary"),
        groups=sizes["groups"],
        head_size=sizes["head_size"],
        stored=sizes["stored"],
    )


def dimensions(network: Network, config: Config) -> dict[str, int]:
    """Return the sizes by which the shapes of parts are given.

    Raises:
        ModelError: a size that every model has is missing.
    """
    config = {**network.defaults, **config}
    sizes: dict[str, int] = {
        size: value for size, key in network.keys.items() if isinstance(value := config.get(key), int)
    }
    missing = [network.keys[size] for size in ("hidden", "layers", "heads") if not sizes.get(size)]
    if missing:
        raise ModelError(f"its config.json lacks {', '.join(f'`{key}`' for key in missing)}")
    hidden, heads = sizes["hidden"], sizes["heads"]
    sizes.setdefault("feed_forward", 4 * hidden)
    sizes.setdefault("groups", heads)
    sizes.setdefault("head_size", hidden // heads)
    sizes.setdefault("embedding", hidden)
    sizes["stored"] = (
        sizes["layers"] if network.shared_layers_key is None else int(config[network.shared_layers_key])
    )
    sizes["labels"] = len(config.get("id2label") or range(_DEFAULT_LABELS))
    sizes["one"] = 1
    sizes["queries"] = heads * sizes["head_size"]
    sizes["keys"] = sizes["groups"] * sizes["head_size"]
    sizes["queries_keys_values"] = sizes["queries"] + 2 * sizes["keys"]
    sizes["gate_feed_forward"] = 2 * sizes["feed_forward"]
    return sizes | {size: compute(config) for size, compute in network.computed_sizes.items()}


def parts_of(network: Network, config: Config, head: Head) -> Iterator[tuple[str, str]]:
    """Yield the role and the path in the whole model of every part that a model has, in no particular order."""
    base = "" if head == "none" else f"{network.base}."
    for role, path in network.outer_parts.items():
        if network.has_part(role, config):
            yield role, base + path
    for layer in range(dimensions(network, config)["stored"]):
        for role, path in network.layer_parts.items():
            if network.has_part(role, config) and not (layer == 0 and role in network.not_in_first):
                yield role, f"{base}{network.layer_path.format(i=layer)}.{path}"
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
    shapes: dict[str, tuple[int, ...]] = {}
    for role, path in parts_of(network, config, head):
        kind = ROLES[role].kind
        shape = tuple(sizes[name] for name in ROLES[role].shape)
        if kind == "parameter":
            shapes[path] = shape
            continue
        is_transposed = network.transposed and kind == "linear" and role in network.layer_parts
        shapes[f"{path}.weight"] = shape[::-1] if is_transposed else shape
        if network.has_bias(role, config):
            shapes[f"{path}.bias"] = shape[:1]
    return shapes


def tied_parameters(config: Config, head: Head) -> Mapping[str, str]:
    """Return the tied parameters: name -> the name of the parameter that it is tied to."""
    network = network_of(str(config.get("model_type")))
    head_words = network.heads[head].get("head_words")
    if head_words is None or not {**network.defaults, **config}["tie_word_embeddings"]:
        return {}
    return {f"{head_words}.weight": f"{network.base}.{network.outer_parts['words']}.weight"}


def count_parameters(config: Config, head: Head) -> int:
    """Return the number of parameters of a model of this config, tied ones counted once."""
    tied = tied_parameters(config, head)
    return sum(math.prod(shape) for name, shape in parameters_of(config, head).items() if name not in tied)
