"""Which tokens texts without a source are made of, and how they are drawn and changed. Pure, numpy.

No text is read, not even its frequencies: a trained vocabulary runs from frequent to rare, and Zipf's law (1935) turns
that order into probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from compress.models.text.vocabulary import Vocabulary

Ids = NDArray[np.int64]
Probabilities = NDArray[np.float64]

_MARKS = ("##", "\u0120", "\u2581")
"""What tokenizers write before a piece that goes on (WordPiece), or before a word's first (byte-level BPE, Unigram)."""
_COMMONEST = 200
"""Words that are taken to be more frequent than a full stop or a single letter."""


def spoken_words(vocabulary: Vocabulary) -> Ids:
    """Every token that texts are made of, from frequent to rare, int64: words and pieces of words in the order of their
    ids, the single ASCII characters, whose ids say nothing, after the commonest words. No special token."""
    bare = {number: _bare(token) for token, number in vocabulary.ids.items()}
    ordinary = sorted(number for number in bare if number not in vocabulary.special)
    words = [number for number in ordinary if _is_word(bare[number])]
    characters = [number for number in ordinary if _is_character(bare[number])]
    return np.array([*words[:_COMMONEST], *characters, *words[_COMMONEST:]], dtype=np.int64)


def choose_words(count: int, log_probabilities: NDArray[np.float32] | None) -> Ids:
    """Which of the words to keep, as ascending places int64 (count,): half of them the most frequent ones, half those
    of the others that the teacher, asked about each alone, is surest of; without a teacher the most frequent alone.

    Args:
        log_probabilities: of the classes given each word, (words, classes), from frequent to rare.
    """
    if log_probabilities is None:
        return np.arange(count)
    frequent = min((count + 1) // 2, len(log_probabilities))
    telling = np.argsort(-log_probabilities[frequent:].max(axis=1), kind="stable")[: count - frequent]
    return np.sort(np.concatenate([np.arange(frequent), frequent + telling]))


def zipf(count: int) -> Probabilities:
    """Probabilities of `count` tokens from frequent to rare, (count,).

    Zipf's law with Mandelbrot's shift, 1 / (rank + 2.7), and a fifth uniform, so that every token is met.
    """
    falling: Probabilities = 1 / (np.arange(1, count + 1) + 2.7)
    falling *= 0.8 / falling.sum()
    return falling + 0.2 / count


def words_of_classes(log_probabilities: NDArray[np.float32], prior: Probabilities) -> Probabilities:
    """How often each word is drawn for each class: (classes, words), rows sum to 1.

    Bayes' rule with the teacher's answer to the word alone, which is squared: a word that says little of any class is
    drawn by its frequency already.

    Args:
        log_probabilities: of the classes given each word alone, (words, classes).
        prior: (words,).
    """
    weights: Probabilities = np.exp(2 * log_probabilities.astype(np.float64)).T * prior
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


@dataclass(frozen=True)
class Frame:
    """The special tokens that a tokenizer puts before and after a text, int64 each."""

    before: Ids
    after: Ids

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Frame:
        """Those of a tokenizer, seen on a text of one letter."""
        encoding = tokenizer.encode("a")
        special = np.array(encoding.special_tokens_mask, dtype=bool)
        ids = np.array(encoding.ids, dtype=np.int64)
        inner = np.flatnonzero(~special)
        if len(inner) == 0:
            return cls(ids, ids[:0])
        return cls(ids[: inner[0]], ids[inner[-1] + 1 :])

    def around(self, text: Ids) -> Ids:
        """The text with them."""
        return np.concatenate([self.before, text, self.after])


def draw_texts(
    words: Ids, chances: Probabilities, lengths: tuple[int, int], count: int, random: np.random.Generator
) -> list[Ids]:
    """Texts of `lengths[0]` to `lengths[1]` independent tokens, uniformly, without special tokens.

    Args:
        chances: of the words, (words,).
    """
    sizes = random.integers(lengths[0], lengths[1] + 1, count)
    drawn = words[random.choice(len(words), size=int(sizes.sum()), p=chances)]
    return np.split(drawn, np.cumsum(sizes)[:-1])


def mix(first: Ids, second: Ids, share: float, random: np.random.Generator) -> Ids:
    """The first text with about `share` of its tokens taken from the second, place by place."""
    common = min(len(first), len(second))
    taken = random.random(common) < share
    mixed = first.copy()
    mixed[:common][taken] = second[:common][taken]
    return mixed


def change(text: Ids, source: Ids, lengths: tuple[int, int], random: np.random.Generator) -> Ids:
    """One change of a text: some tokens replaced by those of `source`, some of `source` inserted, one deleted, or two
    swapped; its length stays within `lengths`."""
    kind = random.integers(4)
    place = int(random.integers(len(text)))
    if kind == 1 and len(text) < lengths[1]:
        return np.insert(text, place, source[random.integers(len(source))])
    if kind == 2 and len(text) > lengths[0]:
        return np.delete(text, place)
    if kind == 3 and len(text) > 1:
        other = int(random.integers(len(text)))
        changed = text.copy()
        changed[[place, other]] = text[[other, place]]
        return changed
    changed = mix(text, source, 2 / len(text), random)
    changed[place] = source[random.integers(len(source))]
    return changed


def _bare(token: str) -> str:
    for mark in _MARKS:
        token = token.removeprefix(mark)
    return token


def _is_word(token: str) -> bool:
    return (len(token) >= 2 and token.isalnum()) or token in ("a", "i")


def _is_character(token: str) -> bool:
    return len(token) == 1 and token.isascii() and token.isprintable() and not _is_word(token)
