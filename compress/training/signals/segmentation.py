"""Checks that two models split texts into the same tokens: only then can they be compared token by token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compress.core.artifacts import TOKENIZER
from compress.core.errors import ModelError
from compress.encoding.inputs import Inputs
from compress.encoding.tokens import TokenInputs
from compress.models.text.vocabulary import Ids, Vocabulary, read_vocabulary
from compress.training.signals.capture import OUTPUTS
from compress.training.signals.top_k import TopK

_TOKENIZER_HINT = (
    "Use a student with the teacher's tokenizer, or let the teacher write what the student learns: `sequence` with "
    "`next_token` as its only loss."
)


def check_aligned(
    signals: frozenset[str],
    student: tuple[Path, Inputs],
    teachers: Sequence[tuple[str, Path, Inputs]],
    *,
    row_outputs: bool = True,
) -> None:
    """Check that token signals of student and teachers are comparable: both must split texts into the same tokens.

    Args:
        signals: the teacher's signals that are compared.
        student: the student's tokenizer folder, and some examples encoded for it.
        teachers: name, tokenizer folder and the same examples encoded for each teacher.
        row_outputs: whether outputs are one row per example, which can always be compared; else they are per token over
            the vocabulary, so that ids must be equal.

    Raises:
        ModelError: they are not comparable.
    """
    compared, (folder, student_inputs) = signals - OUTPUTS if row_outputs else signals, student
    if not compared or not isinstance(student_inputs, TokenInputs):
        return
    over_vocabulary = any(signal in OUTPUTS or TopK.of(signal) is not None for signal in compared)
    for name, path, inputs in teachers:
        if not (
            isinstance(inputs, TokenInputs) and same_segmentation((path, inputs), (folder, student_inputs))
        ):
            raise ModelError(
                f"student and {name} tokenize texts differently, so {', '.join(sorted(compared))} cannot be compared "
                "token by token",
                where="losses",
                hint="Use logits, or similarity with `representation: outputs`, or a student with the teacher's "
                "tokenizer."
                if row_outputs
                else _TOKENIZER_HINT,
            )
        if over_vocabulary and not same_ids(inputs, student_inputs):
            raise ModelError(
                f"student and {name} split texts alike but use different token ids, so {', '.join(sorted(compared))} "
                "cannot be compared token by token",
                where="losses",
                hint=_TOKENIZER_HINT,
            )


def check_same_vocabulary(student: Path, teachers: Sequence[tuple[str, Path]]) -> None:
    """Check that every token id of the student means the same token to all teachers.

    Args:
        student: the student's tokenizer folder.
        teachers: name and folder of each teacher.

    Raises:
        ModelError: an id means a different token to a teacher, or none.
    """
    student_tokens = {number: token for token, number in read_vocabulary(student / TOKENIZER).ids.items()}
    for name, folder in teachers:
        teacher_tokens = {number: token for token, number in read_vocabulary(folder / TOKENIZER).ids.items()}
        differing = next(
            (number for number in student_tokens if teacher_tokens.get(number) != student_tokens[number]),
            None,
        )
        if differing is not None:
            raise ModelError(
                f"student and {name} have different tokenizers: {differing} is "
                f"{student_tokens[differing]!a} for one and "
                f"{teacher_tokens.get(differing)!a} for the other, so {name} cannot judge what the student writes",
                where="on_policy",
                hint=_TOKENIZER_HINT,
            )


def same_segmentation(first: tuple[Path, TokenInputs], second: tuple[Path, TokenInputs]) -> bool:
    """Whether two tokenizers split the same texts into the same tokens, compared as tokens and not as ids.

    An id matches any of the tokens mapped to it: the unknown id of a trimmed vocabulary matches all dropped
    tokens. Comparing lengths alone would miss texts truncated at a common maximum length. Without tokenizers
    the ids must be equal.

    Args:
        one, other: an artifact directory, and the texts encoded for it.
    """
    (folder, texts), (other_folder, other_texts) = first, second
    if not np.array_equal(texts.lengths, other_texts.lengths):
        return False
    if not any((path / TOKENIZER).exists() for path in (folder, other_folder)):
        return same_ids(texts, other_texts)
    vocabulary, other_vocabulary = (
        read_vocabulary(folder / TOKENIZER),
        read_vocabulary(other_folder / TOKENIZER),
    )
    forward_ids, backward_ids = (
        token_id_map(vocabulary, other_vocabulary),
        token_id_map(other_vocabulary, vocabulary),
    )
    return all(
        np.all((forward_ids[a] == b) | (backward_ids[b] == a))
        for a, b in zip(texts.ids, other_texts.ids, strict=True)
    )


def same_ids(texts: TokenInputs, other_texts: TokenInputs) -> bool:
    """Whether two encodings have the same ids."""
    return np.array_equal(texts.lengths, other_texts.lengths) and all(
        map(np.array_equal, texts.ids, other_texts.ids)
    )


def token_id_map(old: Vocabulary, new: Vocabulary) -> Ids:
    """Return for each id of one vocabulary the id of the same token in the other, or -1: int64 (old size,).

    The unknown id maps to the unknown id, whatever tokens share it.
    """
    table = np.full(old.size, -1, dtype=np.int64)
    for token, number in old.ids.items():
        table[number] = new.ids.get(token, table[number])
    if old.unknown is not None:
        table[old.unknown] = -1 if new.unknown is None else new.unknown
    return table
