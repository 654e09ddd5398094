"""Sizes in a config that no real model has: rejected before anything of such a size is allocated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from compress.profile.model_checks.problem import Problem

IMPOSSIBLE_SIZE = "impossible-size"
"""Fault code of an impossible number in a config."""

_LAYER_KEYS = re.compile(r"layers?$|blocks?$|^depth$")
_MAX_LAYERS = 1000
_SIZE_KEYS = re.compile(
    r"(hidden|intermediate|vocab|embedding|image|patch)_(size|dim)$|(^|_)heads$|^(dim|d_model|n_embd)$|embeddings$"
)
_POSITIVE_KEYS = (
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "dim",
    "d_model",
    "n_embd",
)
_WIDTH_KEYS = ("hidden_size", "dim", "d_model", "n_embd")
_MAX_SIZE = 2**24
_MAX_ELEMENTS = 2**34
"""Limit of the elements of one table or matrix."""


def impossible_sizes(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield impossible numbers of layers, widths, heads, tokens and positions in a `config.json`."""
    sizes: dict[str, int] = {}
    for name, value in _integers(config, 0):
        if _LAYER_KEYS.search(name) and not 0 <= value <= _MAX_LAYERS:
            yield _problem(f"{name} is {_abbreviated(value)}; expected 0 to {_MAX_LAYERS}")
        elif _SIZE_KEYS.search(name):
            sizes[name] = value
            minimum = 1 if name in _POSITIVE_KEYS else -1
            if not minimum <= value <= _MAX_SIZE:
                yield _problem(f"{name} is {_abbreviated(value)}; expected {minimum} to {_MAX_SIZE}")
    width = max((sizes[name] for name in _WIDTH_KEYS if name in sizes), default=0)
    largest = max((size for name, size in sizes.items() if name != "image_size"), default=0)
    if width * largest > _MAX_ELEMENTS:
        yield _problem(f"a table of {largest} x {width} numbers is larger than any model's")


def _problem(message: str) -> Problem:
    return Problem(f"its config.json has an impossible size: {message}", IMPOSSIBLE_SIZE)


def _integers(value: Mapping[str, Any], depth: int) -> Iterator[tuple[str, int]]:
    """Yield the integers of a mapping and of nested mappings, with their keys."""
    for name, entry in value.items():
        if isinstance(entry, Mapping) and depth < 4:
            yield from _integers(entry, depth + 1)
        elif isinstance(entry, int) and not isinstance(entry, bool):
            yield name, entry


def _abbreviated(number: int) -> str:
    text = str(number)
    return text if len(text) < 24 else f"a number of {len(text)} digits"
