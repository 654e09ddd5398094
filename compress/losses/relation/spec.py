"""Self-attention relations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compress.core.spec import Positive
from compress.losses.contract import LayerMap, LossKind, LossSpec


class RelationLoss(LossSpec):
    """Self-attention relations of one layer, whatever the widths (Wang et al. 2020, MiniLM; 2021, MiniLMv2)."""

    relations: Annotated[tuple[Literal["qk", "qq", "kk", "vv"], ...], Field(min_length=1)] = ("qk", "vv")
    """Scaled products of queries, keys and values: `qk` and `vv` are MiniLM's, `qq`, `kk`, `vv` MiniLMv2's."""
    heads: Positive | None = None
    """Relation heads that both models are cut into; unset: the teacher's number of heads, or the largest below it that
    divides the widths of both."""
    layers: LayerMap = "last"

    @property
    def needs(self) -> Literal["attention"]:
        """What of both models it compares."""
        return "attention"


RELATION = LossKind(RelationLoss, "compress.losses.relation.term:RelationTerm")
