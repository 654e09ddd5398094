"""How texts are cut into sentences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.tasks.sentence_embedding.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It rained all day. We stayed at home.", ["It rained all day.", "We stayed at home."]),
        ('He said "Go home now!" Then he left us.', ['He said "Go home now!"', "Then he left us."]),
        ("Mr. Smith met J. K. Rowling there.", ["Mr. Smith met J. K. Rowling there."]),
        ("The U.S. Government pays for it.", ["The U.S. Government pays for it."]),
        ("It rose by 3.5 per cent.", ["It rose by 3.5 per cent."]),
        ("Sales rose by 0.3%. In May they fell.", ["Sales rose by 0.3%.", "In May they fell."]),
        ("They came to it... and they stayed.", ["They came to it... and they stayed."]),
        ("Was it really you? Yes it was!", ["Was it really you?", "Yes it was!"]),
        ("A title of words\n\nThe text begins here.", ["A title of words", "The text begins here."]),
        ("wrapped over\ntwo  lines here", ["wrapped over two lines here"]),
        ("Too short. This one is not.", ["This one is not."]),
        ("今日は晴れ。明日は雨です。", ["今日は晴れ。", "明日は雨です。"]),
        ("One two\n\n \n three four", []),
        ("", []),
    ],
)
def test_sentences_by_hand(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@given(st.text(st.sampled_from("aB. !?\n\"'3")))
def test_nothing_but_white_space_is_lost(text: str) -> None:
    pieces = split_sentences(text, min_words=0)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(piece == " ".join(piece.split()) for piece in pieces)
