"""A tokenizer in llama.cpp's terms: tokens with their types, and how texts are split. No torch import.

llama.cpp identifies tokenizers by name and implements the rules of each in code: `gpt2` merges bytes, after
splitting texts into words by the rules named in `tokenizer.ggml.pre`; `llama` joins characters by scores, with bytes
for unknown characters. Only tokenizers whose `tokenizer.json` has exactly these rules are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from compress.core import pre_tokenization

Json = Mapping[str, Any]

_STRIPPING_FAMILY = "phi3"
"""The family for which llama.cpp strips whitespace after special tokens."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class TokenType(IntEnum):
    """Token types of GGUF."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """The content of a tokenizer in a GGUF file. `merges` are for `gpt2`, `scores` for `llama`.

    `add_space_prefix`: a space is prepended to a text, and after each special token. `strips_after_special`: whitespace
    after special tokens is stripped.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    token_types: tuple[int, ...]
    merges: tuple[str, ...]
    scores: tuple[float, ...]
    add_space_prefix: bool
    strips_after_special: bool


def why_not_vocabulary(tokenizer: Json, model_type: str) -> str | None:
    """Return why llama.cpp does not support a tokenizer; None if it does.

    Args:
        tokenizer: the content of a `tokenizer.json`.
        model_type: the `model_type` of its model.
    """
    return next(_reasons(tokenizer, model_type), None)


def vocabulary_of(tokenizer: Json, vocabulary_size: int) -> Vocabulary:
    """Convert a tokenizer that llama.cpp supports (see `why_not_vocabulary`).

    Args:
        vocabulary_size: number of tokens of the model; those that the tokenizer lacks are marked unused.
    """
    model, added_tokens = (
        tokenizer["model"],
        {token["id"]: token for token in tokenizer.get("added_tokens") or ()},
    )
    is_char_level = bool(model.get("byte_fallback"))
    tokens_by_id = {token_id: text for text, token_id in model["vocab"].items()} | {
        token_id: token["content"] for token_id, token in added_tokens.items()
    }
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]

    def kind_of(token_id: int) -> TokenType:
        if token_id not in tokens_by_id:
            return TokenType.UNUSED
        if token_id in added_tokens:
            return TokenType.CONTROL if added_tokens[token_id]["special"] else TokenType.USER_DEFINED
        if is_char_level and _BYTE.fullmatch(tokens_by_id[token_id]):
            return TokenType.BYTE
        return TokenType.NORMAL

    rank: dict[str, int] = {}
    for index, pair in enumerate(merges):
        rank.setdefault("".join(pair), index)
    unknown = model.get("unk_token")
    return Vocabulary(
        model="llama" if is_char_level else "gpt2",
        pre="default" if is_char_level else str(rules_of(tokenizer)),
        tokens=tuple(tokens_by_id.get(token_id, f"[PAD{token_id}]") for token_id in range(vocabulary_size)),
        token_types=tuple(
            int(
                TokenType.UNKNOWN
                if is_char_level and tokens_by_id.get(token_id) == unknown
                else kind_of(token_id)
            )
            for token_id in range(vocabulary_size)
        ),
        merges=() if is_char_level else tuple(" ".join(pair) for pair in merges),
        # Earlier merges have higher scores; tokens that no merge produces have the lowest.
        scores=tuple(
            -float(rank.get(tokens_by_id.get(token_id, ""), len(rank))) for token_id in range(vocabulary_size)
        )
        if is_char_level
        else (),
        add_space_prefix=is_char_level and bool(_adds_space(tokenizer)),
        strips_after_special=any(token["rstrip"] for token in added_tokens.values()),
    )


def _reasons(tokenizer: Json, model_type: str) -> Iterator[str]:
    model = tokenizer.get("model") or {}
    tokenizer_type = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
    if tokenizer_type != "BPE":
        yield f"its tokenizer is a {tokenizer_type}, and GGUF can be written for BPE only"
        return
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            yield f"its tokenizer has {key}, which llama.cpp does not support"
    for token in tokenizer.get("added_tokens") or ():
        if (
            token.get("lstrip")
            or token.get("single_word")
            or (token.get("rstrip") and model_type != _STRIPPING_FAMILY)
        ):
            yield f"its token {token['content']!r} strips adjacent spaces or matches whole words only, unlike llama.cpp"
    if model.get("byte_fallback"):
        if _adds_space(tokenizer) is None:
            yield "its tokenizer handles spaces differently from llama.cpp's `llama`"
        return
    if not model.get("merges"):
        yield "its tokenizer has no merges, which llama.cpp refuses to open"
    normalizers = parts_of(tokenizer.get("normalizer"), "normalizers")
    if any(part["type"] != "NFC" for part in normalizers):
        yield f"its tokenizer has the normalizer {normalizers[0]['type']}, which llama.cpp does not support"
    if rules_of(tokenizer) is None:
        yield "its tokenizer splits texts into words by rules other than those of GPT-2, SmolLM, Llama 3 and Qwen 2"
    elif rules_of(tokenizer) == pre_tokenization.IGNORE_MERGES_RULES and not model.get("ignore_merges"):
        yield "its tokenizer splits texts like Llama 3's but also merges whole words, which llama.cpp does not"


def rules_of(tokenizer: Json) -> str | None:
    """Return llama.cpp's name of the pre-tokenization rules of a byte-level tokenizer; None for other rules."""
    return pre_tokenization.rules_of(parts_of(tokenizer.get("pre_tokenizer"), "pretokenizers"))


def _adds_space(tokenizer: Json) -> bool | None:
    """Whether a space is prepended to texts; None if spaces are handled differently from llama.cpp's `llama`."""
    replace_spaces = {
        "type": "Replace",
        "pattern": {"String": " "},
        "content": pre_tokenization.SENTENCEPIECE_SPACE,
    }
    normalizers = parts_of(tokenizer.get("normalizer"), "normalizers")
    pre_tokenizers = parts_of(tokenizer.get("pre_tokenizer"), "pretokenizers")
    match normalizers, pre_tokenizers:
        case [{"type": "Prepend", "prepend": prepended}, last], [] if (
            prepended == pre_tokenization.SENTENCEPIECE_SPACE and last == replace_spaces
        ):
            return True
        case [only], [] if only == replace_spaces:
            return False
        # Gemma's: spaces are replaced by the normalizer, so there is nothing left to split at.
        case [only], [{"type": "Split", "pattern": {"String": " "}}] if only == replace_spaces:
            return False
        case [], [{"type": "Metaspace", "prepend_scheme": "always" | "never" as scheme, "split": False}]:
            return bool(scheme == "always")
    return None


def parts_of(part: Json | None, sequence_key: str) -> list[Any]:
    """Return the parts of a tokenizer component, which may be a sequence."""
    if part is None:
        return []
    return list(part[sequence_key]) if part["type"] == "Sequence" else [part]
