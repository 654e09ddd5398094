"""What is wrong with a model, whoever finds it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """What is wrong and what to do, as one sentence, and its code."""

    message: str
    code: str
