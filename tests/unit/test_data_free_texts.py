from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, models

from compress.core.artifacts import TOKENIZER
from compress.core.terminal.progress import SilentProgress
from compress.models.text.vocabulary import Vocabulary, read_vocabulary
from compress.profile.specs.examples import DataFreeSpec
from compress.training.data_free.texts import SampledTexts, sample_texts
from compress.training.data_free.words import (
    Ids,
    SpecialTokens,
    choose_words,
    class_word_probabilities,
    draw_texts,
    mix_tokens,
    mutate_text,
    ordinary_tokens,
    zipf,
)
from tests.tiny import WORDS, tiny_tokenizer

FRAME = SpecialTokens(np.array([2]), np.array([3]))
TOKENS = np.arange(10, 60)
CLASSES = 6


def evidence() -> NDArray[np.float64]:
    """What each word says of each class: the last class has one telling word, a rare one."""
    random = np.random.default_rng(0)
    table = 0.3 * random.standard_normal((60, CLASSES))
    for number in range(CLASSES - 1):
        table[10 + number :: CLASSES, number] += 1.0
    table[:, -1] -= 1.0
    table[58, -1] += 4.0
    return table


class Teacher:
    """Adds what the words say; counts what it was asked."""

    def __init__(self) -> None:
        self.table = evidence()
        self.asked: list[list[Ids]] = []

    def __call__(self, texts: Sequence[Ids]) -> NDArray[np.float32]:
        self.asked.append(list(texts))
        return np.stack([self.table[text[1:-1]].sum(axis=0) for text in texts]).astype(np.float32)


class Stopped(Exception):
    """The process dies here."""


def sampled(
    work: Path, teacher: Teacher | None, seed: int = 0, max_length: int = 32, **free: object
) -> SampledTexts:
    spec = DataFreeSpec(**{"examples": 240, "length": (2, 6), "rounds": 8, **free})  # type: ignore[arg-type]
    return sample_texts(
        TOKENS, FRAME, spec, teacher, max_length=max_length, seed=seed, work=work, progress=SilentProgress()
    )


def equal(first: list[Ids], second: list[Ids]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def test_zipf_falls_from_rank_to_rank_and_leaves_no_word_out():
    chances = zipf(1000)
    assert chances.sum() == pytest.approx(1)
    assert (np.diff(chances) < 0).all()
    assert chances.min() > 0.2 / 1000
    # Without the uniform fifth: 1 / 3.7 against 1 / 4.7.
    falling = chances - 0.2 / 1000
    assert falling[0] / falling[1] == pytest.approx(4.7 / 3.7)


def test_words_of_a_class_follow_bayes_rule_with_squared_answers():
    prior = np.array([0.5, 0.3, 0.2])
    given_word = np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    chances = class_word_probabilities(np.log(given_word).astype(np.float32), prior)
    expected = given_word.T**2 * prior
    np.testing.assert_allclose(chances, expected / expected.sum(axis=1, keepdims=True), rtol=1e-5)


def test_words_come_in_the_order_of_their_ids_without_special_tokens(tmp_path: Path):
    file = tmp_path / TOKENIZER
    file.write_text(tiny_tokenizer(("7", "!", "b", "\u00e9", *WORDS)).to_str())
    names = {number: token for token, number in read_vocabulary(file).ids.items()}
    found = [names[int(number)] for number in ordinary_tokens(read_vocabulary(file))]
    # One letter is no word but for two in English; single characters come last.
    assert found == [*(word for word in WORDS if word != "##s"), "7", "!", "b", "##s"]


def test_single_characters_come_after_the_commonest_words():
    ids = {f"w{number}": number for number in range(300)} | {".": 300}
    order = ordinary_tokens(Vocabulary("WordPiece", ids, frozenset(), None)).tolist()
    assert order == [*range(200), 300, *range(200, 300)]


def test_marks_of_other_tokenizers_are_no_letters():
    ids = {"<s>": 0, "\u0120the": 1, "\u0120x": 2, "ing": 3, "\u0120a": 4, "\u2581": 5}
    assert ordinary_tokens(Vocabulary("BPE", ids, frozenset({0}), None)).tolist() == [1, 3, 4, 2]


def test_half_of_the_words_are_frequent_and_half_are_telling():
    sure = np.array(
        [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.9, 0.1], [0.4, 0.6], [0.0001, 0.9999], [0.2, 0.8]]
    )
    log_probabilities = np.log(sure).astype(np.float32)
    assert choose_words(4, log_probabilities).tolist() == [0, 1, 3, 5]
    assert choose_words(5, log_probabilities).tolist() == [0, 1, 2, 3, 5]
    assert choose_words(7, log_probabilities).tolist() == list(range(7))
    assert choose_words(1, log_probabilities).tolist() == [0]
    assert choose_words(4, None).tolist() == [0, 1, 2, 3]


def test_the_frame_is_what_the_tokenizer_puts_around_a_text():
    frame = SpecialTokens.of(tiny_tokenizer())
    assert (frame.before.tolist(), frame.after.tolist()) == ([2], [3])
    assert frame.wrap(np.array([7, 8])).tolist() == tiny_tokenizer().encode("blue cat").ids


def test_a_tokenizer_without_special_tokens_has_an_empty_frame():
    frame = SpecialTokens.of(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    assert frame.wrap(np.array([5])).tolist() == [5]


@given(
    st.integers(1, 5), st.integers(0, 20), st.integers(1, 50), st.integers(0, 2**32 - 1), st.integers(2, 40)
)
@settings(max_examples=50, deadline=None)
def test_texts_and_their_changes_keep_to_the_lengths_and_words(
    low: int, more: int, count: int, seed: int, words: int
):
    random = np.random.default_rng(seed)
    tokens, lengths = np.arange(100, 100 + words), (low, low + more)
    texts = draw_texts(tokens, zipf(words), lengths, count, random)
    assert len(texts) == count
    source = draw_texts(tokens, zipf(words), lengths, count, random)
    for _ in range(3):
        texts = [mutate_text(text, other, lengths, random) for text, other in zip(texts, source, strict=True)]
        assert all(low <= len(text) <= low + more for text in texts)
        assert np.isin(np.concatenate(texts), tokens).all()


def test_a_change_leaves_its_text_as_it_was():
    random = np.random.default_rng(0)
    text, source = np.arange(5), np.arange(10, 15)
    changed = [mutate_text(text, source, (1, 9), random) for _ in range(200)]
    assert text.tolist() == [0, 1, 2, 3, 4]
    assert {len(one) for one in changed} == {4, 5, 6}
    assert any(sorted(one.tolist()) == [0, 1, 2, 3, 4] and one.tolist() != [0, 1, 2, 3, 4] for one in changed)


def test_mixing_takes_its_share_place_by_place():
    random = np.random.default_rng(0)
    first, second = np.zeros(4000, dtype=np.int64), np.arange(1, 3001)
    mixed = mix_tokens(first, second, 0.25, random)
    taken = mixed > 0
    assert taken.mean() == pytest.approx(0.25 * 3000 / 4000, abs=0.02)
    assert (mixed[taken] == np.flatnonzero(taken) + 1).all()
    assert mix_tokens(first, second, 0, random).tolist() == first.tolist()


def test_the_rounds_bring_texts_to_every_class(tmp_path: Path):
    teacher = Teacher()
    result = sampled(tmp_path, teacher)
    assert result.class_counts is not None
    assert result.initial_class_counts is not None
    assert result.class_counts.sum() == result.initial_class_counts.sum() == 240
    # The class that one rare word tells alone.
    assert result.initial_class_counts[-1] <= 6
    assert result.class_counts[-1] >= 12
    assert result.class_counts.std() < result.initial_class_counts.std()
    # The counts are those of the texts that are given back.
    assert (
        np.bincount(teacher(result.ids).argmax(axis=1), minlength=CLASSES).tolist()
        == result.class_counts.tolist()
    )


def test_uniform_words_alone_hardly_reach_the_rare_class():
    random = np.random.default_rng(0)
    texts = draw_texts(TOKENS, np.full(50, 1 / 50), (2, 6), 240, random)
    found = Teacher()([FRAME.wrap(text) for text in texts]).argmax(axis=1)
    assert np.bincount(found, minlength=CLASSES)[-1] < 12


def test_the_teacher_sees_special_tokens_and_words_within_the_lengths(tmp_path: Path):
    teacher = Teacher()
    sampled(tmp_path, teacher)
    every = [text for texts in teacher.asked for text in texts]
    assert all(text[0] == 2 and text[-1] == 3 for text in every)
    assert np.isin(np.concatenate([text[1:-1] for text in every]), TOKENS).all()
    # First every word alone, then the texts.
    assert [text[1:-1].tolist() for text in teacher.asked[0]] == [[word] for word in TOKENS]
    assert {len(text) - 2 for texts in teacher.asked[1:] for text in texts} == {2, 3, 4, 5, 6}


def test_only_texts_that_miss_their_goal_are_asked_about_again(tmp_path: Path):
    teacher = Teacher()
    sampled(tmp_path, teacher)
    numbers = [len(texts) for texts in teacher.asked]
    assert numbers[1] == 240
    assert numbers[2] < 240
    assert numbers[2:] == sorted(numbers[2:], reverse=True)


def test_texts_are_made_of_the_chosen_words_alone(tmp_path: Path):
    teacher = Teacher()
    result = sampled(tmp_path, teacher, words=20)
    # The most frequent ten, and the only word that tells the last class among the others.
    assert len(result.words) == 20
    assert result.words[:10].tolist() == TOKENS[:10].tolist()
    assert 58 in result.words
    assert np.isin(np.concatenate([text[1:-1] for text in result.ids]), result.words).all()
    assert len(teacher.asked[0]) == 50


def test_no_text_is_longer_than_the_model_reads(tmp_path: Path):
    result = sampled(tmp_path, Teacher(), max_length=6, length=(3, 30))
    assert {len(text) for text in result.ids} == {5, 6}


def test_equal_seeds_give_equal_texts(tmp_path: Path):
    first, second, other = (
        sampled(tmp_path / str(number), Teacher(), seed).ids for number, seed in enumerate((0, 0, 1))
    )
    assert equal(first, second)
    assert not equal(first, other)


@pytest.mark.parametrize("calls", [1, 2, 4, 6])
def test_killed_and_started_again_gives_the_same_texts_and_asks_for_the_rest_alone(
    tmp_path: Path, calls: int
):
    class Dying(Teacher):
        def __call__(self, texts: Sequence[Ids]) -> NDArray[np.float32]:
            if len(self.asked) == calls:
                raise Stopped
            return super().__call__(texts)

    expected = sampled(tmp_path / "straight", whole := Teacher())
    with pytest.raises(Stopped):
        sampled(tmp_path / "killed", Dying())
    result = sampled(tmp_path / "killed", rest := Teacher())
    assert equal(result.ids, expected.ids)
    assert result.class_counts is not None
    assert expected.class_counts is not None
    assert result.class_counts.tolist() == expected.class_counts.tolist()
    # The words alone and the first texts are kept together.
    again = 0 if calls < 2 else calls
    assert len(rest.asked) == len(whole.asked) - again


def test_without_classes_the_texts_stay_as_they_were_drawn(tmp_path: Path):
    result = sampled(tmp_path, None)
    assert (result.class_counts, result.initial_class_counts) == (None, None)
    assert len(result.ids) == 240
    assert not list(tmp_path.iterdir())


def test_without_rounds_nothing_is_changed(tmp_path: Path):
    teacher = Teacher()
    result = sampled(tmp_path, teacher, rounds=0)
    assert len(teacher.asked) == 2
    assert equal(result.ids, teacher.asked[1])
    assert result.class_counts is not None
    assert result.initial_class_counts is not None
    assert result.class_counts.tolist() == result.initial_class_counts.tolist()
