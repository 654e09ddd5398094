"""A decoder to be initialised from scratch, given its family and sizes: its config, and why it may not be possible."""

from __future__ import annotations

from dataclasses import dataclass

from compress.models.anatomy.table.decoders import DECODERS
from compress.models.anatomy.table.family import Config, Network

FEED_FORWARD_RATIO = 4
"""Default ratio of the feed-forward width to the hidden size."""
_HEAD_SIZE = 32
_ROTARY_MULTIPLE = 16
"""The lowered rotary embedding rotates a multiple of this many dimensions per head."""


@dataclass(frozen=True)
class FreshDecoder:
    """Family and sizes of a decoder.

    Defaults: heads of 32 dimensions, or of 16 if 32 does not divide the width, or else a single head; as many
    key-value groups as heads; a feed-forward network 4 times as wide as the hidden size.
    """

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
        return next(
            (self.hidden // size for size in (_HEAD_SIZE, _ROTARY_MULTIPLE) if self.hidden % size == 0), 1
        )

    def fault(self) -> str | None:
        """Return why no such model can be created and lowered; None if it can."""
        network, heads = self._network, self._heads
        if self.hidden % heads:
            return f"{heads} heads do not divide the width {self.hidden}"
        if self.groups is not None and "groups" not in network.keys:
            return f"{self.kind} has no grouped keys and values: leave `groups` out"
        if self.groups is not None and heads % self.groups:
            return f"{self.groups} groups of keys and values do not divide {heads} heads"
        size = self.hidden // heads
        if network.positions == "rotary" and size % _ROTARY_MULTIPLE:
            return (
                f"the width {self.hidden} over {heads} heads leaves {size} numbers a head, and rotary positions need a "
                f"multiple of {_ROTARY_MULTIPLE}"
            )
        return None

    def config(self, vocabulary_size: int | None = None, max_positions: int | None = None) -> Config:
        """Return its `config.json` with the family's keys; all else is left to the defaults of the family's class.

        Args:
            vocabulary_size: vocabulary size, None if not known yet.
            max_positions: maximum number of tokens, None if not known yet.
        """
        network, heads = self._network, self._heads
        sizes = {
            "hidden": self.hidden,
            "layers": self.layers,
            "heads": heads,
            "groups": self.groups or heads,
            "head_size": self.hidden // heads,
            "feed_forward": self.feed_forward or FEED_FORWARD_RATIO * self.hidden,
            "vocabulary": vocabulary_size,
            "positions": max_positions,
        }
        values_by_key = {network.keys[size]: value for size, value in sizes.items() if size in network.keys}
        values = {key: value for key, value in values_by_key.items() if value is not None}
        return {"model_type": self.kind, "tie_word_embeddings": self.tied, **values}
