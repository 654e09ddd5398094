"""A decoder that is created from scratch: its family, its sizes and its tokenizer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from compress.core.disk.source_uris import CONFIG_PREFIX
from compress.core.spec import PassSpecBase, Spec
from compress.models.anatomy.table.fresh import FreshDecoder
from compress.profile.specs.student import Decoder, Positions, Width


class TrainedTokenizerSpec(Spec):
    """A tokenizer trained on the training texts: byte-level BPE, as in GPT-2."""

    vocabulary: Annotated[int, Field(ge=257, le=2**20)]
    """Maximum number of tokens: one per byte, the special tokens, and the most frequent pairs."""


class DecoderSpec(PassSpecBase):
    """A decoder with random weights, drawn by the profile's `seed`, for `finetune` to train."""

    model_type: Decoder
    """Model family, as `model_type` in its config.json."""
    layers: Annotated[int, Field(ge=1, le=1000)]
    """Number of layers."""
    hidden_size: Width
    """Hidden size."""
    heads: Width | None = None
    """Attention heads; unset: one per 32 dimensions of the hidden size, or per 16 if 32 does not divide it."""
    groups: Width | None = None
    """Key/value heads (grouped-query attention), for families that have them; unset: as many as `heads`."""
    intermediate_size: Width | None = None
    """Feed-forward width; unset: 4 times the hidden size."""
    positions: Positions | None = None
    """Maximum number of positions, in tokens; unset: `data.max_length`, at least 160."""
    tied: bool = True
    """Tie the output head to the input embeddings."""
    tokenizer: Annotated[str, Field(min_length=1)] | TrainedTokenizerSpec
    """Tokenizer of a model (a folder, a hub id, `package://name/folder`, a GGUF file), a `tokenizer.json`, or one to
    train on the data (`{vocabulary: 4000}`)."""

    @model_validator(mode="after")
    def _check_shape(self) -> DecoderSpec:
        if (why := self.fresh.fault()) is not None:
            raise ValueError(why)
        return self

    @property
    def description(self) -> str:
        """Description of the decoder, for messages."""
        return f"a fresh {self.model_type}, {self.layers} layers of width {self.hidden_size}"

    @property
    def fresh(self) -> FreshDecoder:
        """The untrained model that this section describes."""
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
    """Parse a model source made of `CONFIG_PREFIX` and a `DecoderSpec` as JSON."""
    return DecoderSpec.model_validate_json(source.removeprefix(CONFIG_PREFIX))
