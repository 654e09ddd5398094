"""A decoder to be cut out of a larger one: its sizes, and why it may not be possible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from compress.models.anatomy.table.family import Config, Network
from compress.models.anatomy.table.sizes import dimensions, network_of


@dataclass(frozen=True)
class SmallerDecoder:
    """Requested sizes of a decoder that is cut from the model with this `config`.

    Defaults: the same head size; the number of heads of the larger model or, if the config derives the head size
    from it, as many heads as fit the width; the same ratio of feed-forward width to hidden size.
    """

    config: Config
    hidden: int | None = None
    heads: int | None = None
    feed_forward: int | None = None

    @property
    def original_sizes(self) -> Mapping[str, int]:
        """Sizes of the larger model."""
        return dimensions(network_of(str(self.config["model_type"])), self.config)

    @property
    def sizes(self) -> Mapping[str, int]:
        """`hidden`, `heads`, `groups`, `head_size` and `feed_forward`."""
        original = self.original_sizes
        hidden = self.hidden or original["hidden"]
        size = original["head_size"]
        heads = self.heads or (original["heads"] if self._has_head_size_key else max(1, hidden // size))
        return {
            "hidden": hidden,
            "heads": heads,
            "groups": max(1, heads * original["groups"] // original["heads"]),
            "head_size": size,
            "feed_forward": self.feed_forward
            or round(hidden * original["feed_forward"] / original["hidden"]),
        }

    def config_values(self, layers: int) -> Config:
        """Return the new sizes by their config keys."""
        keys = network_of(str(self.config["model_type"])).keys
        sizes = {**self.sizes, "layers": layers}
        return {keys[size]: value for size, value in sizes.items() if size in keys}

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield why no such model is possible: the student key that asks for too much, and the reason."""
        original, new = self.original_sizes, self.sizes
        queries_per_group, hidden, heads = (
            max(1, original["heads"] // original["groups"]),
            new["hidden"],
            new["heads"],
        )
        for key, size in (
            ("hidden_size", "hidden"),
            ("heads", "heads"),
            ("intermediate_size", "feed_forward"),
        ):
            if new[size] > original[size]:
                yield (
                    key,
                    f"{new[size]} is more than the {original[size]} of the model that the student is cut from",
                )
        if heads % queries_per_group:
            yield (
                "heads",
                f"{queries_per_group} heads share keys and values in the model that the student is cut "
                "from, and stay together: "
                f"{heads} is not a multiple of {queries_per_group}",
            )
        if not self._has_head_size_key and hidden != heads * new["head_size"]:
            yield (
                "heads" if self.heads else "hidden_size",
                f"a {self.config['model_type']} derives the head size from the number of heads, and heads of size "
                f"{new['head_size']} stay whole: {heads} of them need `hidden_size: {heads * new['head_size']}`",
            )
        elif hidden % heads:
            yield "heads" if self.heads else "hidden_size", f"{heads} heads do not divide the width {hidden}"

    @property
    def _has_head_size_key(self) -> bool:
        return "head_size" in network_of(str(self.config["model_type"])).keys


def why_heads_fixed(network: Network) -> str | None:
    """Return why neither heads nor dimensions of a family can be removed independently; None if they can."""
    if "head_size" not in network.keys:
        return "its config derives the head size from the number of heads"
    return None
