"""The student of a distillation: its shape, its architecture, and the origin of its initial weights."""

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
DEFAULT_HIDDEN_SIZE = 128
"""Default hidden size of a fresh student."""


class StudentSpec(PassSpecBase):
    """The student: cut from the teacher, at the same width or narrower, and initialised from its weights; or a fresh
    transformer (`architecture`); or an existing model (`model`)."""

    layers: (
        Annotated[int, Field(ge=1, le=1000)]
        | Annotated[tuple[Annotated[int, Field(ge=0, lt=1000)], ...], Field(min_length=1)]
    ) = 2
    """Number of layers, or a list of the teacher's layers (0 is the lowest)."""
    choose: Literal["uniform", "first", "last", "similarity"] = "uniform"
    """Which of the teacher's layers to take if `layers` is a number: `uniform`: evenly spaced, the last one included;
    `first`: the lowest; `last`: the highest; `similarity`: those that change the hidden states most on training
    examples (ShortGPT, Men et al. 2024)."""
    hidden_size: Width | None = None
    """Hidden size; unset: the teacher's, with `architecture` 128."""
    heads: Width | None = None
    """Attention heads; unset: the hidden size over the teacher's head size (over 32 with `architecture`), adjusted to
    divide the hidden size. A student cut from a decoder whose config sets the head size keeps the teacher's number;
    heads that share keys and values stay together."""
    intermediate_size: Width | None = None
    """Feed-forward width; unset: the teacher's ratio to the hidden size, with `architecture` 4 times the hidden
    size."""
    from_: Annotated[Literal["teacher", "scratch"], Field(alias="from")] = "teacher"
    """`teacher`: weights copied or projected from the teacher's; `scratch`: random weights."""
    basis: Literal["hidden", "embeddings"] = "hidden"
    """What a narrower student keeps the principal directions of: the teacher's `hidden` states on training examples, or
    its `embeddings` table alone. Not for language models, whose students keep the dimensions that are largest on
    training examples (Minitron, Muralidharan et al. 2024)."""
    architecture: Architecture | None = None
    """A fresh transformer, whatever the teacher is; excludes `model`. Images: `vit`, or `deit`, which adds a
    distillation token (Touvron et al. 2021): the head of that token learns from the teacher, the head of the class
    token from the labels. Language models: a family of decoders, with the teacher's tokenizer."""
    groups: Width | None = None
    """Key/value heads of a fresh decoder (grouped-query attention); unset: as many as `heads`."""
    positions: Positions | None = None
    """Maximum number of positions of a fresh decoder, in tokens; unset: `data.max_length`, at least 160."""
    patch_size: Width | None = None
    """Side of a patch in pixels, with `architecture`; unset: an eighth of the image's shorter side, at least 2."""
    model: Annotated[str, Field(min_length=1)] | None = None
    """An existing model, with its own tokenizer: a hub id, a folder, `package://name/folder`, or
    `python:module:function`."""
    revision: HubName | None = None
    """Commit or tag of a hub model; unset: its main branch."""

    @model_validator(mode="after")
    def _check_origin(self) -> StudentSpec:
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
    def is_cut_from_teacher(self) -> bool:
        """Whether the student is cut out of the model before it; otherwise it is a ready-made or a fresh model."""
        return self.model is None and self.architecture is None

    @property
    def decoder(self) -> FreshDecoder | None:
        """The fresh decoder that is created as student; None for any other student.

        Raises:
            ValueError: `layers` lists layers to copy from the teacher.
        """
        if self.architecture is None or self.architecture not in DECODERS:
            return None
        if not isinstance(self.layers, int):
            raise ValueError("a fresh student copies no layers of its teacher: give `layers` as a number")
        return FreshDecoder(
            self.architecture,
            self.layers,
            self.hidden_size or DEFAULT_HIDDEN_SIZE,
            self.heads,
            self.groups,
            self.intermediate_size,
        )
