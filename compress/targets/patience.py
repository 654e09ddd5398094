"""Time budget of a run for waiting until the machines it measures on become quiet."""

from __future__ import annotations


class Patience:
    """Budget in seconds shared by all timings of a run.

    Each timing may use at most half of what is left, so that a machine that is busy for a while does not use up the
    budget of later timings.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.remaining = seconds

    def allowance(self) -> float:
        """Return the seconds that the next timing may use."""
        return self.remaining / 2

    def spend(self, seconds: float) -> None:
        """Subtract the seconds that a timing used."""
        self.remaining = max(0.0, self.remaining - seconds)
