"""What is known of a family of models, as data: one vocabulary for encoders of texts and images and for decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Config = Mapping[str, Any]
"""A parsed `config.json`."""

Head = Literal["none", "labels", "distilled", "words"]
"""What stands on a base model: nothing (but a pooler), a classifier, one with a second head on a distillation token,
or the scores of the next token."""

Use = Literal["lower", "embed", "take apart", "compare"]
"""What can be made of a family: an exact ONNX file; an encoder of sentences; students and pruned models; signals of its
layers, which losses compare."""


@dataclass(frozen=True)
class Role:
    """What a part of a network is, whatever its family calls it.

    `shape` names the sizes (`sizes.dimensions`) of its weight: of a linear map (out, in), of a convolution (out, in,
    kernel...). A `parameter` stands in its module without a module of its own.
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
    # Beside the layers: tables of relative positions that all of them read, and DeBERTa's convolution.
    "position_bias": Role("table", ("buckets", "heads")),
    "relative_positions": Role("table", ("distances", "hidden")),
    "relative_norm": _NORM,
    "convolution": Role("convolution", ("hidden", "hidden", "kernel")),
    "convolution_norm": _NORM,
    # In a layer: attention, whose three maps may be one, one below the other; its norms of queries and keys.
    "query": _SQUARE,
    "key": _KEY,
    "value": _KEY,
    "qkv": Role("linear", ("queries_keys_values", "hidden")),
    "query_norm": _HEAD_NORM,
    "key_norm": _HEAD_NORM,
    "position_query": _SQUARE,
    "position_key": _SQUARE,
    "attention_output": Role("linear", ("hidden", "queries")),
    # In a layer: the feed-forward part. What a gate gives is activated and multiplied with what `feed_in` gives; both
    # may be one map, the gate first.
    "feed_in": _FEED,
    "gate": _FEED,
    "gate_feed_in": Role("linear", ("gate_feed_forward", "hidden")),
    "feed_out": Role("linear", ("hidden", "feed_forward")),
    # In a layer: the norms. Where they stand is `Network.norms`; those of results stand before a result is added.
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

_READ_TOGETHER = (
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
"""What configs call the sizes that every family has."""

TEXT_KEYS: Mapping[str, str] = {**KEYS, "vocabulary": "vocab_size", "positions": "max_position_embeddings"}
"""Likewise of families of texts."""


@dataclass(frozen=True)
class Network:
    """Where the parts of a family's network stand, and of which kinds they are. Parts are named by their roles.

    `base` is what a model with a head calls its base model. Inside the base model, `layer` is the path of the layer
    `{i}`, and `outside` holds the parts around the layers. Inside a layer, `inside` holds its parts, and `attention` is
    the module that keeps the counts of heads. `heads` holds the parts on top of each kind of head, paths in the whole
    model.

    `norm`, `norms`: LayerNorm or RMSNorm, which stand `after` the sum of the stream and a result, `before` what
    attention and feed-forward read, or `around` both: before what they read, and after what they give, before the sum.
    `norm_offset` is added to the weight of a norm before it scales. `scales_words`: embeddings are multiplied with the
    square root of their width.
    `parallel`: the key of the config that lets attention and feed-forward read the same stream, if there is one.
    `qkv`: how query, key and value lie in one map: `blocks` one below the other, or `heads` head by head.
    `causal`: each token looks at those before it alone.
    `shared`: the key of the config that says how many layers have weights of their own, the others sharing them.
    `not_in_first`: roles that the lowest layer has not.
    `in_out`: linear maps inside the layers have their weight as (in, out).

    `keys`: what the config calls the sizes. `defaults`: what older configs leave out and the family's class then takes.
    `biases`: of the linear maps and LayerNorms that do not always have one: whether, or the key of the config that says
    so. `when`: of parts that some models of the family lack, whether a model has them. `computed`: sizes that are no
    key of the config. Those functions get the config with its defaults.
    """

    base: str
    layer: str
    attention: str
    inside: Mapping[str, str]
    outside: Mapping[str, str]
    heads: Mapping[Head, Mapping[str, str]]
    keys: Mapping[str, str]
    positions: Literal["learned", "relative", "rotary"] = "learned"
    norm: Literal["layer", "rms"] = "layer"
    norms: Literal["after", "before", "around"] = "after"
    norm_offset: float = 0.0
    scales_words: bool = False
    parallel: str | None = None
    qkv: Literal["blocks", "heads"] = "blocks"
    causal: bool = False
    shared: str | None = None
    not_in_first: tuple[str, ...] = ()
    in_out: bool = False
    defaults: Config = field(default_factory=dict)
    biases: Mapping[str, bool | str] = field(default_factory=dict)
    when: Mapping[str, Callable[[Config], bool]] = field(default_factory=dict)
    computed: Mapping[str, Callable[[Config], int]] = field(default_factory=dict)

    @property
    def gated(self) -> bool:
        """Whether the feed-forward part has a gate."""
        return not self.inside.keys().isdisjoint({"gate", "gate_feed_in"})

    @property
    def fused(self) -> bool:
        """Whether query, key and value are one map."""
        return "qkv" in self.inside

    @property
    def maps(self) -> tuple[tuple[str, ...], ...]:
        """The linear maps of a decoder's layer in the order of the computation, those together that read the same."""
        return tuple(tuple(role for role in roles if role in self.inside) for roles in _READ_TOGETHER)

    def has(self, role: str, config: Config) -> bool:
        """Whether a model of this config has a part, if its family has it at all."""
        return role not in self.when or self.when[role]({**self.defaults, **config})

    def has_bias(self, role: str, config: Config) -> bool:
        """Whether a part that may have a bias has one."""
        kind = ROLES[role].kind
        if kind in ("table", "parameter") or (kind == "norm" and self.norm == "rms"):
            return False
        said = self.biases.get(role, True)
        return said if isinstance(said, bool) else bool({**self.defaults, **config}[said])


@dataclass(frozen=True)
class Family:
    """What is known of a `model_type` of transformers.

    `network`: where its parts stand; None where that is not known. `cannot`: what cannot be made of it, and why, to be
    said after "a model of the family ...". `attends`: it has self-attention. `counts_from_padding`: its first position
    is the one after the padding index, so it takes so many tokens fewer than it has positions.
    """

    takes: Literal["texts", "images"]
    network: Network | None = None
    cannot: Mapping[Use, str] = field(default_factory=dict)
    attends: bool = True
    counts_from_padding: bool = False
