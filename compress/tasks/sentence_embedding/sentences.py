"""Split texts into sentences with a simple rule. Pure functions."""

from __future__ import annotations

import re

FEWEST_WORDS = 3
"""Shorter pieces are dropped: headings, bylines and remains of lists are too short to be compared."""

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")
_CLOSERS = "\"'”’»)\\]"
_END = re.compile(rf"[.!?…]+[{_CLOSERS}]*\s+|[。！？]+[”’」』）]*\s*|।\s*")
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


def cut_sentences(text: str, fewest_words: int = FEWEST_WORDS) -> list[str]:
    """Return the sentences of a text in order, with white space collapsed; sentences of too few words are dropped.

    A sentence ends at a blank line, and after `.`, `!`, `?` or `…` (with closing quotes and brackets) if followed by
    white space and no lower-case letter. A single full stop does not end one after an abbreviation (`Mr.`), an initial
    (`J.`) or single letters with full stops between them (`U.S.`). Ideographic and Devanagari full stops always end
    one; an ideograph counts as a word.
    """
    pieces = [piece for paragraph in _PARAGRAPH.split(text) for piece in _cut(" ".join(paragraph.split()))]
    return [piece for piece in pieces if len(_WORD.findall(piece)) >= fewest_words]


def _cut(paragraph: str) -> list[str]:
    pieces, start = [], 0
    for found in _END.finditer(paragraph):
        if _ends(paragraph, start, found):
            pieces.append(paragraph[start : found.end()].strip())
            start = found.end()
    return [*pieces, paragraph[start:].strip()]


def _ends(paragraph: str, start: int, found: re.Match[str]) -> bool:
    mark = found.group().strip()
    if mark[0] not in ".!?…":
        return True
    if paragraph[found.end() : found.end() + 1].islower():
        return False
    if mark != ".":
        return True
    word = paragraph[start : found.start()].rpartition(" ")[2].lstrip("\"'“‘«([")
    initial = len(word) == 1 and word.isalpha() and word.isupper() and word != "I"
    return not (initial or _DOTTED.fullmatch(word) or word.casefold() in _ABBREVIATIONS)
