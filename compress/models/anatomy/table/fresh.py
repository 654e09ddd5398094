"""A decoder that does not exist yet, by its family and sizes: what its config says, and why there is no such model."""

from __future__ import annotations

from dataclasses import dataclass

from compress.models.anatomy.table.decoders import DECODERS
from compress.models.anatomy.table.family import Config, Network

WIDER = 4
"""A feed-forward part that nobody sized is so many times as wide as the stream."""
_HEAD_SIZE = 32
_TURNED = 16
"""Of a head the lowering turns a multiple of so many numbers by rotary positions."""


@dataclass(frozen=True)
class FreshDecoder:
    """Its family and sizes; None: heads of 32 numbers, or of 16 where those do not divide the width, as many groups as
    heads, a feed-forward part 4 times as wide as the stream."""

    kind: str
    layers: int
    hidden: int
    heads: int | None = None
    groups: int | None = None
    feed_forward: int | None = None
    tied: bool = True

    @property
    def _network(self) -> Network:
        network = DECODERS[self.kind].network
        assert network is not None
        return network

    @property
    def _heads(self) -> int:
        if self.heads is not None:
            return self.heads
        return next((self.hidden // size for size in (_HEAD_SIZE, _TURNED) if self.hidden % size == 0), 1)

    def fault(self) -> str | None:
        """Why no such model can be made and lowered; None where it can."""
        network, heads = self._network, self._heads
        if self.hidden % heads:
            return f"{heads} heads do not divide the width {self.hidden}"
        if self.groups is not None and "groups" not in network.keys:
            return f"{self.kind} has no grouped keys and values: leave `groups` out"
        if self.groups is not None and heads % self.groups:
            return f"{self.groups} groups of keys and values do not divide {heads} heads"
        size = self.hidden // heads
        if network.positions == "rotary" and size % _TURNED:
            return (
                f"the width {self.hidden} over {heads} heads leaves {size} numbers a head, and rotary positions need a "
                f"multiple of {_TURNED}"
            )
        return None

    def config(self, words: int | None = None, positions: int | None = None) -> Config:
        """Its `config.json`, as the family calls the sizes; what else there is stays with the family's class.

        Args:
            words: tokens of the vocabulary, None where that is not known yet.
            positions: tokens that it takes at most; likewise.
        """
        network, heads = self._network, self._heads
        sizes = {
            "hidden": self.hidden,
            "layers": self.layers,
            "heads": heads,
            "groups": self.groups or heads,
            "head_size": self.hidden // heads,
            "feed_forward": self.feed_forward or WIDER * self.hidden,
            "vocabulary": words,
            "positions": positions,
        }
        named = {network.keys[size]: value for size, value in sizes.items() if size in network.keys}
        said = {key: value for key, value in named.items() if value is not None}
        return {"model_type": self.kind, "tie_word_embeddings": self.tied, **said}
