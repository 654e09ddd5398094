"""Sizes in a config that no real model has: rejected before anything of such a size is allocated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from compress.profile.model_checks.problem import Problem

IMPOSSIBLE_SIZE = "impossible-size"
"""Fault code of an impossible number in a config."""

_LAYERS = re.compile(r"layers?$|blocks?$|^depth$")
_MOST_LAYERS = 1000
_SIZES = re.compile(
    r"(hidden|intermediate|vocab|embedding|image|patch)_(size|dim)$|(^|_)heads$|^(dim|d_model|n_embd)$|embeddings$"
)
_AT_LEAST_ONE = (
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "dim",
    "d_model",
    "n_embd",
)
_WIDTHS = ("hidden_size", "dim", "d_model", "n_embd")
_LARGEST = 2**24
_MOST_WEIGHTS = 2**34
"""Limit of the elements of one table or matrix."""


def impossible_sizes(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield impossible numbers of layers, widths, heads, tokens and positions in a `config.json`."""
    sizes: dict[str, int] = {}
    for name, value in _numbers(config, 0):
        if _LAYERS.search(name) and not 0 <= value <= _MOST_LAYERS:
            yield _problem(f"{name} is {_shown(value)}; expected 0 to {_MOST_LAYERS}")
        elif _SIZES.search(name):
            sizes[name] = value
            least = 1 if name in _AT_LEAST_ONE else -1
            if not least <= value <= _LARGEST:
                yield _problem(f"{name} is {_shown(value)}; expected {least} to {_LARGEST}")
    width = max((sizes[name] for name in _WIDTHS if name in sizes), default=0)
    longest = max((size for name, size in sizes.items() if name != "image_size"), default=0)
    if width * longest > _MOST_WEIGHTS:
        yield _problem(f"a table of {longest} x {width} numbers is larger than any model's")


def _problem(message: str) -> Problem:
    return Problem(f"its config.json has an impossible size: {message}", IMPOSSIBLE_SIZE)


def _numbers(value: Mapping[str, Any], depth: int) -> Iterator[tuple[str, int]]:
    """Yield the integers of a mapping and of nested mappings, with their keys."""
    for name, one in value.items():
        if isinstance(one, Mapping) and depth < 4:
            yield from _numbers(one, depth + 1)
        elif isinstance(one, int) and not isinstance(one, bool):
            yield name, one


def _shown(number: int) -> str:
    text = str(number)
    return text if len(text) < 24 else f"a number of {len(text)} digits"
