"""Vocabulary and sampling of texts without a source. Pure functions of numpy arrays.

No text is read, not even for frequencies: a trained vocabulary is ordered from frequent to rare, and Zipf's law
(1935) turns that order into probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from compress.models.text.vocabulary import Vocabulary

Ids = NDArray[np.int64]
Probabilities = NDArray[np.float64]

_TOKEN_PREFIXES = ("##", "\u0120", "\u2581")
"""Prefixes that tokenizers put before a continuation piece (WordPiece) or before a word's first piece
(byte-level BPE, Unigram)."""
_NUM_COMMON = 200
"""Number of words assumed to be more frequent than a full stop or a single letter."""


def ordinary_tokens(vocabulary: Vocabulary) -> Ids:
    """Return every token that texts consist of, from frequent to rare, int64; no special tokens.

    Words and word pieces in the order of their ids; the single ASCII characters, whose ids are not ordered by
    frequency, follow after the commonest words.
    """
    texts = {number: _without_prefix(token) for token, number in vocabulary.ids.items()}
    ordinary = sorted(number for number in texts if number not in vocabulary.special)
    words = [number for number in ordinary if _is_word(texts[number])]
    characters = [number for number in ordinary if _is_character(texts[number])]
    return np.array([*words[:_NUM_COMMON], *characters, *words[_NUM_COMMON:]], dtype=np.int64)


def choose_words(count: int, log_probabilities: NDArray[np.float32] | None) -> Ids:
    """Return the indices of the words to keep, ascending, int64 (count,).

    Half of them are the most frequent words, half those of the others for which the teacher, given each alone,
    is most confident; without a teacher only the most frequent.

    Args:
        log_probabilities: of the classes given each word, (words, classes), from frequent to rare.
    """
    if log_probabilities is None:
        return np.arange(count)
    frequent = min((count + 1) // 2, len(log_probabilities))
    confident = np.argsort(-log_probabilities[frequent:].max(axis=1), kind="stable")[: count - frequent]
    return np.sort(np.concatenate([np.arange(frequent), frequent + confident]))


def zipf(count: int) -> Probabilities:
    """Return probabilities of `count` tokens from frequent to rare, (count,).

    Zipf's law with Mandelbrot's shift, 1 / (rank + 2.7), mixed with a fifth uniform, so that every token occurs.
    """
    probabilities: Probabilities = 1 / (np.arange(1, count + 1) + 2.7)
    probabilities *= 0.8 / probabilities.sum()
    return probabilities + 0.2 / count


def class_word_probabilities(log_probabilities: NDArray[np.float32], prior: Probabilities) -> Probabilities:
    """Return the probability of drawing each word for each class: (classes, words), rows sum to 1.

    Bayes' rule with the square of the teacher's answer to the word alone: this sharpens it, since words
    uninformative of any class are already drawn by their frequency.

    Args:
        log_probabilities: of the classes given each word alone, (words, classes).
        prior: (words,).
    """
    weights: Probabilities = np.exp(2 * log_probabilities.astype(np.float64)).T * prior
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens that a tokenizer puts before and after a text, int64 each."""

    before: Ids
    after: Ids

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> SpecialTokens:
        """Find those of a tokenizer by encoding a text of one letter."""
        encoding = tokenizer.encode("a")
        special = np.array(encoding.special_tokens_mask, dtype=bool)
        ids = np.array(encoding.ids, dtype=np.int64)
        inner = np.flatnonzero(~special)
        if len(inner) == 0:
            return cls(ids, ids[:0])
        return cls(ids[: inner[0]], ids[inner[-1] + 1 :])

    def wrap(self, text: Ids) -> Ids:
        """Return the text with the special tokens added."""
        return np.concatenate([self.before, text, self.after])


def draw_texts(
    words: Ids,
    probabilities: Probabilities,
    lengths: tuple[int, int],
    count: int,
    random: np.random.Generator,
) -> list[Ids]:
    """Draw texts of independent tokens, without special ones, of length uniform in `lengths[0]` to `lengths[1]`.

    Args:
        probabilities: probabilities of the words, (words,).
    """
    text_lengths = random.integers(lengths[0], lengths[1] + 1, count)
    drawn = words[random.choice(len(words), size=int(text_lengths.sum()), p=probabilities)]
    return np.split(drawn, np.cumsum(text_lengths)[:-1])


def mix_tokens(first: Ids, second: Ids, share: float, random: np.random.Generator) -> Ids:
    """Return the first text with about `share` of its tokens taken from the second, position by position."""
    overlap = min(len(first), len(second))
    from_second = random.random(overlap) < share
    mixed = first.copy()
    mixed[:overlap][from_second] = second[:overlap][from_second]
    return mixed


def mutate_text(text: Ids, source: Ids, lengths: tuple[int, int], random: np.random.Generator) -> Ids:
    """Return a mutated text, of length within `lengths`.

    One mutation of: replace some tokens by those of `source`, insert one of `source`, delete one, swap two.
    """
    kind = random.integers(4)
    position = int(random.integers(len(text)))
    if kind == 1 and len(text) < lengths[1]:
        return np.insert(text, position, source[random.integers(len(source))])
    if kind == 2 and len(text) > lengths[0]:
        return np.delete(text, position)
    if kind == 3 and len(text) > 1:
        other_position = int(random.integers(len(text)))
        mutated = text.copy()
        mutated[[position, other_position]] = text[[other_position, position]]
        return mutated
    mutated = mix_tokens(text, source, 2 / len(text), random)
    mutated[position] = source[random.integers(len(source))]
    return mutated


def _without_prefix(token: str) -> str:
    for prefix in _TOKEN_PREFIXES:
        token = token.removeprefix(prefix)
    return token


def _is_word(token: str) -> bool:
    return (len(token) >= 2 and token.isalnum()) or token in ("a", "i")


def _is_character(token: str) -> bool:
    return len(token) == 1 and token.isascii() and token.isprintable() and not _is_word(token)
