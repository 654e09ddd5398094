"""Texts that are nearly copies of others are found, and no others."""

from __future__ import annotations

import random
import time

import pytest

from compress.generation.copies import MIN_SIMILARITY, DuplicateOf, contained_in, find_duplicates

TEXT = "the cat sat on the mat and looked at the dog that slept beside the door of the old house by the river"


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[start : start + 3]) for start in range(len(words) - 2)}


def changed(text: str, times: int, chance: random.Random) -> str:
    words = text.split()
    for _ in range(times):
        words[chance.randrange(len(words))] = f"w{chance.randrange(9999)}"
    return " ".join(words)


def test_case_and_punctuation_make_no_other_text():
    texts = [TEXT, "something else", TEXT.title() + "!", "Something,  else.", "another one", ""]
    assert find_duplicates(texts, min_similarity=1.0) == [
        None,
        None,
        DuplicateOf(0, False),
        DuplicateOf(1, False),
        None,
        None,
    ]
    assert find_duplicates(texts[2:], known=texts[:2]) == [
        DuplicateOf(0, True),
        DuplicateOf(1, True),
        None,
        None,
    ]
    assert find_duplicates(["", "", "...", "한국어 텍스트", "한국어 텍스트"])[1:] == [
        DuplicateOf(0, False),
        DuplicateOf(0, False),
        None,
        DuplicateOf(3, False),
    ]
    assert find_duplicates([]) == []


@pytest.mark.parametrize("alike", [MIN_SIMILARITY, 0.8, 0.95])
def test_it_finds_what_comparing_all_pairs_finds(alike: float):
    chance = random.Random(1)
    words = [f"v{number}" for number in range(400)]
    first = [" ".join(chance.choices(words, k=60)) for _ in range(20)]
    texts = [*first, *(changed(chance.choice(first), chance.randrange(8), chance) for _ in range(150))]
    kept: list[int] = []
    agrees = 0
    for place, found in enumerate(find_duplicates(texts, min_similarity=alike)):
        mine = shingles(texts[place])
        shares = {other: len(mine & (its := shingles(texts[other]))) / len(mine | its) for other in kept}
        rivals = [other for other, share in shares.items() if share >= alike]
        # Whatever is found is alike indeed; at the very limit one in a hundred may be missed.
        assert found is None or found.index in rivals
        agrees += (found is None) == (not rivals)
        if found is None:
            kept.append(place)
    assert agrees >= len(texts) - 2
    assert len(kept) < len(texts)


def test_what_is_known_is_compared_with_texts_alone():
    other = TEXT.replace("cat", "fox")
    assert find_duplicates([other, "new"], known=[TEXT, TEXT]) == [DuplicateOf(0, True), None]
    # A copy is no original: what is like it, and not like the first one, stays.
    far = changed(TEXT, 9, random.Random(0))
    assert find_duplicates([TEXT, other, far]) == [None, DuplicateOf(0, False), None]


def test_parts_of_what_is_held_out_are_found():
    words = TEXT.split()
    held_out = [" ".join(f"v{number}" for number in range(300)), TEXT, "how do I cook rice"]
    part, other = " ".join(held_out[0].split()[100:140]), " ".join(f"w{number}" for number in range(40))
    texts = [
        part,
        TEXT.upper(),
        f"{other} {' '.join(words[:5])}",
        f"{TEXT} {other}",
        "How do I cook rice?!",
        "quite another one",
    ]
    # A part of a long text is none of its near copies, and is learnt of it all the same.
    assert [one is not None for one in find_duplicates(texts, held_out)] == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    assert contained_in(texts, held_out) == [True, True, False, True, True, False]
    assert contained_in(texts, []) == [False] * 6
    half = " ".join([*words[:10], *other.split()[:10]])
    assert contained_in([half, half], [TEXT], 0.8) == [False, False]
    assert contained_in([half], [TEXT], 0.4) == [True]


def test_a_few_known_words_make_no_copy_of_what_holds_them():
    passage = f"in 1803 the United States bought land and {' '.join(TEXT.split()[:11])}"
    known = ["The United States", "who was it?", "how do I cook rice"]
    texts = [passage, "the united states!", "How do I cook rice now", f"how do I cook rice {TEXT}"]
    assert contained_in(texts, known) == [False, True, False, False]
    assert contained_in([passage], [" ".join(passage.split()[:9])]) == [True]


def test_the_time_grows_with_the_texts_and_not_with_their_pairs():
    chance = random.Random(2)
    texts = [" ".join(chance.choices(TEXT.split(), k=40)) for _ in range(800)]
    began = time.process_time()
    assert find_duplicates(texts) == [None] * len(texts)
    assert time.process_time() - began < 2
    for alike in (0.5, 1.5):
        with pytest.raises(ValueError, match=r"expected a value from 0\.7 to 1"):
            find_duplicates(texts, min_similarity=alike)
