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
    def old(self) -> Mapping[str, int]:
        """Sizes of the larger model."""
        return dimensions(network_of(str(self.config["model_type"])), self.config)

    @property
    def sizes(self) -> Mapping[str, int]:
        """`hidden`, `heads`, `groups`, `head_size` and `feed_forward`."""
        old = self.old
        hidden = self.hidden or old["hidden"]
        size = old["head_size"]
        heads = self.heads or (old["heads"] if self._says_head_size else max(1, hidden // size))
        return {
            "hidden": hidden,
            "heads": heads,
            "groups": max(1, heads * old["groups"] // old["heads"]),
            "head_size": size,
            "feed_forward": self.feed_forward or round(hidden * old["feed_forward"] / old["hidden"]),
        }

    def described(self, layers: int) -> Config:
        """Return the new sizes by their config keys."""
        keys = network_of(str(self.config["model_type"])).keys
        sizes = {**self.sizes, "layers": layers}
        return {keys[size]: value for size, value in sizes.items() if size in keys}

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield why no such model is possible: the student key that asks for too much, and the reason."""
        old, new = self.old, self.sizes
        shared, hidden, heads = max(1, old["heads"] // old["groups"]), new["hidden"], new["heads"]
        for key, size in (
            ("hidden_size", "hidden"),
            ("heads", "heads"),
            ("intermediate_size", "feed_forward"),
        ):
            if new[size] > old[size]:
                yield (
                    key,
                    f"{new[size]} is more than the {old[size]} of the model that the student is cut from",
                )
        if heads % shared:
            yield (
                "heads",
                f"{shared} heads share keys and values in the model that the student is cut from, and stay together: "
                f"{heads} is not a multiple of {shared}",
            )
        if not self._says_head_size and hidden != heads * new["head_size"]:
            yield (
                "heads" if self.heads else "hidden_size",
                f"a {self.config['model_type']} derives the head size from the number of heads, and heads of size "
                f"{new['head_size']} stay whole: {heads} of them need `hidden_size: {heads * new['head_size']}`",
            )
        elif hidden % heads:
            yield "heads" if self.heads else "hidden_size", f"{heads} heads do not divide the width {hidden}"

    @property
    def _says_head_size(self) -> bool:
        return "head_size" in network_of(str(self.config["model_type"])).keys


def why_heads_fixed(network: Network) -> str | None:
    """Return why neither heads nor dimensions of a family can be removed independently; None if they can."""
    if "head_size" not in network.keys:
        return "its config derives the head size from the number of heads"
    return None
