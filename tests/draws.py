"""Random numbers of tests: each test draws the same, whichever tests ran before it."""

from __future__ import annotations

from typing import Any

import numpy as np

_MADE: list[tuple[np.random.Generator, Any]] = []


def generator(seed: int) -> np.random.Generator:
    """A generator for a whole module, which `restart` puts back to its beginning."""
    made = np.random.default_rng(seed)
    _MADE.append((made, made.bit_generator.state))
    return made


def restart() -> None:
    """Put all generators of `generator` back to their beginning."""
    for made, state in _MADE:
        made.bit_generator.state = state
