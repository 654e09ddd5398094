"""The parts of a loaded text or image encoder that can be taken apart: the BERT families and vision transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.blocks import HEAD_SIZE, HEADS, Block, blocks_of, transformer_of
from compress.models.anatomy.factors import Factored, Map
from compress.models.anatomy.table.families import FAMILY_UNSUPPORTED, families_that_can, why_not_taken_apart
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
        """Number of attention heads."""
        return self.query.out_features // self.head_size

    @property
    def head_size(self) -> int:
        """Dimensions of one head."""
        return int(next(getattr(self.attention, name) for name in HEAD_SIZE if hasattr(self.attention, name)))

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward network."""
        return self.feed_in.out_features

    @property
    def maps(self) -> tuple[tuple[Map, ...], ...]:
        """Linear layers in order of computation, grouped by shared input."""
        together = (self.query, self.key, self.value)
        return together, (self.attention_output,), (self.feed_in,), (self.feed_out,)

    def note_heads(self) -> None:
        """Update the head count stored in the attention module to match the weights."""
        for name in HEADS:
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
    `final_norm`; `own` maps roles to the names of parameters without a module of their own: special tokens and the
    position embeddings. `head_dense` is (hidden, hidden), `head_out` (labels, hidden), `head_teacher` the same on a
    distillation token; a sentence encoder has no heads (but a pooler, if any, as `head_dense`), and a vision
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
    own: Mapping[str, str] = field(default_factory=dict)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states between the layers."""
        return self.layers[0].output_norm.weight.shape[0]

    @property
    def extra_tokens(self) -> int:
        """Number of tokens before the patches of an image (class and distillation token); 0 for texts."""
        return sum(role != "places" for role in self.own)

    def own_tensors(self) -> dict[str, Tensor]:
        """Current parameters of `own`: tokens (1, 1, hidden), places (1, tokens + patches, hidden)."""
        return {role: self.model.get_parameter(name) for role, name in self.own.items()}


def encoder_of(model: nn.Module) -> Encoder:
    """Return the parts of a classifier or sentence encoder; they are references, so changing them changes the model.

    Raises:
        ModelError: the family cannot be taken apart, or the model lacks the parts of a classifier or encoder of its
            family.
    """
    inside = transformer_of(model)
    kind = str(inside.config.model_type)
    if (why := why_not_taken_apart(kind)) is not None:
        known = f"Known families: {', '.join(families_that_can('take apart'))}."
        raise ModelError(why, hint=known, code=FAMILY_UNSUPPORTED)
    alone = inside is not model
    try:
        return _encoder(model, inside, network_of(kind), alone)
    except AttributeError as error:
        whole = "a text encoder" if alone else "a classifier"
        raise ModelError(f"this {kind} model is not {whole}: {error}") from error


def word_embeddings_of(model: nn.Module) -> nn.Embedding:
    """Return the word embeddings of a text model, (vocabulary, width).

    Raises:
        ModelError: the family cannot be taken apart, or the model takes images.
    """
    words = encoder_of(model).words
    if words is None:
        raise ModelError(f"a {type(model).__name__} takes images: it has no vocabulary")
    return words


def _encoder(model: nn.Module, inside: PreTrainedModel, network: Network, alone: bool) -> Encoder:
    base = inside if alone else inside.get_submodule(network.base)
    at, head = _Parts(base, network.outside), _Parts(inside, network.heads[_head(inside, network, alone)])
    before = network.outside["words" if "words" in network.outside else "class_token"].rpartition(".")[0]
    projection = at.optional("projection", nn.Linear)
    roles = {
        id(base.get_parameter(path)): role
        for role, path in network.outside.items()
        if ROLES[role].kind == "parameter"
    }
    own = {roles[id(each)]: name for name, each in model.named_parameters() if id(each) in roles}
    return Encoder(
        model=model,
        embedding=base.get_submodule(before) if projection is None else projection,
        layers=tuple(_layer(block) for block in blocks_of(base, network)),
        norm_first=network.norms == "before",
        words=at.one("words", nn.Embedding),
        positions=at.optional("positions", nn.Embedding),
        token_types=at.optional("token_types", nn.Embedding),
        embedding_norm=at.one("embedding_norm", nn.LayerNorm),
        projection=projection,
        patches=at.one("patches", nn.Conv2d),
        final_norm=at.one("final_norm", nn.LayerNorm),
        # A base model may be saved without its pooler.
        head_dense=(head.optional if alone else head.one)("head_dense", nn.Linear),
        head_out=head.one("head_out", nn.Linear),
        head_teacher=head.one("head_teacher", nn.Linear),
        own=own,
    )


def _head(inside: PreTrainedModel, network: Network, alone: bool) -> Head:
    if alone:
        return "none"
    distilled = network.heads.get("distilled", {}).get("head_teacher")
    return "labels" if distilled is None or not hasattr(inside, distilled) else "distilled"


def _layer(block: Block) -> Layer:
    def linear(role: str) -> Map:
        found = block.parts[role]
        return found if isinstance(found, Factored) else _of_kind(found, nn.Linear, role)

    def norm(role: str) -> nn.LayerNorm:
        return _of_kind(block.parts[role], nn.LayerNorm, role)

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


def _of_kind(found: nn.Module, kind: type[Part], what: str) -> Part:
    if not isinstance(found, kind):
        raise AttributeError(f"`{what}` is a {type(found).__name__}, expected a {kind.__name__}")
    return found


@dataclass(frozen=True)
class _Parts:
    """Modules looked up by role, at paths inside a module."""

    module: nn.Module
    paths: Mapping[str, str]

    def one(self, role: str, kind: type[Part]) -> Part | None:
        """Return a part that every model of the family has; None if the family has none."""
        if role not in self.paths:
            return None
        return _of_kind(self.module.get_submodule(self.paths[role]), kind, self.paths[role])

    def optional(self, role: str, kind: type[Part]) -> Part | None:
        """Return a part that some models of the family lack; None if this one does."""
        try:
            return self.one(role, kind)
        except AttributeError:
            return None
