"""The parts of a live encoder of texts or images that can be taken apart: BERT's relatives and vision transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.blocks import HEAD_SIZE, HEADS, Block, blocks_of, transformer_of
from compress.models.anatomy.factors import Factored, Map
from compress.models.anatomy.table.families import FAMILY_UNSUPPORTED, families_that_can, why_whole
from compress.models.anatomy.table.family import ROLES, Head, Network
from compress.models.anatomy.table.sizes import network_of

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
        return int(next(getattr(self.attention, name) for name in HEAD_SIZE if hasattr(self.attention, name)))

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward part."""
        return self.feed_in.out_features

    @property
    def maps(self) -> tuple[tuple[Map, ...], ...]:
        """Its linear maps in the order of the computation, those together that read the same."""
        together = (self.query, self.key, self.value)
        return together, (self.attention_output,), (self.feed_in,), (self.feed_out,)

    def note_heads(self) -> None:
        """Write the head count that the weights now have into the attention module."""
        for name in HEADS:
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
    have `patches` (hidden, channels, side, side) and, because their layers normalise first, a `final_norm`; `own` are
    the names of what stands in no module of its own: tokens, and the table of the places of patches.
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
    own: Mapping[str, str] = field(default_factory=dict)

    @property
    def hidden_size(self) -> int:
        """Width of the stream between the layers."""
        return self.layers[0].output_norm.weight.shape[0]

    @property
    def extra_tokens(self) -> int:
        """How many tokens stand before the patches of an image: class and distillation token; 0 for texts."""
        return sum(role != "places" for role in self.own)

    def own_tensors(self) -> dict[str, Tensor]:
        """The parameters of `own` as they are now: tokens (1, 1, hidden), places (1, tokens and patches, hidden)."""
        return {role: self.model.get_parameter(name) for role, name in self.own.items()}


def encoder_of(model: nn.Module) -> Encoder:
    """The parts of a classifier or a sentence encoder. They are the model's own: changing them changes the model.

    Raises:
        ModelError: its family cannot be taken apart, or the model has not the parts of a classifier of it.
    """
    inside = transformer_of(model)
    kind = str(inside.config.model_type)
    if (why := why_whole(kind)) is not None:
        known = f"Known families: {', '.join(families_that_can('take apart'))}."
        raise ModelError(why, hint=known, code=FAMILY_UNSUPPORTED)
    alone = inside is not model
    try:
        return _encoder(model, inside, network_of(kind), alone)
    except AttributeError as error:
        whole = "a text encoder" if alone else "a classifier"
        raise ModelError(f"this {kind} model is not {whole}: {error}") from error


def words_of(model: nn.Module) -> nn.Embedding:
    """The word embeddings of a model of texts, (vocabulary, width).

    Raises:
        ModelError: the family is unknown, or the model takes images.
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
        # A base model may come without its pooler.
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
    """Parts by their roles, at paths inside a module."""

    module: nn.Module
    paths: Mapping[str, str]

    def one(self, role: str, kind: type[Part]) -> Part | None:
        """A part that every model of the family has; None where the family has none."""
        if role not in self.paths:
            return None
        return _of_kind(self.module.get_submodule(self.paths[role]), kind, self.paths[role])

    def optional(self, role: str, kind: type[Part]) -> Part | None:
        """A part that some models of the family lack."""
        try:
            return self.one(role, kind)
        except AttributeError:
            return None
