"""The student of a distillation: its shape, its architecture, and where its first weights come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from compress.core.spec import HubName, PassSpecBase
from compress.models.anatomy.table.decoders import DECODERS
from compress.models.anatomy.table.fresh import FreshDecoder

Width = Annotated[int, Field(ge=1, le=65536)]
Positions = Annotated[int, Field(ge=2, le=2**20)]
if TYPE_CHECKING:
    Decoder = str
    Architecture = str
else:
    Decoder = Literal[tuple(DECODERS)]
    Architecture = Literal[("vit", "deit", *DECODERS)]
WIDTH = 128
"""Of a fresh student that nobody sized."""


class StudentSpec(PassSpecBase):
    """The student: cut from the teacher (same width) or narrower, initialised from the teacher's weights; or a fresh
    transformer (`architecture`); or a model that stands ready (`model`)."""

    layers: Annotated[int, Field(ge=1, le=1000)] | tuple[Annotated[int, Field(ge=0, lt=1000)], ...] = 2
    """How many layers, or which layers of the teacher (0 is the lowest)."""
    choose: Literal["uniform", "first", "last", "similarity"] = "uniform"
    """Which of the teacher's layers, where `layers` is a number: evenly spread with the last among them, the lowest,
    the highest, or those that change the stream most on training examples."""
    hidden_size: Width | None = None
    """Width; unset: the teacher's, with `architecture` 128."""
    heads: Width | None = None
    """Attention heads; unset: the hidden size over the teacher's head size (with `architecture` over 32), moved to a
    number that divides the width. Of a decoder whose config says how large a head is: the teacher's; those that share
    keys and values stay together."""
    intermediate_size: Width | None = None
    """Feed-forward width; unset: the teacher's ratio to the hidden size, with `architecture` 4 times it."""
    from_: Annotated[Literal["teacher", "scratch"], Field(alias="from")] = "teacher"
    """`teacher`: weights projected from the teacher's; `scratch`: random weights."""
    basis: Literal["hidden", "embeddings"] = "hidden"
    """What the directions that a narrower student keeps are principal for: the teacher's hidden states on training
    examples, or its embedding table alone. A decoder's student keeps the dimensions that are largest on examples."""
    architecture: Architecture | None = None
    """A fresh transformer, whatever the teacher is. For images `vit`, or `deit`, which has a distillation token
    (Touvron et al. 2021): its head learns from the teacher, the class token's from the labels. For language models the
    family of a decoder, which has the teacher's tokenizer."""
    groups: Width | None = None
    """Heads of keys and values of a fresh decoder, which the others share; unset: as many as heads."""
    positions: Positions | None = None
    """Tokens that a fresh decoder takes at most; unset: `data.max_length`, 160 at least."""
    patch_size: Width | None = None
    """Pixels of the side of a patch, for `architecture`; unset: an eighth of the image's shorter side, at least 2."""
    model: Annotated[str, Field(min_length=1)] | None = None
    """A model that stands ready: a hub id, a folder, `package://name/folder`, or `python:module:function`."""
    revision: HubName | None = None
    """Commit or tag of a hub model."""

    @model_validator(mode="after")
    def _one_origin(self) -> StudentSpec:
        if self.architecture is not None and self.model is not None:
            raise ValueError("architecture and model are two ways to name the student; give one")
        decoder = self.decoder
        if decoder is not None and (why := decoder.fault()) is not None:
            raise ValueError(why)
        for key in ("groups", "positions"):
            if getattr(self, key) is not None and decoder is None:
                raise ValueError(f"`{key}` is for a fresh decoder: name its family with `architecture`")
        return self

    @property
    def is_cut(self) -> bool:
        """Whether it is made of the model before it; else it stands ready or is fresh."""
        return self.model is None and self.architecture is None

    @property
    def decoder(self) -> FreshDecoder | None:
        """The decoder that is made afresh; None of any other student.

        Raises:
            ValueError: it is to take over layers of the teacher.
        """
        if self.architecture is None or self.architecture not in DECODERS:
            return None
        if not isinstance(self.layers, int):
            raise ValueError("a fresh student takes over no layers of its teacher: give a number of `layers`")
        return FreshDecoder(
            self.architecture,
            self.layers,
            self.hidden_size or WIDTH,
            self.heads,
            self.groups,
            self.intermediate_size,
        )
