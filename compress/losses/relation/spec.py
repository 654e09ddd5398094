"""Self-attention relation loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compress.core.spec import Positive
from compress.losses.contract import LayerMap, LossKind, LossSpec


class RelationLoss(LossSpec):
    """Self-attention relations between tokens, whatever the widths and numbers of heads (MiniLM, Wang et al. 2020;
    MiniLMv2, 2021)."""

    relations: Annotated[tuple[Literal["qk", "qq", "kk", "vv"], ...], Field(min_length=1)] = ("qk", "vv")
    """Scaled dot products of queries, keys and values: `qk` and `vv` are MiniLM's, `qq`, `kk` and `vv` MiniLMv2's."""
    heads: Positive | None = None
    """Number of relation heads that both models are split into; unset: the teacher's number of heads, or the largest
    number below it that divides both widths."""
    layers: LayerMap = "last"

    @property
    def needs(self) -> Literal["attention"]:
        """The part of both models that it compares."""
        return "attention"


RELATION = LossKind(RelationLoss, "compress.losses.relation.term:RelationTerm")
