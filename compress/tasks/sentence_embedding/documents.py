"""Split texts into sentences, while they are read or once they are divided into splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compress.data.documents import Splitter
from compress.data.kinds import TEXTS
from compress.data.rows import Rows
from compress.data.splitting import text_key
from compress.data.texts import check_texts
from compress.tasks.sentence_embedding.sentences import MIN_WORDS, split_sentences


def check_sentences(rows: Rows) -> tuple[tuple[str, ...], list[bytes]]:
    """Return the sentences of a split's texts, and the key of each.

    Raises:
        DataError: a text is missing, blank, not a text, or not valid Unicode.
    """
    return _split_texts(check_texts(rows)[0])


def _split_texts(texts: Sequence[str]) -> tuple[tuple[str, ...], list[bytes]]:
    sentences = tuple(sentence for text in texts for sentence in split_sentences(text))
    return sentences, [text_key(sentence) for sentence in sentences]


SENTENCES = replace(TEXTS, noun="sentence", check=check_sentences)
"""Texts that are split into sentences while they are read."""
SENTENCE_SPLITTER = Splitter(
    "sentence", _split_texts, f"Sentences of fewer than {MIN_WORDS} words are left out."
)
