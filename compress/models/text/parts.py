"""Encoding of a text in parts, for tokenizers that put a space before the first word of a text, but not of its parts.

SentencePiece tokenizers (Llama 2, Mistral) do so; after a special token, many do it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Encoding, Tokenizer

LEAD = "\ue001"
"""Stands for what precedes a part: a private-use character, which merges with nothing."""


class Part(NamedTuple):
    """Token ids of a part of a text, and of each the characters that it covers: first, and last + 1."""

    ids: list[int]
    offsets: list[tuple[int, int]]


def encode_parts(tokenizer: Tokenizer, texts: Sequence[Sequence[str]]) -> list[list[Part]]:
    """Encode texts that are given in parts, without special tokens.

    The ids are those of the whole text, except that no token reaches from one part into the next: a model reads what
    precedes an answer before there is one.
    """
    alone = iter(
        tokenizer.encode_batch([part for parts in texts for part in parts], add_special_tokens=False)
    )
    found = [[Part(one.ids, one.offsets) for one in (next(alone) for _ in parts)] for parts in texts]
    if not puts_space(tokenizer):
        return found
    added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
    places, leads = list[tuple[int, int]](), list[str]()
    for number, encoded in enumerate(found):
        last: int | None = None
        for place, part in enumerate(encoded):
            if last is not None:
                places.append((number, place))
                leads.append(added.get(last, LEAD))
            last = part.ids[-1] if part.ids else last
    behind = [lead + texts[number][place] for lead, (number, place) in zip(leads, places, strict=True)]
    encodings = tokenizer.encode_batch(behind, add_special_tokens=False)
    for (number, place), lead, encoding in zip(places, leads, encodings, strict=True):
        if (better := _behind(encoding, len(lead))) is not None:
            found[number][place] = better
    return found


def puts_space(tokenizer: Tokenizer) -> bool:
    """Return whether a word has other tokens at the beginning of a text than directly behind another part."""
    alone, behind = (tokenizer.encode(text, add_special_tokens=False) for text in ("a", LEAD + "a"))
    part = _behind(behind, len(LEAD))
    return part is not None and part.ids != alone.ids


def _behind(encoding: Encoding, start: int) -> Part | None:
    """Return the tokens from the character `start` on; None if a token reaches across it."""
    if any(first < start < last for first, last in encoding.offsets):
        return None
    kept = [
        (one, (first - start, last - start))
        for one, (first, last) in zip(encoding.ids, encoding.offsets, strict=True)
        if first >= start
    ]
    return Part([one for one, _ in kept], [offsets for _, offsets in kept])
