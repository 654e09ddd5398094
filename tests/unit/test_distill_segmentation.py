"""Whether student and teacher cut texts alike: told by the pieces, not by how many there are or what their ids are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from compress.core.artifacts import TASK, TOKENIZER
from compress.core.disk.files import write_json, write_text
from compress.core.errors import ModelError
from compress.encoding.tokens import TokenInputs, encode_texts
from compress.models.text.vocabulary import id_table, read_vocabulary, trim_tokenizer
from compress.training.signals.segmentation import check_aligned, same_segmentation
from compress.training.signals.top_k import TopK
from tests.tiny import SPECIAL, WORDS, tiny_tokenizer

CUT_OFF = 5
"""Tokens of a text, special ones included: every text below is longer."""
TEXTS = ("green cats green cats green cats", "the green bird sings and sleeps")


def reader(folder: Path, tokenizer: Tokenizer | str) -> tuple[Path, TokenInputs]:
    """A model's tokenizer on disk, and what it makes of the texts."""
    folder.mkdir()
    write_text(folder / TOKENIZER, tokenizer if isinstance(tokenizer, str) else tokenizer.to_str())
    write_json(folder / TASK, {"max_length": CUT_OFF, "input_names": ["input_ids"], "pad_id": 0})
    inputs = encode_texts(TEXTS, folder / TOKENIZER, folder / TASK)
    assert inputs.lengths.tolist() == [CUT_OFF] * len(TEXTS)
    return folder, inputs


def trimmed(folder: Path, source: Path, *words: str) -> tuple[Path, TokenInputs]:
    vocabulary = read_vocabulary(source / TOKENIZER)
    kept = np.array(sorted([*vocabulary.special, *(vocabulary.ids[word] for word in words)]))
    return reader(folder, trim_tokenizer(source / TOKENIZER, id_table(vocabulary, kept)))


def test_texts_cut_off_at_one_length_are_not_cut_alike(tmp_path: Path) -> None:
    whole = reader(tmp_path / "whole", tiny_tokenizer())
    words = tuple(word for word in WORDS if word != "green")
    halves = reader(tmp_path / "halves", tiny_tokenizer((*words, "gre", "##en")))
    assert not same_segmentation(whole, halves)
    assert not same_segmentation(halves, whole)


def test_pieces_that_the_other_has_never_heard_of_are_not_its_unknown_ones(tmp_path: Path) -> None:
    ours = reader(tmp_path / "ours", tiny_tokenizer())
    foreign = reader(tmp_path / "foreign", tiny_tokenizer(("der", "und", "##en")))
    assert np.all(np.concatenate([text[1:-1] for text in foreign[1].ids]) == SPECIAL.index("[UNK]"))
    assert not same_segmentation(ours, foreign)
    assert not same_segmentation(foreign, ours)


def test_other_ids_of_the_same_pieces_are_cut_alike(tmp_path: Path) -> None:
    forth = reader(tmp_path / "forth", tiny_tokenizer())
    back = reader(tmp_path / "back", tiny_tokenizer(WORDS[::-1]))
    assert not np.array_equal(forth[1].ids[0], back[1].ids[0])
    assert same_segmentation(forth, back)


def test_a_trimmed_vocabulary_cuts_as_the_whole_one_and_as_another_trimmed_one(tmp_path: Path) -> None:
    whole = reader(tmp_path / "whole", tiny_tokenizer())
    green = trimmed(tmp_path / "green", whole[0], "green", "the")
    cats = trimmed(tmp_path / "cats", whole[0], "cat", "##s")
    readers = (whole, green, cats)
    assert all(same_segmentation(one, other) for one in readers for other in readers)


def test_only_signals_of_tokens_are_refused(tmp_path: Path) -> None:
    whole = reader(tmp_path / "whole", tiny_tokenizer())
    halves = reader(tmp_path / "halves", tiny_tokenizer((*WORDS[2:], "gre", "##en")))
    teachers = [("teacher", *whole)]
    check_aligned(frozenset({"outputs"}), halves, teachers)
    with pytest.raises(
        ModelError, match=r"student and teacher tokenize texts differently, so hidden\.1 cannot"
    ):
        check_aligned(frozenset({"hidden.1", "outputs"}), halves, teachers)


@pytest.mark.parametrize("signal", ["outputs", TopK(4, 1.0, 9).name])
def test_what_is_said_of_words_is_compared_by_their_ids(tmp_path: Path, signal: str) -> None:
    forth = reader(tmp_path / "forth", tiny_tokenizer())
    back = reader(tmp_path / "back", tiny_tokenizer(WORDS[::-1]))
    teachers = [("teacher", *forth)]
    check_aligned(frozenset({signal}), forth, teachers, row_outputs=False)
    check_aligned(frozenset({"hidden.1"}), back, teachers, row_outputs=False)
    with pytest.raises(ModelError, match="use different token ids"):
        check_aligned(frozenset({signal}), back, teachers, row_outputs=False)
