"""Where the parts of an encoder stand: one vocabulary for BERT and its relatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, cast

from optimum.utils import NormalizedConfigManager
from torch import nn
from transformers import PreTrainedModel

from compress.errors import ModelError

Part = TypeVar("Part", bound=nn.Module)


@dataclass(frozen=True)
class Layer:
    """The parts of one layer; linear maps have their weight as (out, in).

    `attention` is the module that keeps the head counts; `query`, `key` and `value` are (heads * head size,
    hidden), `attention_output` (hidden, heads * head size), `feed_in` (width, hidden), `feed_out` (hidden,
    width).
    """

    attention: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    attention_norm: nn.LayerNorm
    feed_in: nn.Linear
    feed_out: nn.Linear
    output_norm: nn.LayerNorm

    @property
    def heads(self) -> int:
        """How many attention heads the layer has."""
        return self.query.out_features // self.head_size

    @property
    def head_size(self) -> int:
        """Dimensions of one head."""
        return cast(int, self.attention.attention_head_size)

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward part."""
        return self.feed_in.out_features

    def note_heads(self) -> None:
        """Write the head count that the weights now have into the attention module."""
        for name in ("num_attention_heads", "n_heads"):
            if hasattr(self.attention, name):
                setattr(self.attention, name, self.heads)
        for name in ("all_head_size", "dim"):
            if hasattr(self.attention, name):
                setattr(self.attention, name, self.query.out_features)


@dataclass(frozen=True)
class Encoder:
    """The parts of a text classifier.

    `positions` and `token_types` are None where the family has none, `projection` where embeddings are as
    wide as the layers. `head_dense` is (hidden, hidden), `head_out` (labels, hidden).
    """

    model: PreTrainedModel
    words: nn.Embedding
    positions: nn.Embedding | None
    token_types: nn.Embedding | None
    embedding_norm: nn.LayerNorm
    projection: nn.Linear | None
    layers: tuple[Layer, ...]
    head_dense: nn.Linear
    head_out: nn.Linear

    @property
    def hidden_size(self) -> int:
        """Width of the stream between the layers."""
        return self.layers[0].feed_in.in_features


@dataclass(frozen=True)
class _Family:
    """Paths: `layers` and `embeddings` inside the model, the rest inside those."""

    embeddings: str
    layers: str
    layer: dict[str, str]
    head_dense: str
    head_out: str
    projection: str | None = None


_BERT_LAYER = {
    "attention": "attention.self",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_in": "intermediate.dense",
    "feed_out": "output.dense",
    "output_norm": "output.LayerNorm",
}

_DISTILBERT_LAYER = {
    "attention": "attention",
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "attention_output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "feed_in": "ffn.lin1",
    "feed_out": "ffn.lin2",
    "output_norm": "output_layer_norm",
}


def _bert_like(base: str, head_dense: str, head_out: str, projection: str | None = None) -> _Family:
    return _Family(
        f"{base}.embeddings", f"{base}.encoder.layer", _BERT_LAYER, head_dense, head_out, projection
    )


_ROBERTA = _bert_like("roberta", "classifier.dense", "classifier.out_proj")

FAMILIES: dict[str, _Family] = {
    "bert": _bert_like("bert", "bert.pooler.dense", "classifier"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": _bert_like(
        "electra", "classifier.dense", "classifier.out_proj", projection="electra.embeddings_project"
    ),
    "distilbert": _Family(
        "distilbert.embeddings",
        "distilbert.transformer.layer",
        _DISTILBERT_LAYER,
        "pre_classifier",
        "classifier",
    ),
}
"""Model types whose text classifiers we can take apart."""


def encoder_of(model: PreTrainedModel) -> Encoder:
    """The parts of a text classifier. They are the model's own modules: changing them changes the model.

    Raises:
        ModelError: the family is unknown, or the model has not the parts of a text classifier of it.
    """
    kind = str(model.config.model_type)
    family = FAMILIES.get(kind)
    if family is None:
        raise ModelError(
            f"do not know where the layers of a {kind!r} model stand",
            hint=f"Known families: {', '.join(sorted(FAMILIES))}.",
        )
    try:
        embeddings = model.get_submodule(family.embeddings)
        layers = model.get_submodule(family.layers)
        return Encoder(
            model=model,
            words=_part(embeddings, "word_embeddings", nn.Embedding),
            positions=_optional(embeddings, "position_embeddings", nn.Embedding),
            token_types=_optional(embeddings, "token_type_embeddings", nn.Embedding),
            embedding_norm=_part(embeddings, "LayerNorm", nn.LayerNorm),
            projection=None if family.projection is None else _optional(model, family.projection, nn.Linear),
            layers=tuple(_layer(layer, family.layer) for layer in layers.children()),
            head_dense=_part(model, family.head_dense, nn.Linear),
            head_out=_part(model, family.head_out, nn.Linear),
        )
    except AttributeError as error:
        raise ModelError(f"this {kind} model is not a text classifier: {error}") from error


def _layer(layer: nn.Module, paths: dict[str, str]) -> Layer:
    def linear(name: str) -> nn.Linear:
        return _part(layer, paths[name], nn.Linear)

    return Layer(
        attention=layer.get_submodule(paths["attention"]),
        query=linear("query"),
        key=linear("key"),
        value=linear("value"),
        attention_output=linear("attention_output"),
        attention_norm=_part(layer, paths["attention_norm"], nn.LayerNorm),
        feed_in=linear("feed_in"),
        feed_out=linear("feed_out"),
        output_norm=_part(layer, paths["output_norm"], nn.LayerNorm),
    )


def _part(module: nn.Module, path: str, kind: type[Part]) -> Part:
    found = module.get_submodule(path)
    if not isinstance(found, kind):
        raise AttributeError(f"`{path}` is a {type(found).__name__}, expected a {kind.__name__}")
    return found


def _optional(module: nn.Module, path: str, kind: type[Part]) -> Part | None:
    try:
        return _part(module, path, kind)
    except AttributeError:
        return None


@dataclass(frozen=True)
class Sizes:
    """The sizes of an encoder as its config gives them."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int


_FEED_FORWARD_NAMES = ("intermediate_size", "hidden_dim")


def sizes_of(model: PreTrainedModel) -> Sizes:
    """The sizes that the config of a model names, whatever the family calls them."""
    config = NormalizedConfigManager.get_normalized_config_class(model.config.model_type)(model.config)
    return Sizes(
        hidden=config.hidden_size,
        layers=config.num_layers,
        heads=config.num_attention_heads,
        feed_forward=getattr(model.config, feed_forward_key(model)),
        vocabulary=config.vocab_size,
    )


def config_keys(model: PreTrainedModel) -> dict[str, str]:
    """What the model's config calls the sizes: `hidden`, `layers`, `heads`, `feed_forward`, `vocabulary`."""
    config = NormalizedConfigManager.get_normalized_config_class(model.config.model_type)(model.config)
    return {
        "hidden": config.HIDDEN_SIZE,
        "layers": config.NUM_LAYERS,
        "heads": config.NUM_ATTENTION_HEADS,
        "feed_forward": feed_forward_key(model),
        "vocabulary": config.VOCAB_SIZE,
    }


def feed_forward_key(model: PreTrainedModel) -> str:
    """What the model's config calls the feed-forward width; optimum has no word for it."""
    return next(name for name in _FEED_FORWARD_NAMES if name in model.config.to_dict())
