"""Data that a browser needs to tokenize texts exactly like the Python library `tokenizers`.

The package @huggingface/tokenizers reads `tokenizer.json`. BERT's normalizer and pre-tokenizer depend on Unicode
categories, which are newer in browsers than in the library; for these the page uses tables measured here.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from compress.core.disk.reading import read_mapping
from compress.core.errors import ModelError

HARD_TEXTS = (
    "", " ", "a", "Hello, world!", "what's  up?\tnew\nline", "don't CAN'T I'm", "naïve café ÀÉÎÕÜ", "e\u0301 o\u0308",
    "İstanbul ß ẞ Œ", "ΑΒΓ ΣΑΣ", "東京タワー 中国", "\U00020000\U0002a700ext", "한국어 한", "हिन्दी", "العربية", "ไทย",
    "x" * 99, "y" * 101, "$100.50 + 5 = 3^2 ~`|<>", "–—‘’“”…", "１２３ ｶﾅ ﬁ Ⅷ ½", "emoji 😀 🇩🇪", "a_b_c @user #tag",
    "\u00a0nbsp\u3000wide\u200bzero", "soft\u00adhyphen", "\u0000\ufffd\u0007", "[CLS] [sep] [MASK]x", "...!!!???",
)  # fmt: skip
"""Texts that reveal differences between tokenizers."""

_MODEL_TYPES = ("WordPiece", "BPE")
_UNSUPPORTED = {
    "Unigram": ": where two ways to split a word score the same, JavaScript picks a different one than Python"
}
_NORMALIZERS = (
    "BertNormalizer", "Sequence", "Replace", "NFC", "NFD", "NFKC", "NFKD", "Strip", "StripAccents",
    "Lowercase", "Prepend",
)  # fmt: skip
_PRE_TOKENIZERS = (
    "BertPreTokenizer", "Sequence", "Whitespace", "WhitespaceSplit", "Metaspace", "ByteLevel", "Split", "Punctuation",
    "Digits", "Replace",
)  # fmt: skip

_SEPARATOR = "q"
"""Separates the characters that are normalized together; only its capital normalizes to it, and it has no accents."""
_HANGUL = range(0xAC00, 0xD7A4)
"""Hangul syllables, which decompose by a rule that is fixed across Unicode versions, so the browser does it."""

Ranges = list[list[int]]


def check_tokenizer(file: Path) -> None:
    """Reject a `tokenizer.json` with a component that the JavaScript package does not support faithfully.

    Raises:
        ModelError: there is one.
    """
    body = read_mapping(file)
    model = body["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
    if kind not in _MODEL_TYPES:
        reason = _UNSUPPORTED.get(kind, f"; known: {', '.join(_MODEL_TYPES)}")
        raise ModelError(f"a browser cannot run a {kind} tokenizer faithfully{reason}", where=str(file))
    for part, supported in (("normalizer", _NORMALIZERS), ("pre_tokenizer", _PRE_TOKENIZERS)):
        for name in _component_types(body.get(part)):
            if name not in supported:
                raise ModelError(f"a browser cannot run the {part} {name}", where=str(file))


def tokenizer_facts(file: Path) -> dict[str, Any]:
    """Return what a page needs beside `tokenizer.json`: special tokens `before` and `after` texts, and `characters`."""
    before, after = surrounding_ids(Tokenizer.from_file(str(file)))
    return {"before": before, "after": after, "characters": character_tables(file)}


def surrounding_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids of the special tokens before and after every text.

    Raises:
        ModelError: the tokenizer produces no token for the letter a.
    """
    encoded = tokenizer.encode("a")
    content_indices = [
        index for index, sequence_id in enumerate(encoded.sequence_ids) if sequence_id is not None
    ]
    if not content_indices:
        raise ModelError("the tokenizer produces no token for the letter a")
    return encoded.ids[: content_indices[0]], encoded.ids[content_indices[-1] + 1 :]


def character_tables(file: Path) -> dict[str, Any]:
    """Return how BERT's normalizer and pre-tokenizer treat each character, as far as the tokenizer has them.

    `normalizer`: ranges of code points that are `removed`, replaced by a `blank` or surrounded by blanks (`spaced`),
    and the replacement of every other character that changes (`changed`); `syllables`: whether Hangul is decomposed.
    `splitting`: ranges that separate words (`blank`) or become tokens of their own (`alone`). Ranges are [first, last].
    """
    body = read_mapping(file)
    tokenizer = Tokenizer.from_file(str(file))
    tables: dict[str, Any] = {}
    if (body.get("normalizer") or {}).get("type") == "BertNormalizer":
        tables["normalizer"] = _normalizer_table(tokenizer.normalizer)
    if (body.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer":
        tables["splitting"] = _splitting_table(tokenizer.pre_tokenizer)
    return tables


def _normalizer_table(normalizer: Any) -> dict[str, Any]:
    characters = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if not 0xD800 <= code < 0xE000 and chr(code) not in "qQ"
    ]
    normalized = normalizer.normalize_str(_SEPARATOR.join(characters)).split(_SEPARATOR)
    assert len(normalized) == len(characters)
    removed, blank, spaced = [], [], []
    changed = {"Q": normalizer.normalize_str("Q")}
    for character, replacement in zip(characters, normalized, strict=True):
        if replacement == character or ord(character) in _HANGUL:
            continue
        if replacement == "":
            removed.append(ord(character))
        elif replacement == " ":
            blank.append(ord(character))
        elif replacement == f" {character} ":
            spaced.append(ord(character))
        else:
            changed[character] = replacement
    return {
        "removed": ranges(removed),
        "blank": ranges(blank),
        "spaced": ranges(spaced),
        "changed": changed,
        "syllables": normalizer.normalize_str("각") != "각",
    }


def _splitting_table(pre_tokenizer: Any) -> dict[str, Any]:
    blank, alone = [], []
    for code in range(sys.maxunicode + 1):
        # Letters, marks and digits are never split off; unassigned, private and surrogate code points are skipped.
        if unicodedata.category(chr(code))[0] in "LMN" or unicodedata.category(chr(code)) in (
            "Cn",
            "Co",
            "Cs",
        ):
            continue
        pieces = [piece for piece, _ in pre_tokenizer.pre_tokenize_str(f"a{chr(code)}a")]
        if pieces == ["a", "a"]:
            blank.append(code)
        elif len(pieces) == 3:
            alone.append(code)
    return {"blank": ranges(blank), "alone": ranges(alone)}


def ranges(codes: Iterable[int]) -> Ranges:
    """Return the unbroken runs of increasing numbers as [first, last] pairs."""
    runs: Ranges = []
    for code in codes:
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return runs


def _component_types(component: Any) -> list[str]:
    """Return the types of a tokenizer component and, for a sequence, of its elements."""
    if component is None:
        return []
    components = component.get("normalizers") or component.get("pretokenizers") or []
    return [component["type"], *(name for entry in components for name in _component_types(entry))]
