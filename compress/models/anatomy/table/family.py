"""Descriptions of model families as data, in one vocabulary for text encoders, image encoders and decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Config = Mapping[str, Any]
"""A parsed `config.json`."""

Head = Literal["none", "labels", "distilled", "words"]
"""Head on top of a base model: none (but a pooler), a classifier, a classifier with a second head on a distillation
token, or a language-modelling head."""

Operation = Literal["lower", "embed", "take apart", "compare"]
"""Operations a family may support: exact ONNX export; use as a sentence encoder; student and pruned models; losses
that compare signals of its layers."""


@dataclass(frozen=True)
class Role:
    """A part of a network, independent of what its family calls it.

    `shape` names the sizes (see `sizes.dimensions`) of its weight: (out, in) for a linear layer, (out, in,
    kernel...) for a convolution. A `parameter` has no module of its own.
    """

    kind: Literal["table", "linear", "norm", "convolution", "parameter"]
    shape: tuple[str, ...]


_NORM = Role("norm", ("hidden",))
_HEAD_NORM = Role("norm", ("head_size",))
_KEY = Role("linear", ("keys", "hidden"))
_SQUARE = Role("linear", ("queries", "hidden"))
_FEED = Role("linear", ("feed_forward", "hidden"))
_LABELS = Role("linear", ("labels", "hidden"))
_TOKEN = Role("parameter", ("one", "one", "hidden"))

ROLES: Mapping[str, Role] = {
    # Before the layers.
    "words": Role("table", ("vocabulary", "embedding")),
    "positions": Role("table", ("positions", "embedding")),
    "token_types": Role("table", ("types", "embedding")),
    "embedding_norm": Role("norm", ("embedding",)),
    "projection": Role("linear", ("hidden", "embedding")),
    "projected_norm": _NORM,
    "patches": Role("convolution", ("hidden", "channels", "patch_height", "patch_width")),
    "class_token": _TOKEN,
    "distillation_token": _TOKEN,
    "places": Role("parameter", ("one", "places", "hidden")),
    # Beside the layers: tables of relative positions that all layers read, and DeBERTa's convolution.
    "position_bias": Role("table", ("buckets", "heads")),
    "relative_positions": Role("table", ("distances", "hidden")),
    "relative_norm": _NORM,
    "convolution": Role("convolution", ("hidden", "hidden", "kernel")),
    "convolution_norm": _NORM,
    # In a layer: attention, whose three projections may be one fused layer with rows stacked; norms of queries and
    # keys.
    "query": _SQUARE,
    "key": _KEY,
    "value": _KEY,
    "qkv": Role("linear", ("queries_keys_values", "hidden")),
    "query_norm": _HEAD_NORM,
    "key_norm": _HEAD_NORM,
    "position_query": _SQUARE,
    "position_key": _SQUARE,
    "attention_output": Role("linear", ("hidden", "queries")),
    # In a layer: the feed-forward network. The activated output of a gate is multiplied with the output of
    # `feed_in`; both may be one fused layer, gate first.
    "feed_in": _FEED,
    "gate": _FEED,
    "gate_feed_in": Role("linear", ("gate_feed_forward", "hidden")),
    "feed_out": Role("linear", ("hidden", "feed_forward")),
    # In a layer: the norms. `Network.norm_placement` gives their placement; result norms apply before a result is
    # added.
    "attention_norm": _NORM,
    "attention_result_norm": _NORM,
    "output_norm": _NORM,
    "output_result_norm": _NORM,
    # After the layers.
    "final_norm": _NORM,
    "head_dense": Role("linear", ("hidden", "hidden")),
    "head_norm": _NORM,
    "head_out": _LABELS,
    "head_teacher": _LABELS,
    "head_words": Role("linear", ("vocabulary", "hidden")),
}
"""Every part that a network may have."""

_SHARED_INPUT_ROLES = (
    ("qkv", "query", "key", "value"),
    ("attention_output",),
    ("gate_feed_in", "gate", "feed_in"),
    ("feed_out",),
)

KEYS: Mapping[str, str] = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "feed_forward": "intermediate_size",
}
"""Config keys of the sizes that every family has."""

TEXT_KEYS: Mapping[str, str] = {**KEYS, "vocabulary": "vocab_size", "positions": "max_position_embeddings"}
"""Config keys of the sizes that every text family has."""


@dataclass(frozen=True)
class Network:
    """The layer structure of a family: the paths and kinds of its parts, which are named by their roles.

    `base` is the attribute of a model with a head that holds its base model. Inside the base model, `layer_path` is the
    path of the layer `{i}`, and `outer_parts` holds the parts around the layers. Inside a layer, `layer_parts` holds
    its parts, and `attention` is the module that stores the head counts. `heads` holds the parts of each kind of head,
    as paths in the whole model.

    `norm_type`, `norm_placement`: LayerNorm or RMSNorm, applied `after` each residual addition (post-norm), `before`
    attention and feed-forward (pre-norm), or `around` both: before their input and on their output before the addition.
    `norm_offset` is added to the weight of a norm before it scales. `scales_embeddings`: embeddings are multiplied by
    the square root of their width.
    `parallel_key`: the config key that makes attention and feed-forward read the same hidden state, if there is one.
    `qkv`: layout of query, key and value in a fused layer: `blocks` stacked one after the other, or `heads`
    interleaved per head.
    `causal`: each token attends only to itself and earlier tokens.
    `shared_layers_key`: the config key for the number of layers with weights of their own, which the other layers
    share. `not_in_first`: roles that the lowest layer lacks.
    `transposed`: linear layers inside the layers have their weight as (in, out).

    `keys`: config keys of the sizes. `defaults`: values that the family's class uses for keys missing from older
    configs. `biases`: for linear layers and LayerNorms that do not always have a bias: whether they do, or the
    config key that decides. `present_if`: for parts that some models of the family lack, whether a model has them.
    `computed_sizes`: sizes that are not config keys. These functions receive the config with its defaults.
    """

    base: str
    layer_path: str
    attention: str
    layer_parts: Mapping[str, str]
    outer_parts: Mapping[str, str]
    heads: Mapping[Head, Mapping[str, str]]
    keys: Mapping[str, str]
    positions: Literal["learned", "relative", "rotary"] = "learned"
    norm_type: Literal["layer", "rms"] = "layer"
    norm_placement: Literal["after", "before", "around"] = "after"
    norm_offset: float = 0.0
    scales_embeddings: bool = False
    parallel_key: str | None = None
    qkv: Literal["blocks", "heads"] = "blocks"
    causal: bool = False
    shared_layers_key: str | None = None
    not_in_first: tuple[str, ...] = ()
    transposed: bool = False
    defaults: Config = field(default_factory=dict)
    biases: Mapping[str, bool | str] = field(default_factory=dict)
    present_if: Mapping[str, Callable[[Config], bool]] = field(default_factory=dict)
    computed_sizes: Mapping[str, Callable[[Config], int]] = field(default_factory=dict)

    @property
    def gated(self) -> bool:
        """Whether the feed-forward network is gated."""
        return not self.layer_parts.keys().isdisjoint({"gate", "gate_feed_in"})

    @property
    def fused(self) -> bool:
        """Whether query, key and value are one fused layer."""
        return "qkv" in self.layer_parts

    @property
    def linear_groups(self) -> tuple[tuple[str, ...], ...]:
        """Linear layers of a decoder layer in order of computation, grouped by shared input."""
        return tuple(
            tuple(role for role in roles if role in self.layer_parts) for roles in _SHARED_INPUT_ROLES
        )

    def has_part(self, role: str, config: Config) -> bool:
        """Whether a model of this config has a part that its family may have."""
        return role not in self.present_if or self.present_if[role]({**self.defaults, **config})

    def has_bias(self, role: str, config: Config) -> bool:
        """Whether a part has a bias."""
        kind = ROLES[role].kind
        if kind in ("table", "parameter") or (kind == "norm" and self.norm_type == "rms"):
            return False
        bias = self.biases.get(role, True)
        return bias if isinstance(bias, bool) else bool({**self.defaults, **config}[bias])


@dataclass(frozen=True)
class Family:
    """What is known of a `model_type` of transformers.

    `network`: its layer structure; None if not known. `cannot`: unsupported operations and the reason, phrased to
    follow "a model of the family ...". `has_attention`: it has self-attention. `positions_after_padding`: positions are
    numbered from the padding index + 1, so it takes that many fewer tokens than it has positions.
    """

    modality: Literal["texts", "images"]
    network: Network | None = None
    cannot: Mapping[Operation, str] = field(default_factory=dict)
    has_attention: bool = True
    positions_after_padding: bool = False
