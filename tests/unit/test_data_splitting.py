"""Made splits: disjoint, stratified, deterministic, stable, and never the same text on two sides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data.splitting import assign_parts, count_conflicting, group_classes, text_key

FRACTIONS = (0.2, 0.1)

texts_with_labels = st.lists(
    st.tuples(st.text("abcdefgh ", min_size=1, max_size=6), st.integers(0, 3)), min_size=1, max_size=120
)
seeds = st.integers(0, 2**32 - 1)


def parts_of(keys, labels, fractions, seed) -> np.ndarray:
    """The part of each example."""
    part_of = assign_parts(group_classes(keys, labels), fractions, seed)
    return np.array([part_of[key] for key in keys])


def usable(pairs: list[tuple[str, int]]) -> tuple[list[bytes], np.ndarray]:
    """Keys and labels, with three distinct texts of each label added, so that no class is too small."""
    extra = [(f"class {label} text {i}", label) for label in range(4) for i in range(3)]
    every = [*pairs, *extra]
    return [text_key(text) for text, _ in every], np.array([label for _, label in every], np.int64)


@given(texts_with_labels, seeds)
def test_every_text_has_one_part_and_every_class_is_in_every_part(pairs, seed) -> None:
    keys, labels = usable(pairs)
    classes = group_classes(keys, labels)
    part_of = assign_parts(classes, FRACTIONS, seed)
    assert set(part_of) == set(keys)
    assert sorted(key for members in classes.values() for key in members) == sorted(set(keys))
    for members in classes.values():
        assert {part_of[key] for key in members} == {0, 1, 2}


@given(texts_with_labels, seeds)
def test_each_part_holds_its_fraction_of_each_class_within_one(pairs, seed) -> None:
    keys, labels = usable(pairs)
    part_of = dict(zip(keys, parts_of(keys, labels, FRACTIONS, seed).tolist(), strict=True))
    for members in group_classes(keys, labels).values():
        counts = Counter(part_of[key] for key in members)
        for part, fraction in enumerate(FRACTIONS, start=1):
            assert abs(counts[part] - fraction * len(members)) <= 1


@given(texts_with_labels, seeds, st.randoms(use_true_random=False))
def test_the_order_of_the_examples_does_not_matter(pairs, seed, random) -> None:
    keys, labels = usable(pairs)
    order = list(range(len(keys)))
    random.shuffle(order)
    straight = parts_of(keys, labels, FRACTIONS, seed)
    shuffled = parts_of([keys[i] for i in order], labels[order], FRACTIONS, seed)
    assert np.array_equal(straight[order], shuffled)


@given(texts_with_labels, seeds, st.integers(0, 3))
def test_one_more_example_moves_at_most_three_others(pairs, seed, label) -> None:
    keys, labels = usable(pairs)
    before = dict(zip(keys, parts_of(keys, labels, FRACTIONS, seed).tolist(), strict=True))
    more = [*keys, text_key("an example that was not there before")]
    after = dict(zip(more, parts_of(more, np.append(labels, label), FRACTIONS, seed).tolist(), strict=True))
    assert sum(before[key] != after[key] for key in before) <= 3


@settings(max_examples=20)
@given(seeds, seeds)
def test_the_seed_decides(first, second) -> None:
    keys = [text_key(f"text {i}") for i in range(200)]
    labels = np.arange(200) % 2
    same = np.array_equal(parts_of(keys, labels, (0.5,), first), parts_of(keys, labels, (0.5,), second))
    assert same == (first == second)


def test_sizes_computed_by_hand() -> None:
    keys = [text_key(f"text {i}") for i in range(60)]
    labels = np.array([0] * 50 + [1] * 10, np.int64)
    parts = parts_of(keys, labels, FRACTIONS, seed=3)
    assert np.bincount(parts[:50]).tolist() == [35, 10, 5]
    assert np.bincount(parts[50:]).tolist() == [7, 2, 1]


def test_the_smallest_class_still_stands_in_every_part() -> None:
    keys = [text_key(name) for name in ("a", "b", "c")]
    assert sorted(parts_of(keys, np.zeros(3, np.int64), (0.01, 0.9), seed=0).tolist()) == [0, 1, 2]


def test_too_few_texts_are_refused() -> None:
    keys = [text_key("a"), text_key("A "), text_key("b")]
    with pytest.raises(ValueError, match="class 0: 2 distinct texts for 3 parts"):
        parts_of(keys, np.zeros(3, np.int64), FRACTIONS, seed=0)


@pytest.mark.parametrize("same", ["The  end", "the end", " THE\nEND ", "ｔｈｅ end"])
def test_texts_that_count_as_the_same(same: str) -> None:
    assert text_key(same) == text_key("The end")


def test_texts_that_do_not() -> None:
    assert len({text_key(text) for text in ("the end", "theend", "the end.", "thé end")}) == 4


def test_a_text_with_several_labels_counts_for_the_most_frequent() -> None:
    keys = [text_key(text) for text in ("x", "x", "x", "y", "y")]
    labels = np.array([1, 2, 2, 3, 1], np.int64)
    assert group_classes(keys, labels) == {2: [text_key("x")], 1: [text_key("y")]}
    assert count_conflicting(keys, labels) == 2
