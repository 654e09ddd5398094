"""Where the parts of an encoder stand: one vocabulary for BERT and its relatives and for vision transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, cast

from torch import nn
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.factors import Factored, Map
from compress.profile.model_checks.families import FAMILY_UNSUPPORTED, why_whole

Part = TypeVar("Part", bound=nn.Module)


@dataclass(frozen=True)
class Layer:
    """The parts of one layer; linear maps have their weight as (out, in), and may be factored.

    `block` is the whole layer, `attention` the module that keeps the head counts; `query`, `key` and `value` are
    (heads * head size, hidden), `attention_output` (hidden, heads * head size), `feed_in` (width, hidden), `feed_out`
    (hidden, width). `attention_norm` and `output_norm` stand after attention and feed-forward, or before them in an
    encoder whose `norm_first` is true.
    """

    block: nn.Module
    attention: nn.Module
    query: Map
    key: Map
    value: Map
    attention_output: Map
    attention_norm: nn.LayerNorm
    feed_in: Map
    feed_out: Map
    output_norm: nn.LayerNorm

    @property
    def heads(self) -> int:
        """How many attention heads the layer has."""
        return self.query.out_features // self.head_size

    @property
    def head_size(self) -> int:
        """Dimensions of one head."""
        name = "attention_head_size" if hasattr(self.attention, "attention_head_size") else "head_dim"
        return cast(int, getattr(self.attention, name))

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
    """The parts of a text classifier, a sentence encoder or a vision transformer with a head.

    `embedding` gives the stream that the first layer reads. Texts have `words` and `embedding_norm`; `positions` and
    `token_types` are None where the family has none, `projection` where embeddings are as wide as the layers. Images
    have `patches` (hidden, channels, side, side) and, because their layers normalise first, a `final_norm`.
    `head_dense` is (hidden, hidden), `head_out` (labels, hidden), `head_teacher` the same on a distillation token; a
    sentence encoder has no heads (but a pooler, if any, as `head_dense`), and a vision transformer no `head_dense`.
    """

    model: nn.Module
    embedding: nn.Module
    layers: tuple[Layer, ...]
    norm_first: bool = False
    words: nn.Embedding | None = None
    positions: nn.Embedding | None = None
    token_types: nn.Embedding | None = None
    embedding_norm: nn.LayerNorm | None = None
    projection: nn.Linear | None = None
    patches: nn.Conv2d | None = None
    final_norm: nn.LayerNorm | None = None
    head_dense: nn.Linear | None = None
    head_out: nn.Linear | None = None
    head_teacher: nn.Linear | None = None

    @property
    def hidden_size(self) -> int:
        """Width of the stream between the layers."""
        return self.layers[0].output_norm.weight.shape[0]

    @property
    def extra_tokens(self) -> int:
        """How many tokens stand before the patches of an image: class and distillation token; 0 for texts."""
        names = ("cls_token", "distillation_token")
        return sum(getattr(self.embedding, name, None) is not None for name in names)


@dataclass(frozen=True)
class _Family:
    """Paths: `layers`, `embeddings` and `projection` inside the base model, heads inside the whole, the rest inside
    those. `base` is what the whole calls the base model."""

    base: str
    layers: str
    layer: dict[str, str]
    head_dense: str | None = None
    head_out: str | None = None
    embeddings: str = "embeddings"
    projection: str | None = None
    vision: bool = False


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

_VIT_LAYER = {
    "attention": "attention",
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "attention_output": "attention.o_proj",
    "attention_norm": "layernorm_before",
    "feed_in": "mlp.fc1",
    "feed_out": "mlp.fc2",
    "output_norm": "layernorm_after",
}


def _bert_like(base: str, head_dense: str, head_out: str, projection: str | None = None) -> _Family:
    return _Family(base, "encoder.layer", _BERT_LAYER, head_dense, head_out, projection=projection)


_ROBERTA = _bert_like("roberta", "classifier.dense", "classifier.out_proj")

FAMILIES: dict[str, _Family] = {
    "bert": _bert_like("bert", "bert.pooler.dense", "classifier"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": _bert_like("electra", "classifier.dense", "classifier.out_proj", "embeddings_project"),
    "distilbert": _Family(
        "distilbert", "transformer.layer", _DISTILBERT_LAYER, "pre_classifier", "classifier"
    ),
    "vit": _Family("vit", "layers", _VIT_LAYER, head_out="classifier", vision=True),
    "deit": _Family("deit", "layers", _VIT_LAYER, head_out="classifier", vision=True),
}
"""Model types that we can take apart: classifiers of texts and of images, and the text encoders alone."""


def transformer_of(model: nn.Module) -> PreTrainedModel:
    """The model of transformers that has the config: the model itself, or the encoder inside a sentence encoder.

    Raises:
        ModelError: there is none.
    """
    if isinstance(model, PreTrainedModel):
        return model
    inside = getattr(model, "encoder", None)
    if isinstance(inside, PreTrainedModel):
        return inside
    raise ModelError(
        f"a {type(model).__name__} is no transformer whose layers we know",
        hint=f"Known families: {', '.join(sorted(FAMILIES))}.",
    )


def encoder_of(model: nn.Module) -> Encoder:
    """The parts of a classifier or a sentence encoder. They are the model's own: changing them changes the model.

    Raises:
        ModelError: the family is unknown, or the model has not the parts of a classifier of it.
    """
    inside = transformer_of(model)
    kind = str(inside.config.model_type)
    family = FAMILIES.get(kind)
    if family is None:
        raise ModelError(
            why_whole(kind) or f"where the layers of a {kind!r} model stand is not known",
            hint=f"Known families: {', '.join(sorted(FAMILIES))}.",
            code=FAMILY_UNSUPPORTED,
        )
    alone = inside is not model
    try:
        base = inside if alone else inside.get_submodule(family.base)
        if family.vision:
            return _vision(model, base, inside, family)
        return _text(model, base, inside, family, alone)
    except AttributeError as error:
        whole = "an encoder of texts" if alone else "a classifier"
        raise ModelError(f"this {kind} model is not {whole}: {error}") from error


def _text(model: nn.Module, base: nn.Module, inside: nn.Module, family: _Family, alone: bool) -> Encoder:
    embeddings = base.get_submodule(family.embeddings)
    projection = None if family.projection is None else _optional(base, family.projection, nn.Linear)
    head_dense: nn.Linear | None
    if alone:
        head_dense = _optional(base, "pooler.dense", nn.Linear)
    else:
        head_dense = _part(inside, str(family.head_dense), nn.Linear)
    return Encoder(
        model=model,
        embedding=embeddings if projection is None else projection,
        layers=_layers(base, family),
        words=_part(embeddings, "word_embeddings", nn.Embedding),
        positions=_optional(embeddings, "position_embeddings", nn.Embedding),
        token_types=_optional(embeddings, "token_type_embeddings", nn.Embedding),
        embedding_norm=_part(embeddings, "LayerNorm", nn.LayerNorm),
        projection=projection,
        head_dense=head_dense,
        head_out=None if alone else _part(inside, str(family.head_out), nn.Linear),
    )


def _vision(model: nn.Module, base: nn.Module, inside: nn.Module, family: _Family) -> Encoder:
    embeddings = base.get_submodule(family.embeddings)
    teacher = _optional(inside, "distillation_classifier", nn.Linear)
    return Encoder(
        model=model,
        embedding=embeddings,
        layers=_layers(base, family),
        norm_first=True,
        patches=_part(embeddings, "patch_embeddings.projection", nn.Conv2d),
        final_norm=_part(base, "layernorm", nn.LayerNorm),
        head_out=_part(inside, str(family.head_out) if teacher is None else "cls_classifier", nn.Linear),
        head_teacher=teacher,
    )


def _layers(base: nn.Module, family: _Family) -> tuple[Layer, ...]:
    return tuple(_layer(layer, family.layer) for layer in base.get_submodule(family.layers).children())


def words_of(model: nn.Module) -> nn.Embedding:
    """The word embeddings of a model of texts, (vocabulary, width).

    Raises:
        ModelError: the family is unknown, or the model takes images.
    """
    words = encoder_of(model).words
    if words is None:
        raise ModelError(f"a {type(model).__name__} takes images: it has no vocabulary")
    return words


def _layer(layer: nn.Module, paths: dict[str, str]) -> Layer:
    def linear(name: str) -> Map:
        found = layer.get_submodule(paths[name])
        return found if isinstance(found, Factored) else _part(layer, paths[name], nn.Linear)

    return Layer(
        block=layer,
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
