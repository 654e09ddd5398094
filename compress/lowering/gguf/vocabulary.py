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

_STRIPS = "phi3"
"""The family for which llama.cpp strips whitespace after special tokens."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class TokenKind(IntEnum):
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

    `adds_space`: a space is prepended to a text, and after each special token. `strips`: whitespace after special
    tokens is stripped.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    scores: tuple[float, ...]
    adds_space: bool
    strips: bool


def why_no_vocabulary(tokenizer: Json, kind: str) -> str | None:
    """Return why llama.cpp does not support a tokenizer; None if it does.

    Args:
        tokenizer: the content of a `tokenizer.json`.
        kind: the `model_type` of its model.
    """
    return next(_reasons(tokenizer, kind), None)


def vocabulary_of(tokenizer: Json, words: int) -> Vocabulary:
    """Convert a tokenizer that llama.cpp supports (see `why_no_vocabulary`).

    Args:
        words: number of tokens of the model; those that the tokenizer lacks are marked unused.
    """
    model, added = tokenizer["model"], {token["id"]: token for token in tokenizer.get("added_tokens") or ()}
    by_letters = bool(model.get("byte_fallback"))
    texts = {number: text for text, number in model["vocab"].items()} | {
        number: token["content"] for number, token in added.items()
    }
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]

    def kind_of(number: int) -> TokenKind:
        if number not in texts:
            return TokenKind.UNUSED
        if number in added:
            return TokenKind.CONTROL if added[number]["special"] else TokenKind.USER_DEFINED
        if by_letters and _BYTE.fullmatch(texts[number]):
            return TokenKind.BYTE
        return TokenKind.NORMAL

    rank: dict[str, int] = {}
    for place, pair in enumerate(merges):
        rank.setdefault("".join(pair), place)
    unknown = model.get("unk_token")
    return Vocabulary(
        model="llama" if by_letters else "gpt2",
        pre="default" if by_letters else str(rules_of(tokenizer)),
        tokens=tuple(texts.get(number, f"[PAD{number}]") for number in range(words)),
        kinds=tuple(
            int(TokenKind.UNKNOWN if by_letters and texts.get(number) == unknown else kind_of(number))
            for number in range(words)
        ),
        merges=() if by_letters else tuple(" ".join(pair) for pair in merges),
        # Earlier merges have higher scores; tokens that no merge produces have the lowest.
        scores=tuple(-float(rank.get(texts.get(number, ""), len(rank))) for number in range(words))
        if by_letters
        else (),
        adds_space=by_letters and bool(_adds_space(tokenizer)),
        strips=any(token["rstrip"] for token in added.values()),
    )


def _reasons(tokenizer: Json, kind: str) -> Iterator[str]:
    model = tokenizer.get("model") or {}
    how = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
    if how != "BPE":
        yield f"its tokenizer is a {how}, and GGUF can be written for BPE only"
        return
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            yield f"its tokenizer has {key}, which llama.cpp does not support"
    for token in tokenizer.get("added_tokens") or ():
        if token.get("lstrip") or token.get("single_word") or (token.get("rstrip") and kind != _STRIPS):
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
    elif rules_of(tokenizer) == pre_tokenization.WHOLE_WORDS and not model.get("ignore_merges"):
        yield "its tokenizer splits texts like Llama 3's but also merges whole words, which llama.cpp does not"


def rules_of(tokenizer: Json) -> str | None:
    """Return llama.cpp's name of the pre-tokenization rules of a byte-level tokenizer; None for other rules."""
    return pre_tokenization.rules_of(parts_of(tokenizer.get("pre_tokenizer"), "pretokenizers"))


def _adds_space(tokenizer: Json) -> bool | None:
    """Whether a space is prepended to texts; None if spaces are handled differently from llama.cpp's `llama`."""
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": pre_tokenization.SPACE}
    normalizers = parts_of(tokenizer.get("normalizer"), "normalizers")
    before = parts_of(tokenizer.get("pre_tokenizer"), "pretokenizers")
    match normalizers, before:
        case [{"type": "Prepend", "prepend": prepended}, last], [] if (
            prepended == pre_tokenization.SPACE and last == replaces
        ):
            return True
        case [only], [] if only == replaces:
            return False
        # Gemma's: spaces are replaced by the normalizer, so there is nothing left to split at.
        case [only], [{"type": "Split", "pattern": {"String": " "}}] if only == replaces:
            return False
        case [], [{"type": "Metaspace", "prepend_scheme": "always" | "never" as scheme, "split": False}]:
            return bool(scheme == "always")
    return None


def parts_of(part: Json | None, inside: str) -> list[Any]:
    """Return the parts of a tokenizer component, which may be a sequence."""
    if part is None:
        return []
    return list(part[inside]) if part["type"] == "Sequence" else [part]
