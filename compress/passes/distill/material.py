"""Token-level training material: checks of trimmed tokenizers, augmented texts, translation between vocabularies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.core.artifacts import TOKENIZER
from compress.core.errors import ModelError, PassError
from compress.encoding.inputs import Inputs
from compress.encoding.tokens import TokenInputs
from compress.models.text.vocabulary import (
    Ids,
    Vocabulary,
    read_vocabulary,
)
from compress.profile.specs.examples import AugmentSpec
from compress.store.flat import Ragged, RaggedWriter, blocks_of
from compress.training.augmentation.texts import augment, nearest_neighbours
from compress.training.signals.segmentation import counterparts
from compress.training.trimming import TrimmedVocabulary, tokens_of


def check_segmentation(inputs: Inputs, source: Inputs, words: TrimmedVocabulary) -> None:
    """Check that the student's trimmed tokenizer gives the ids of the original one, renumbered.

    Raises:
        PassError: it does not.
    """
    pairs = zip(tokens_of(inputs).ids, tokens_of(source).ids, strict=True)
    if not all(np.array_equal(mine, words.table[theirs]) for mine, theirs in pairs):
        raise PassError("the trimmed tokenizer splits texts differently from the original one")


def extra_texts(
    base: tuple[Path, TokenInputs],
    readers: Sequence[tuple[Path, TokenInputs]],
    embeddings: NDArray[np.float32],
    spec: AugmentSpec,
    *,
    max_length: int,
    seed: int,
) -> list[TokenInputs]:
    """Augment the training texts, and return them in the ids of each reader.

    Replacement tokens are those that every reader can encode and that the student, the last reader, knows.

    Args:
        base: artifact directory whose vocabulary the texts are drawn in, and its encoding of the training texts.
        readers: directory and encoding of the same texts for each model that reads them; the student comes last.
        embeddings: word embeddings of the base vocabulary (vocabulary, width).

    Returns:
        The same new texts, in one order, for each reader.

    Raises:
        ModelError: a reader tokenizes the training texts differently from the base.
    """
    folder, texts = base
    old = read_vocabulary(folder / TOKENIZER)
    bridges = [_checked_bridge(old, texts, read_vocabulary(path / TOKENIZER), own) for path, own in readers]
    student = read_vocabulary(readers[-1][0] / TOKENIZER)
    unknown = -1 if student.unknown is None else student.unknown
    known = np.flatnonzero(np.all([bridge >= 0 for bridge in bridges], 0) & (bridges[-1] != unknown))
    candidates = known[~np.isin(known, sorted(old.special)) & (known < len(embeddings))]
    neighbours = nearest_neighbours(embeddings, candidates, spec.neighbours)
    writers = [RaggedWriter() for _ in readers]
    drawn = augment(texts.ids, neighbours, old.special, spec, max_length=max_length, seed=seed)
    for block in blocks_of(drawn):
        for writer, table in zip(writers, bridges, strict=True):
            writer.add([table[text] for text in block])
    return [replace(own, ids=writer.finish()) for writer, (_, own) in zip(writers, readers, strict=True)]


def translated(ids: Iterable[Ids], old: Path, new: Path, own: TokenInputs) -> TokenInputs:
    """Map token ids of one vocabulary to another one; `own` is any encoding in the latter.

    Raises:
        ModelError: the new vocabulary lacks some of these tokens and has no unknown token.
    """
    words = read_vocabulary(old / TOKENIZER)
    bridge = _bridge(words, read_vocabulary(new / TOKENIZER))
    found = Ragged.of(bridge[text] for text in ids)
    if (found.flat.values < 0).any():
        lost = [word for word, number in words.ids.items() if bridge[number] < 0]
        raise ModelError(
            f"the student's tokenizer lacks {len(lost)} of the teacher's tokens, for example {lost[0]!r}, and has no "
            "unknown token to stand for them",
            where="data_free",
            hint="Use a student with the teacher's tokenizer, or one whose tokenizer has an unknown token.",
        )
    return replace(own, ids=found)


def joined(first: Inputs, second: TokenInputs | None) -> Inputs:
    """Concatenate two sets of examples."""
    return (
        first if second is None else replace(second, ids=Ragged.of(chain(tokens_of(first).ids, second.ids)))
    )


def _checked_bridge(old: Vocabulary, texts: TokenInputs, new: Vocabulary, own: TokenInputs) -> Ids:
    bridge = _bridge(old, new)
    if not all(np.array_equal(bridge[a], b) for a, b in zip(texts.ids, own.ids, strict=True)):
        raise ModelError(
            "student and teacher tokenize texts differently, so texts cannot be augmented for both",
            where="augment",
            hint="Leave `augment` out.",
        )
    return bridge


def _bridge(old: Vocabulary, new: Vocabulary) -> Ids:
    """Return for each id of one vocabulary the id in the other, int64 (old size,).

    That of the same token, else of the unknown token; -1 if there is neither.
    """
    table = counterparts(old, new)
    return table if new.unknown is None else np.where(table < 0, new.unknown, table)
