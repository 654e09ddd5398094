"""A tokenizer in the terms of llama.cpp: the tokens with their kinds, and how texts are cut. Free of torch.

llama.cpp knows tokenizers by name and has the rules of each in its code: `gpt2` joins bytes by merges, and
`tokenizer.ggml.pre` says how texts are cut into words before; `llama` joins letters by scores, and bytes where a letter
is unknown. Only those whose `tokenizer.json` says exactly that are written.
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
"""Of this family llama.cpp knows that blanks behind special tokens vanish."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class TokenKind(IntEnum):
    """What GGUF calls the kinds of tokens."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """What of a tokenizer stands in a GGUF file. `merges` are those of `gpt2`, `scores` those of `llama`.

    `adds_space`: a space stands before a text, and behind each special token. `strips`: blanks behind special tokens
    vanish.
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
    """Why llama.cpp has no such tokenizer; None where it has.

    Args:
        tokenizer: the content of a `tokenizer.json`.
        kind: the `model_type` of its model.
    """
    return next(_reasons(tokenizer, kind), None)


def vocabulary_of(tokenizer: Json, words: int) -> Vocabulary:
    """A tokenizer that llama.cpp knows (`why_no_vocabulary`).

    Args:
        words: how many tokens the model has; those that the tokenizer does not know are unused.
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
        # What is joined first has the largest score; what no merge makes is never joined.
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
    """llama.cpp's name of the rules by which texts are cut into words before bytes are joined; None of others."""
    return pre_tokenization.rules_of(parts_of(tokenizer.get("pre_tokenizer"), "pretokenizers"))


def _adds_space(tokenizer: Json) -> bool | None:
    """Whether a space is put before texts; None where spaces are written otherwise than in llama.cpp's `llama`."""
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
        # Gemma's: spaces are replaced before, so nothing is left to split at.
        case [only], [{"type": "Split", "pattern": {"String": " "}}] if only == replaces:
            return False
        case [], [{"type": "Metaspace", "prepend_scheme": "always" | "never" as scheme, "split": False}]:
            return bool(scheme == "always")
    return None


def parts_of(part: Json | None, inside: str) -> list[Any]:
    """What a part of a tokenizer is a sequence of."""
    if part is None:
        return []
    return list(part[inside]) if part["type"] == "Sequence" else [part]
