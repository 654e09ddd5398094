"""llama.cpp's pre-tokenizers for byte-level BPE, by name, as `pre_tokenizer` parts of a `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

Parts = tuple[dict[str, Any], ...]
SENTENCEPIECE_SPACE = "\u2581"
"""The character that SentencePiece substitutes for a space."""


def _by_regex(digits: str) -> Parts:
    regex = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        rf"{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return split, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}

IGNORE_MERGES_RULES = "llama-bpe"
"""With these rules llama.cpp sets `ignore_merges`: a word that is itself a token is not built by merges."""
RULES: Mapping[str, Parts] = MappingProxyType(
    {
        "gpt-2": (_BYTE_LEVEL,),
        "smollm": ({"type": "Digits", "individual_digits": True}, _BYTE_LEVEL),
        IGNORE_MERGES_RULES: _by_regex(r"\p{N}{1,3}"),
        "qwen2": _by_regex(r"\p{N}"),
    }
)
"""The rules of GPT-2, SmolLM, Llama 3 and Qwen 2. Source: `llm_tokenizer_bpe` in llama.cpp's `llama-vocab.cpp`."""
_ALIASES = {
    "llama3": IGNORE_MERGES_RULES,
    "llama-v3": IGNORE_MERGES_RULES,
    "deepseek-r1-qwen": "qwen2",
    "starcoder": "smollm",
    "olmo": "gpt-2",
    "phi-2": "gpt-2",
}


def rules_named(name: str) -> str | None:
    """Return the key of `RULES` for a GGUF file's `tokenizer.ggml.pre`; None if the rules are not supported."""
    key = _ALIASES.get(name, name)
    return key if key in RULES else None


def rules_of(parts: list[Any]) -> str | None:
    """Return the key of `RULES` that matches these parts of a `pre_tokenizer`; None if none does."""
    for name, rules in RULES.items():
        if len(rules) == len(parts) and all(
            rule.items() <= part.items() for rule, part in zip(rules, parts, strict=True)
        ):
            return name
    return None


def pre_tokenizer(name: str) -> dict[str, Any]:
    """Return the `pre_tokenizer` section of a `tokenizer.json` for the rules `name`."""
    parts = [part | {"trim_offsets": True} if part["type"] == "ByteLevel" else part for part in RULES[name]]
    return {"type": "Sequence", "pretokenizers": parts}
