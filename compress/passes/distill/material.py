"""What a student is trained on: its vocabulary and tokenizer, its inputs, and the texts that the teacher labels."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.artifacts import TASK, TOKENIZER, write_json, write_text
from compress.errors import ModelError, PassError
from compress.models.vocabulary import (
    Ids,
    Vocabulary,
    check_can_trim,
    choose_tokens,
    id_table,
    read_vocabulary,
    trim_tokenizer,
)
from compress.profile.pass_specs import AugmentSpec, VocabularySpec
from compress.tasks.base import Inputs
from compress.tasks.tokens import TokenInputs
from compress.training.augmentation import augment, nearest_neighbours


@dataclass(frozen=True)
class Words:
    """The student's vocabulary: `table` maps an id of the model it is made from to the student's, `kept` the other
    way round; both None where the vocabulary is kept."""

    table: Ids | None
    kept: Ids | None


def tokens_of(inputs: Inputs) -> TokenInputs:
    """The inputs as token ids.

    Raises:
        ModelError: they are no token ids.
    """
    if not isinstance(inputs, TokenInputs):
        raise ModelError("trimming and augmenting need token ids; this task's inputs are others")
    return inputs


def write_tokenizer(
    source: Path, out: Path, trim: VocabularySpec | None, train: Inputs, labels: tuple[str, ...]
) -> Words:
    """Write the student's `tokenizer.json` and `task.json` into `out`.

    Args:
        source: the artifact directory that the student is made from.
        trim: None keeps the vocabulary.
        train: the training texts as `source` encodes them.

    Raises:
        ModelError: the tokenizer is of a kind that cannot be trimmed.
    """
    declared = json.loads((source / TASK).read_text(encoding="utf-8"))
    declared["labels"] = list(labels)
    if trim is None:
        shutil.copyfile(source / TOKENIZER, out / TOKENIZER)
        write_json(out / TASK, declared)
        return Words(None, None)
    vocabulary = read_vocabulary(source / TOKENIZER)
    check_can_trim(vocabulary)
    kept = choose_tokens(vocabulary, tokens_of(train).ids, trim.margin)
    table = id_table(vocabulary, kept)
    write_text(out / TOKENIZER, trim_tokenizer(source / TOKENIZER, table))
    for name in ("pad_id", "unk_id"):
        if declared.get(name) is not None:
            declared[name] = int(table[declared[name]])
    write_json(out / TASK, declared)
    return Words(table, kept)


def check_segmentation(inputs: Inputs, source: Inputs, words: Words) -> None:
    """The student's tokenizer must give the ids of the one it was made from, renumbered.

    Raises:
        PassError: it does not.
    """
    if words.table is None:
        return
    pairs = zip(tokens_of(inputs).ids, tokens_of(source).ids, strict=True)
    if not all(np.array_equal(mine, words.table[theirs]) for mine, theirs in pairs):
        raise PassError("the trimmed tokenizer cuts texts otherwise than the one it was made from")


@dataclass(frozen=True)
class Extra:
    """Texts that the teacher labels, as the teacher and as the student read them; the same texts, in one order."""

    teacher: TokenInputs
    student: TokenInputs


def extra_texts(
    teacher: Path,
    student: Path,
    embeddings: NDArray[np.float32],
    teacher_train: Inputs,
    student_train: Inputs,
    spec: AugmentSpec,
    *,
    max_length: int,
    seed: int,
) -> Extra:
    """Draw new texts out of the training texts.

    Tokens are replaced by such alone as the student knows.

    Args:
        teacher: artifact directory of the teacher; student: directory that holds the student's tokenizer.
        embeddings: the teacher's word embeddings (vocabulary, width).

    Raises:
        ModelError: student and teacher cut the training texts into different pieces.
    """
    theirs, mine = tokens_of(teacher_train), tokens_of(student_train)
    old, new = read_vocabulary(teacher / TOKENIZER), read_vocabulary(student / TOKENIZER)
    bridge = _bridge(old, new)
    if not all(np.array_equal(bridge[a], b) for a, b in zip(theirs.ids, mine.ids, strict=True)):
        raise ModelError(
            "student and teacher cut texts into different pieces, so new texts cannot be made for both",
            where="augment",
            hint="Leave `augment` out.",
        )
    known = np.flatnonzero(bridge != new.unknown) if new.unknown is not None else np.arange(len(bridge))
    candidates = known[~np.isin(known, sorted(old.special)) & (known < len(embeddings))]
    neighbours = nearest_neighbours(embeddings, candidates, spec.neighbours)
    ids = augment(theirs.ids, neighbours, old.special, spec, max_length=max_length, seed=seed)
    return Extra(replace(theirs, ids=ids), replace(mine, ids=[bridge[text] for text in ids]))


def joined(first: Inputs, second: TokenInputs | None) -> Inputs:
    """The examples of both, one after the other."""
    return first if second is None else replace(second, ids=[*tokens_of(first).ids, *second.ids])


def _bridge(old: Vocabulary, new: Vocabulary) -> Ids:
    """For each id of one vocabulary the id of the same token in the other: int64 (old size,); -1 where none has."""
    table = np.full(old.size, -1 if new.unknown is None else new.unknown, dtype=np.int64)
    for token, number in old.ids.items():
        table[number] = new.ids.get(token, table[number])
    return table
