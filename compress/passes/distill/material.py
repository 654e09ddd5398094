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
from compress.training.signals.segmentation import token_id_map
from compress.training.trimming import TrimmedVocabulary, as_token_inputs


def check_segmentation(inputs: Inputs, source: Inputs, vocabulary: TrimmedVocabulary) -> None:
    """Check that the student's trimmed tokenizer gives the ids of the original one, renumbered.

    Raises:
        PassError: it does not.
    """
    pairs = zip(as_token_inputs(inputs).ids, as_token_inputs(source).ids, strict=True)
    if not all(np.array_equal(mine, vocabulary.table[theirs]) for mine, theirs in pairs):
        raise PassError("the trimmed tokenizer splits texts differently from the original one")


def augmented_inputs(
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
    base_vocabulary = read_vocabulary(folder / TOKENIZER)
    id_maps = [
        _checked_id_map(base_vocabulary, texts, read_vocabulary(path / TOKENIZER), inputs)
        for path, inputs in readers
    ]
    student = read_vocabulary(readers[-1][0] / TOKENIZER)
    unknown = -1 if student.unknown is None else student.unknown
    known = np.flatnonzero(np.all([bridge >= 0 for bridge in id_maps], 0) & (id_maps[-1] != unknown))
    candidates = known[~np.isin(known, sorted(base_vocabulary.special)) & (known < len(embeddings))]
    neighbours = nearest_neighbours(embeddings, candidates, spec.neighbours)
    writers = [RaggedWriter() for _ in readers]
    drawn = augment(texts.ids, neighbours, base_vocabulary.special, spec, max_length=max_length, seed=seed)
    for block in blocks_of(drawn):
        for writer, table in zip(writers, id_maps, strict=True):
            writer.add([table[text] for text in block])
    return [
        replace(inputs, ids=writer.finish()) for writer, (_, inputs) in zip(writers, readers, strict=True)
    ]


def translate(ids: Iterable[Ids], old: Path, new: Path, template: TokenInputs) -> TokenInputs:
    """Map token ids of one vocabulary to another one; `template` is any encoding in the latter.

    Raises:
        ModelError: the new vocabulary lacks some of these tokens and has no unknown token.
    """
    old_vocabulary = read_vocabulary(old / TOKENIZER)
    id_map = _build_id_map(old_vocabulary, read_vocabulary(new / TOKENIZER))
    translated_ids = Ragged.of(id_map[text] for text in ids)
    if (translated_ids.flat.values < 0).any():
        missing = [word for word, number in old_vocabulary.ids.items() if id_map[number] < 0]
        raise ModelError(
            f"the student's tokenizer lacks {len(missing)} of the teacher's tokens, for example "
            f"{missing[0]!r}, and has no "
            "unknown token to stand for them",
            where="data_free",
            hint="Use a student with the teacher's tokenizer, or one whose tokenizer has an unknown token.",
        )
    return replace(template, ids=translated_ids)


def append_inputs(first: Inputs, second: TokenInputs | None) -> Inputs:
    """Concatenate two sets of examples."""
    return (
        first
        if second is None
        else replace(second, ids=Ragged.of(chain(as_token_inputs(first).ids, second.ids)))
    )


def _checked_id_map(
    old: Vocabulary, old_inputs: TokenInputs, new: Vocabulary, new_inputs: TokenInputs
) -> Ids:
    id_map = _build_id_map(old, new)
    if not all(np.array_equal(id_map[a], b) for a, b in zip(old_inputs.ids, new_inputs.ids, strict=True)):
        raise ModelError(
            "student and teacher tokenize texts differently, so texts cannot be augmented for both",
            where="augment",
            hint="Leave `augment` out.",
        )
    return id_map


def _build_id_map(old: Vocabulary, new: Vocabulary) -> Ids:
    """Return for each id of one vocabulary the id in the other, int64 (old size,).

    That of the same token, else of the unknown token; -1 if there is neither.
    """
    table = token_id_map(old, new)
    return table if new.unknown is None else np.where(table < 0, new.unknown, table)
