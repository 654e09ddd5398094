"""How long a run may still wait for the machines it measures on to become quiet."""

from __future__ import annotations


class Patience:
    """An account of seconds that all timings of a run draw on.

    A machine that stays busy takes half of what is left from each of them, so that one that is busy for a while
    does not leave the later ones without any.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.left = seconds

    def allowance(self) -> float:
        """What one timing may take of it."""
        return self.left / 2

    def spend(self, seconds: float) -> None:
        """Take off what a timing took."""
        self.left = max(0.0, self.left - seconds)
