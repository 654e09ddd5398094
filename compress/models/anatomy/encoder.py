"""The parts of a loaded text or image encoder that can be taken apart: the BERT families and vision transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.blocks import (
    HEAD_COUNT_ATTRIBUTES,
    HEAD_SIZE_ATTRIBUTES,
    Block,
    blocks_of,
    transformer_of,
)
from compress.models.anatomy.factors import Factored, LinearLike
from compress.models.anatomy.table.families import (
    FAMILY_UNSUPPORTED,
    families_supporting,
    why_not_taken_apart,
)
from compress.models.anatomy.table.family import ROLES, Head, Network
from compress.models.anatomy.table.sizes import network_of

Part = TypeVar("Part", bound=nn.Module)


@dataclass(frozen=True)
class Layer:
    """The parts of one layer; linear layers have their weight as (out, in), and may be factored.

    `block` is the whole layer, `attention` the module that stores the head counts; `query`, `key` and `value` are
    (heads * head size, hidden), `attention_output` (hidden, heads * head size), `feed_in` (width, hidden),
    `feed_out` (hidden, width). `attention_norm` and `output_norm` come after attention and feed-forward, or before
    them in an encoder whose `norm_first` is true.
    """

    block: nn.Module
    attention: nn.Module
    query: LinearLike
    key: LinearLike
    value: LinearLike
    attention_output: LinearLike
    attention_norm: nn.LayerNorm
    feed_in: LinearLike
    feed_out: LinearLike
    output_norm: nn.LayerNorm

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.query.out_features // self.head_size

    @property
    def head_size(self) -> int:
        """Dimensions of one head."""
        return int(
            next(
                getattr(self.attention, name)
                for name in HEAD_SIZE_ATTRIBUTES
                if hasattr(self.attention, name)
            )
        )

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward network."""
        return self.feed_in.out_features

    @property
    def linear_groups(self) -> tuple[tuple[LinearLike, ...], ...]:
        """Linear layers in order of computation, grouped by shared input."""
        projections = (self.query, self.key, self.value)
        return projections, (self.attention_output,), (self.feed_in,), (self.feed_out,)

    def update_head_count(self) -> None:
        """Update the head count stored in the attention module to match the weights."""
        for name in HEAD_COUNT_ATTRIBUTES:
            if hasattr(self.attention, name):
                setattr(self.attention, name, self.heads)
        for name in ("all_head_size", "dim"):
            if hasattr(self.attention, name):
                setattr(self.attention, name, self.query.out_features)


@dataclass(frozen=True)
class Encoder:
    """The parts of a text classifier, a sentence encoder or a vision transformer with a head.

    The output of `embedding` is the input of the first layer. Text models have `words` and `embedding_norm`;
    `positions` and `token_types` are None if the family has none, `projection` if embeddings are as wide as the
    layers. Image models have `patches` (hidden, channels, side, side) and, because their layers are pre-norm, a
    `final_norm`; `bare_parameters` maps roles to the names of parameters without a module of their own: special tokens
    and the position embeddings. `head_dense` is (hidden, hidden), `head_out` (labels, hidden), `head_teacher` the same
    on a distillation token; a sentence encoder has no heads (but a pooler, if any, as `head_dense`), and a vision
    transformer no `head_dense`.
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
    bare_parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states between the layers."""
        return self.layers[0].output_norm.weight.shape[0]

    @property
    def extra_tokens(self) -> int:
        """Number of tokens before the patches of an image (class and distillation token); 0 for texts."""
        return sum(role != "places" for role in self.bare_parameters)

    def bare_tensors(self) -> dict[str, Tensor]:
        """Current parameters of `bare_parameters`: tokens (1, 1, hidden), places (1, tokens + patches, hidden)."""
        return {role: self.model.get_parameter(name) for role, name in self.bare_parameters.items()}


def encoder_of(model: nn.Module) -> Encoder:
    """Return the parts of a classifier or sentence encoder; they are references, so changing them changes the model.

    Raises:
        ModelError: the family cannot be taken apart, or the model lacks the parts of a classifier or encoder of its
            family.
    """
    transformer = transformer_of(model)
    model_type = str(transformer.config.model_type)
    if (why := why_not_taken_apart(model_type)) is not None:
        known = f"Known families: {', '.join(families_supporting('take apart'))}."
        raise ModelError(why, hint=known, code=FAMILY_UNSUPPORTED)
    is_bare = transformer is not model
    try:
        return _encoder(model, transformer, network_of(model_type), is_bare)
    except AttributeError as error:
        expected = "a text encoder" if is_bare else "a classifier"
        raise ModelError(f"this {model_type} model is not {expected}: {error}") from error


def word_embeddings_of(model: nn.Module) -> nn.Embedding:
    """Return the word embeddings of a text model, (vocabulary, width).

    Raises:
        ModelError: the family cannot be taken apart, or the model takes images.
    """
    words = encoder_of(model).words
    if words is None:
        raise ModelError(f"a {type(model).__name__} takes images: it has no vocabulary")
    return words


def _encoder(model: nn.Module, transformer: PreTrainedModel, network: Network, is_bare: bool) -> Encoder:
    base = transformer if is_bare else transformer.get_submodule(network.base)
    parts, head_parts = (
        _Parts(base, network.outer_parts),
        _Parts(transformer, network.heads[_head(transformer, network, is_bare)]),
    )
    embedding_path = network.outer_parts[
        "words" if "words" in network.outer_parts else "class_token"
    ].rpartition(".")[0]
    projection = parts.optional("projection", nn.Linear)
    roles = {
        id(base.get_parameter(path)): role
        for role, path in network.outer_parts.items()
        if ROLES[role].kind == "parameter"
    }
    bare_parameters = {
        roles[id(parameter)]: name for name, parameter in model.named_parameters() if id(parameter) in roles
    }
    return Encoder(
        model=model,
        embedding=base.get_submodule(embedding_path) if projection is None else projection,
        layers=tuple(_layer(block) for block in blocks_of(base, network)),
        norm_first=network.norm_placement == "before",
        words=parts.required("words", nn.Embedding),
        positions=parts.optional("positions", nn.Embedding),
        token_types=parts.optional("token_types", nn.Embedding),
        embedding_norm=parts.required("embedding_norm", nn.LayerNorm),
        projection=projection,
        patches=parts.required("patches", nn.Conv2d),
        final_norm=parts.required("final_norm", nn.LayerNorm),
        # A base model may be saved without its pooler.
        head_dense=(head_parts.optional if is_bare else head_parts.required)("head_dense", nn.Linear),
        head_out=head_parts.required("head_out", nn.Linear),
        head_teacher=head_parts.required("head_teacher", nn.Linear),
        bare_parameters=bare_parameters,
    )


def _head(transformer: PreTrainedModel, network: Network, is_bare: bool) -> Head:
    if is_bare:
        return "none"
    distilled = network.heads.get("distilled", {}).get("head_teacher")
    return "labels" if distilled is None or not hasattr(transformer, distilled) else "distilled"


def _layer(block: Block) -> Layer:
    def linear(role: str) -> LinearLike:
        found = block.parts[role]
        return found if isinstance(found, Factored) else _checked(found, nn.Linear, role)

    def norm(role: str) -> nn.LayerNorm:
        return _checked(block.parts[role], nn.LayerNorm, role)

    return Layer(
        block=block.module,
        attention=block.attention,
        query=linear("query"),
        key=linear("key"),
        value=linear("value"),
        attention_output=linear("attention_output"),
        attention_norm=norm("attention_norm"),
        feed_in=linear("feed_in"),
        feed_out=linear("feed_out"),
        output_norm=norm("output_norm"),
    )


def _checked(module: nn.Module, expected: type[Part], role: str) -> Part:
    if not isinstance(module, expected):
        raise AttributeError(f"`{role}` is a {type(module).__name__}, expected a {expected.__name__}")
    return module


@dataclass(frozen=True)
class _Parts:
    """Modules looked up by role, at paths inside a module."""

    module: nn.Module
    paths: Mapping[str, str]

    def required(self, role: str, kind: type[Part]) -> Part | None:
        """Return a part that every model of the family has; None if the family has none."""
        if role not in self.paths:
            return None
        return _checked(self.module.get_submodule(self.paths[role]), kind, self.paths[role])

    def optional(self, role: str, kind: type[Part]) -> Part | None:
        """Return a part that some models of the family lack; None if this one does."""
        try:
            return self.required(role, kind)
        except AttributeError:
            return None
