"""Documents are cut at the ends of sentences, and nothing of them is lost."""

from __future__ import annotations

import re

import pytest

from compress.generation.passages import split_passages


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    ("text", "fewest", "most", "expected"),
    [
        ("One two. Three four. Five six.", 1, 4, ["One two. Three four.", "Five six."]),
        ("One two. Three four. Five.", 2, 4, ["One two. Three four."]),
        ("A headline\n\nOne two. Three", 1, 2, ["A headline", "One two.", "Three"]),
        (
            'He said "no." Then he left! Why? 3.5 of 4.',
            1,
            3,
            ['He said "no."', "Then he left!", "Why?", "3.5 of 4."],
        ),
        ("one two three four five six seven", 1, 4, ["one two three four", "five six seven"]),
        ("一二三。四五。", 1, 9, ["一二三。四五。"]),
        (" \n\n ", 1, 9, []),
        ("", 1, 9, []),
    ],
)
def test_where_a_text_is_cut(text: str, fewest: int, most: int, expected: list[str]):
    assert split_passages(text, words, fewest, most) == expected


def test_passages_hold_all_words_and_no_more_tokens_than_they_may():
    text = " ".join(f"w{number}{'.' * (number % 7 == 0)}" for number in range(500))
    for most in (1, 3, 10, 64):
        found = split_passages(text, words, 1, most)
        assert max(map(words, found)) <= most
        assert re.sub(r"\s", "", "".join(found)) == re.sub(r"\s", "", text)
