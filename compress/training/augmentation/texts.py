"""Text augmentation on token ids: splicing, token deletion and replacement. Pure functions of numpy arrays.

The teacher labels the new texts, so they need not be good sentences, only plausible model inputs. Jiao et al.,
TinyBERT, 2020 (arXiv:1909.10351) replace words by neighbours in an embedding; Tang et al., Distilling
Task-Specific Knowledge from BERT, 2019 (arXiv:1903.12136) mask, replace and sample n-grams.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from compress.profile.specs.examples import AugmentSpec

Ids = NDArray[np.int64]

_BLOCK = 1024


def nearest_neighbours(embeddings: NDArray[np.float32], tokens: Ids, count: int) -> Ids:
    """Return the `count` nearest `tokens` by cosine of each row of `embeddings` (vocabulary, width).

    Args:
        tokens: the ids among which neighbours are searched, int64 (m,), m > 1.

    Returns:
        int64 (vocabulary, min(count, m - 1)), no token being its own neighbour; the row of an id outside `tokens`
        repeats that id.
    """
    count = min(count, len(tokens) - 1)
    rows = embeddings[tokens].astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    table = np.repeat(np.arange(len(embeddings), dtype=np.int64)[:, None], count, axis=1)
    for start in range(0, len(tokens), _BLOCK):
        cosines = rows[start : start + _BLOCK] @ rows.T
        np.put_along_axis(cosines, np.arange(start, start + len(cosines))[:, None], -np.inf, axis=1)
        table[tokens[start : start + _BLOCK]] = tokens[
            np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        ]
    return table


def augment(
    texts: Sequence[Ids],
    neighbours: Ids,
    special_ids: frozenset[int],
    spec: AugmentSpec,
    *,
    max_length: int,
    seed: int,
) -> Iterator[Ids]:
    """Yield `spec.copies` augmented texts for each text, copy by copy; equal seeds give equal texts.

    Args:
        texts: token ids of each text, special tokens included.
        neighbours: `nearest_neighbours` of the vocabulary.
        special_ids: special ids; those before the first and after the last ordinary token stay in place, those
            in between are neither replaced nor deleted.
        max_length: maximum length of a new text, special tokens included.
    """
    random = np.random.default_rng([seed, len(texts)])
    bounds = np.empty((len(texts), 2), np.int32)
    for index, text in enumerate(texts):
        bounds[index] = _bounds(text, special_ids)

    def inner_of(index: int) -> Ids:
        first, last = bounds[index]
        return texts[index][first:last]

    replaceable = np.ones(len(neighbours), dtype=bool)
    replaceable[sorted(special_ids)] = False
    for _ in range(spec.copies):
        for text, (first, last) in zip(texts, bounds, strict=True):
            before, body, after = text[:first], text[first:last], text[last:]
            room = max_length - len(before) - len(after)
            if len(body) and random.random() < spec.splice:
                body = _splice(body, inner_of(int(random.integers(len(texts)))), random)
            body = _delete(body[:room], replaceable, spec.delete, random)
            body = _replace(body, neighbours, replaceable, spec.replace, random)
            yield np.concatenate([before, body, after])


def _bounds(text: Ids, special_ids: frozenset[int]) -> tuple[int, int]:
    """Return where the leading special tokens of a text end, and where its trailing ones begin."""
    ordinary = [index for index, token in enumerate(text.tolist()) if token not in special_ids]
    return (ordinary[0], ordinary[-1] + 1) if ordinary else (len(text), len(text))


def _splice(first: Ids, second: Ids, random: np.random.Generator) -> Ids:
    """Join a random prefix (at least one token) of one text and a random suffix of another."""
    head, tail = random.integers(1, len(first) + 1), random.integers(len(second) + 1)
    return np.concatenate([first[:head], second[tail:]])


def _delete(text: Ids, replaceable: NDArray[np.bool_], share: float, random: np.random.Generator) -> Ids:
    """Delete a random share of the tokens; at least one is left."""
    keep = (random.random(len(text)) >= share) | ~replaceable[text]
    return text[keep] if keep.any() else text[:1]


def _replace(
    text: Ids, neighbours: Ids, replaceable: NDArray[np.bool_], share: float, random: np.random.Generator
) -> Ids:
    """Replace a random share of the tokens by one of their neighbours each."""
    selected = (random.random(len(text)) < share) & replaceable[text]
    choices = random.integers(neighbours.shape[1], size=len(text))
    return np.where(selected, neighbours[text, choices], text)
