"""A decoder that is made here: its family, its sizes and its tokenizer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from compress.core.disk.package_paths import CONFIG
from compress.core.spec import PassSpecBase, Spec
from compress.models.anatomy.table.fresh import FreshDecoder
from compress.profile.specs.student import Decoder, Positions, Width


class TrainedTokenizerSpec(Spec):
    """A tokenizer that is trained on the training texts: byte pairs of bytes (BPE), as GPT-2 has them."""

    vocabulary: Annotated[int, Field(ge=257, le=2**20)]
    """Tokens at most: one for each byte, those that stand between texts, and the most frequent pairs."""


class DecoderSpec(PassSpecBase):
    """A decoder with random weights, drawn from the seed of the profile, for `finetune` to train."""

    model_type: Decoder
    """Its family, as config.json calls it."""
    layers: Annotated[int, Field(ge=1, le=1000)]
    """How many."""
    hidden_size: Width
    """Width of the stream."""
    heads: Width | None = None
    """Attention heads; unset: the width over 32, or over 16."""
    groups: Width | None = None
    """Heads of keys and values, which the others share; unset: as many as heads."""
    intermediate_size: Width | None = None
    """Feed-forward width; unset: 4 times the width."""
    positions: Positions | None = None
    """Tokens that it takes at most; unset: `data.max_length`, 160 at least."""
    tied: bool = True
    """Whether its head is the table of words."""
    tokenizer: Annotated[str, Field(min_length=1)] | TrainedTokenizerSpec
    """That of a model (a folder, a hub id, `package://name/folder`, a GGUF file), a `tokenizer.json`, or one that is
    trained here (`{vocabulary: 4000}`)."""

    @model_validator(mode="after")
    def _exists(self) -> DecoderSpec:
        if (why := self.fresh.fault()) is not None:
            raise ValueError(why)
        return self

    @property
    def words(self) -> str:
        """What it is, for readers."""
        return f"a fresh {self.model_type}, {self.layers} layers of width {self.hidden_size}"

    @property
    def fresh(self) -> FreshDecoder:
        """The model that is asked for."""
        return FreshDecoder(
            self.model_type,
            self.layers,
            self.hidden_size,
            self.heads,
            self.groups,
            self.intermediate_size,
            self.tied,
        )


def decoder_of(source: str) -> DecoderSpec:
    """The decoder that a source describes."""
    return DecoderSpec.model_validate_json(source.removeprefix(CONFIG))
