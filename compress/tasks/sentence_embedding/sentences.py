"""Split texts into sentences with a simple rule. Pure functions."""

from __future__ import annotations

import re

MIN_WORDS = 3
"""Shorter pieces are dropped: headings, bylines and remains of lists are too short to be compared."""

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")
_CLOSING_MARKS = "\"'”’»)\\]"
_END = re.compile(rf"[.!?…]+[{_CLOSING_MARKS}]*\s+|[。！？]+[”’」』）]*\s*|।\s*")
_ABBREVIATIONS = frozenset(
    (
        *("adm", "capt", "col", "dr", "gen", "gov", "hon", "jr", "lt", "maj", "messrs", "mr", "mrs", "ms"),
        *("prof", "rep", "rev", "sen", "sgt", "sr", "st"),
        *(
            "approx",
            "cf",
            "co",
            "corp",
            "dept",
            "ed",
            "eds",
            "est",
            "etc",
            "fig",
            "figs",
            "inc",
            "ltd",
            "vol",
            "vols",
            "vs",
        ),
    )
)
_DOTTED = re.compile(r"(?:\w\.)+\w")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|\w+(?:['’]\w+)*")


def split_sentences(text: str, min_words: int = MIN_WORDS) -> list[str]:
    """Return the sentences of a text in order, with white space collapsed; sentences of too few words are dropped.

    A sentence ends at a blank line, and after `.`, `!`, `?` or `…` (with closing quotes and brackets) if followed by
    white space and no lower-case letter. A single full stop does not end one after an abbreviation (`Mr.`), an initial
    (`J.`) or single letters with full stops between them (`U.S.`). Ideographic and Devanagari full stops always end
    one; an ideograph counts as a word.
    """
    pieces = [
        piece
        for paragraph in _PARAGRAPH.split(text)
        for piece in _split_paragraph(" ".join(paragraph.split()))
    ]
    return [piece for piece in pieces if len(_WORD.findall(piece)) >= min_words]


def _split_paragraph(paragraph: str) -> list[str]:
    pieces, start = [], 0
    for match in _END.finditer(paragraph):
        if _is_sentence_end(paragraph, start, match):
            pieces.append(paragraph[start : match.end()].strip())
            start = match.end()
    return [*pieces, paragraph[start:].strip()]


def _is_sentence_end(paragraph: str, start: int, match: re.Match[str]) -> bool:
    punctuation = match.group().strip()
    if punctuation[0] not in ".!?…":
        return True
    if paragraph[match.end() : match.end() + 1].islower():
        return False
    if punctuation != ".":
        return True
    word = paragraph[start : match.start()].rpartition(" ")[2].lstrip("\"'“‘«([")
    initial = len(word) == 1 and word.isalpha() and word.isupper() and word != "I"
    return not (initial or _DOTTED.fullmatch(word) or word.casefold() in _ABBREVIATIONS)
