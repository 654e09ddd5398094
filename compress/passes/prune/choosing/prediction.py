"""Predict the size of a pruned model from its files, in closed form: without torch, and without loading weights."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from compress.core.artifacts import MODEL_CONFIG, TORCH_WEIGHTS
from compress.core.disk.reading import read_mapping
from compress.core.errors import ModelError, PassError
from compress.models.anatomy.table.decoders import DECODERS
from compress.models.anatomy.table.families import why_not_taken_apart
from compress.models.anatomy.table.family import Config
from compress.models.anatomy.table.sizes import dimensions, network_of
from compress.passes.prune.spec import PruneSpec, RemoveSpec

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class LayerSizes:
    """Sizes of an encoder layer whose linear maps have biases; `num_biases` counts those of query, key and value.

    `attention_features` is (columns of the query map, rows of the output map), `feed_forward_features` the same of the
    two feed-forward maps; None if those maps are not factored, when both are `hidden`.
    """

    hidden: int
    heads: int
    head_size: int
    feed_forward: int
    attention_features: tuple[int, int] | None = None
    feed_forward_features: tuple[int, int] | None = None
    num_biases: int = 3

    @property
    def head_parameters(self) -> int:
        """Parameters of one head: rows of query, key and value with their biases, columns of the output map."""
        reads, writes = self.attention_features or (self.hidden, self.hidden)
        return self.head_size * (3 * reads + self.num_biases + writes)

    @property
    def unit_parameters(self) -> int:
        """Parameters of one feed-forward unit: a row with its bias, and a column."""
        reads, writes = self.feed_forward_features or (self.hidden, self.hidden)
        return reads + writes + 1


@dataclass(frozen=True)
class ModelSizes:
    """Number of parameters of a model, and the sizes of its layers, first layer first."""

    parameters: int
    layers: tuple[LayerSizes, ...]


def kept_count(total: int, fraction: float, what: str) -> int:
    """Return how many heads or layers remain when `fraction` of them is removed: rounded half up, at least one.

    Args:
        what: `heads` or `layers`, as named in the profile.

    Raises:
        PassError: the fraction removes nothing.
    """
    kept = max(1, math.floor(total * (1 - fraction) + 0.5))
    if fraction > 0 and kept == total:
        raise PassError(
            f"{fraction:g} of {total} {what} is less than one {what[:-1]}: nothing would be removed",
            where=f"prune.remove.{what}",
        )
    return kept


def kept_width(width: int, fraction: float, round_to: int, what: str = "feed_forward") -> int:
    """Return the feed-forward (or hidden) width that remains when `fraction` is removed: a multiple of `round_to`.

    Raises:
        PassError: the fraction removes nothing or everything.
    """
    if fraction == 0:
        return width
    kept = round_to * math.floor(width * (1 - fraction) / round_to + 0.5)
    if kept == 0 or kept >= width:
        fault = "nothing would be left" if kept == 0 else "nothing would be removed"
        raise PassError(
            f"{fraction:g} of a {what.replace('_', '-')} width of {width}, the rest rounded to a multiple of "
            f"{round_to}: {fault}",
            where=f"prune.remove.{what}",
            hint="Change the fraction, or lower `round_to`.",
        )
    return kept


def kept_channels(width: int, fraction: float, multiple: int) -> int:
    """Return how many channels of a convolution remain when `fraction` is removed.

    The result is the nearest multiple of `multiple`, at least one multiple; the full width if that is no larger.
    """
    kept = multiple * math.floor(width * (1 - fraction) / multiple + 0.5)
    return min(width, max(multiple, kept))


def pruned_parameters(sizes: ModelSizes, remove: RemoveSpec, round_to: int) -> int:
    """Return the number of parameters that remain when every layer loses its fractions.

    Raises:
        PassError: a fraction removes nothing, or leaves nothing.
    """
    removed = sum(
        (layer.heads - kept_count(layer.heads, remove.heads, "heads")) * layer.head_parameters
        + (layer.feed_forward - kept_width(layer.feed_forward, remove.feed_forward, round_to))
        * layer.unit_parameters
        for layer in sizes.layers
    )
    return sizes.parameters - removed


def predicted(spec: PruneSpec, folder: Path) -> int | None:
    """Return the parameters of the pruned model of a torch-form folder.

    None if more is removed than heads and feed-forward width of each layer, which depends on the loaded model and the
    data.

    Raises:
        ModelError: the folder has no encoder with known layers.
        PassError: a fraction removes nothing, or leaves nothing.
    """
    remove = spec.remove
    if remove is None or spec.scope == "global":
        return None
    if remove.channels or remove.layers or remove.hidden or remove.vocabulary != "keep":
        return None
    # For decoders it is derived from the config of the pruned model.
    if read_mapping(folder / MODEL_CONFIG).get("model_type") in DECODERS:
        return None
    return pruned_parameters(read_sizes(folder), remove, spec.round_to)


def read_sizes(folder: Path) -> ModelSizes:
    """Read the sizes of a torch-form folder's model, including irregular ones, from the header of its weights.

    Raises:
        ModelError: the folder has no encoder with known layers.
    """
    try:
        config = read_mapping(folder / MODEL_CONFIG)
        with safe_open(folder / TORCH_WEIGHTS, framework="numpy") as tensors:
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"cannot read the sizes of this model: {error}", where=str(folder)) from error
    kind = str(config.get("model_type"))
    if (why := why_not_taken_apart(kind)) is not None:
        raise ModelError(why, where=str(folder))
    layers = layer_sizes(shapes, config)
    if not layers:
        raise ModelError("no encoder layers with known parts", where=str(folder))
    return ModelSizes(sum(math.prod(shape) for shape in shapes.values()), layers)


def layer_sizes(shapes: Shapes, config: Config) -> tuple[LayerSizes, ...]:
    """Return the layers found in the shapes of a model's weights, by number.

    Args:
        config: of a supported model family.
    """
    network = network_of(str(config["model_type"]))
    head_size = dimensions(network, config)["head_size"]
    biases = sum(network.has_bias(role, config) for role in ("query", "key", "value"))
    # For factored maps, use the factor that loses rows or columns with a head or a unit.
    parts = {"query": "second", "attention_output": "first", "feed_in": "second", "feed_out": "first"}
    shapes_by_role: dict[str, dict[int, tuple[int, ...]]] = {}
    for role, factor in parts.items():
        prefix, own = (re.escape(path) for path in network.layer_path.split("{i}"))
        pattern = re.compile(
            rf"(?:.+\.)?{prefix}(\d+){own}\.{re.escape(network.layer_parts[role])}(?:\.{factor})?\.weight"
        )
        matches = ((pattern.fullmatch(name), shape) for name, shape in shapes.items())
        shapes_by_role[role] = {int(match[1]): shape for match, shape in matches if match}
    query, output, feed_in, feed_out = shapes_by_role.values()
    layers = []
    for layer in sorted(query.keys() & output.keys() & feed_in.keys() & feed_out.keys()):
        attention = (query[layer][1], output[layer][0])
        feed = (feed_in[layer][1], feed_out[layer][0])
        # If every map is factored this is the largest rank; nothing is computed from it then.
        hidden = max(*attention, *feed)
        layers.append(
            LayerSizes(
                hidden=hidden,
                heads=query[layer][0] // head_size,
                head_size=head_size,
                feed_forward=feed_in[layer][0],
                attention_features=None if attention == (hidden, hidden) else attention,
                feed_forward_features=None if feed == (hidden, hidden) else feed,
                num_biases=biases,
            )
        )
    return tuple(layers)
