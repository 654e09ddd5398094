from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.profile.specs.examples import AugmentSpec
from compress.training.augmentation.texts import augment, nearest_neighbours

VOCABULARY = 30
FIXED = frozenset({0, 1, 2, 3})
EMBEDDINGS = np.random.default_rng(0).normal(size=(VOCABULARY, 8)).astype(np.float32)
TOKENS = np.arange(4, VOCABULARY)
NEIGHBOURS = nearest_neighbours(EMBEDDINGS, TOKENS, 5)

bodies = st.lists(st.integers(4, VOCABULARY - 1), min_size=0, max_size=12)
texts = st.lists(bodies.map(lambda body: np.array([2, *body, 3])), min_size=1, max_size=8)
specs = st.builds(
    AugmentSpec,
    copies=st.integers(1, 3),
    replace=st.floats(0, 0.95),
    delete=st.floats(0, 0.95),
    splice=st.floats(0, 0.95),
)


def test_neighbours_by_hand() -> None:
    embeddings = np.array([[9, 9], [1, 0], [2, 0.1], [0, 1], [0.1, 3], [-1, 0]], dtype=np.float32)
    table = nearest_neighbours(embeddings, np.array([1, 2, 3, 4, 5]), 1)
    assert table[1:].tolist() == [[2], [1], [4], [3], [3]]
    assert table[0].tolist() == [0]


def test_neighbours_are_the_nearest_ones_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.training.augmentation.texts._BLOCK", 7)
    table = nearest_neighbours(EMBEDDINGS, TOKENS, 4)
    unit = EMBEDDINGS / np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)
    for token in TOKENS:
        cosines = unit[TOKENS] @ unit[token]
        expected = [int(other) for other in TOKENS[np.argsort(-cosines)] if other != token][:4]
        assert sorted(table[token].tolist()) == sorted(expected)


def test_there_are_no_more_neighbours_than_tokens() -> None:
    assert nearest_neighbours(EMBEDDINGS, np.array([4, 5, 6]), 15).shape == (VOCABULARY, 2)


@given(texts, specs, st.integers(0, 3))
@settings(deadline=None)
def test_special_tokens_keep_their_places(
    given_texts: list[np.ndarray], spec: AugmentSpec, seed: int
) -> None:
    new = list(augment(given_texts, NEIGHBOURS, FIXED, spec, max_length=10, seed=seed))
    assert len(new) == spec.copies * len(given_texts)
    for text, old in zip(new, given_texts * spec.copies, strict=True):
        assert text[0] == 2
        assert text[-1] == 3
        assert not set(text[1:-1].tolist()) & FIXED
        assert len(text) <= 10
        assert len(text) > 2 or len(old) == 2


def test_equal_seeds_give_equal_texts() -> None:
    given_texts = [np.array([2, *np.random.default_rng(i).integers(4, 30, 9), 3]) for i in range(20)]
    first, again, other = (
        [
            text.tolist()
            for text in augment(given_texts, NEIGHBOURS, FIXED, AugmentSpec(), max_length=32, seed=s)
        ]
        for s in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_nothing_asked_changes_nothing() -> None:
    spec = AugmentSpec(copies=2, replace=0, delete=0, splice=0)
    given_texts = [np.array([2, 5, 6, 3]), np.array([2, 7, 3])]
    new = list(augment(given_texts, NEIGHBOURS, FIXED, spec, max_length=32, seed=0))
    assert [text.tolist() for text in new] == [text.tolist() for text in given_texts * 2]


def test_each_operation_takes_its_share() -> None:
    given_texts = [np.array([2, *np.random.default_rng(i).integers(4, 30, 40), 3]) for i in range(200)]

    def drawn(**shares: float) -> list[np.ndarray]:
        spec = AugmentSpec(**{"copies": 1, "replace": 0.0, "delete": 0.0, "splice": 0.0, **shares})
        return list(augment(given_texts, NEIGHBOURS, FIXED, spec, max_length=128, seed=0))

    replaced = np.mean([np.mean(a != b) for a, b in zip(drawn(replace=0.25), given_texts, strict=True)])
    assert replaced == pytest.approx(0.25 * 40 / 42, abs=0.02)
    lengths = np.mean([len(text) - 2 for text in drawn(delete=0.25)])
    assert lengths == pytest.approx(30, abs=1)
    spliced = np.mean(
        [
            len(a) != len(b) or bool((a != b).any())
            for a, b in zip(drawn(splice=0.5), given_texts, strict=True)
        ]
    )
    assert spliced == pytest.approx(0.5, abs=0.1)


def test_replacements_are_neighbours() -> None:
    text = np.array([2, *TOKENS, 3])
    spec = AugmentSpec(copies=20, replace=0.9, delete=0, splice=0)
    for new in augment([text], NEIGHBOURS, FIXED, spec, max_length=64, seed=0):
        for before, after in zip(text[1:-1], new[1:-1], strict=True):
            assert after == before or after in NEIGHBOURS[before]
