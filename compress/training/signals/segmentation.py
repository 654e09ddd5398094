"""Whether two models cut texts into the same pieces: only then can they be compared token by token."""

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

_OTHER_WORDS = (
    "Use a student with the teacher's tokenizer, or let the teacher write what the student learns: `sequence` with "
    "`next_token` as its only loss."
)


def check_aligned(
    signals: frozenset[str],
    student: tuple[Path, Inputs],
    teachers: Sequence[tuple[str, Path, Inputs]],
    *,
    rows: bool = True,
) -> None:
    """Refuse to compare signals of tokens where student and teacher cut texts into different pieces.

    Args:
        signals: the teacher's signals that are compared.
        rows: whether outputs are one row an example, which can always be compared; else they say something of each
            word by its id, so that ids must be the same.
        student: the folder with its tokenizer, and some examples as it reads them.
        teachers: the name of each, and the same of it.

    Raises:
        ModelError: they do.
    """
    inner, (folder, own) = signals - OUTPUTS if rows else signals, student
    if not inner or not isinstance(own, TokenInputs):
        return
    of_words = any(signal in OUTPUTS or TopK.of(signal) is not None for signal in inner)
    for name, path, inputs in teachers:
        if not (isinstance(inputs, TokenInputs) and cut_alike((path, inputs), (folder, own))):
            raise ModelError(
                f"student and {name} tokenize texts differently, so {', '.join(sorted(inner))} cannot be compared "
                "token by token",
                where="losses",
                hint="Use logits, or similarity with `representation: outputs`, or a student with the teacher's "
                "tokenizer."
                if rows
                else _OTHER_WORDS,
            )
        if of_words and not same_ids(inputs, own):
            raise ModelError(
                f"student and {name} split texts alike but use different token ids, so {', '.join(sorted(inner))} "
                "cannot be compared token by token",
                where="losses",
                hint=_OTHER_WORDS,
            )


def check_same_words(student: Path, teachers: Sequence[tuple[str, Path]]) -> None:
    """Refuse teachers that read other tokens than a student writes: an id that stands for another one, or for none.

    Args:
        student: the folder with its tokenizer.
        teachers: the name of each, and its folder.

    Raises:
        ModelError: one does.
    """
    own = {number: token for token, number in read_vocabulary(student / TOKENIZER).ids.items()}
    for name, folder in teachers:
        theirs = {number: token for token, number in read_vocabulary(folder / TOKENIZER).ids.items()}
        other = next((number for number in own if theirs.get(number) != own[number]), None)
        if other is not None:
            raise ModelError(
                f"student and {name} have different tokenizers: {other} is {own[other]!a} for one and "
                f"{theirs.get(other)!a} for the other, so {name} cannot judge what the student writes",
                where="on_policy",
                hint=_OTHER_WORDS,
            )


def cut_alike(one: tuple[Path, TokenInputs], other: tuple[Path, TokenInputs]) -> bool:
    """Whether two readers cut the same texts into the same pieces, compared as tokens and not as ids.

    An id stands for every token that bears it: the unknown one of a trimmed vocabulary for all that were dropped.
    Equal lengths would say nothing of texts that were cut off at the longest length of both. Without tokenizers their
    ids must be the same.

    Args:
        one, other: the artifact directory of a reader, and its encoding of the texts.
    """
    (folder, texts), (other_folder, others) = one, other
    if not np.array_equal(texts.lengths, others.lengths):
        return False
    if not any((each / TOKENIZER).exists() for each in (folder, other_folder)):
        return same_ids(texts, others)
    vocabulary, further = read_vocabulary(folder / TOKENIZER), read_vocabulary(other_folder / TOKENIZER)
    there, back = counterparts(vocabulary, further), counterparts(further, vocabulary)
    return all(np.all((there[a] == b) | (back[b] == a)) for a, b in zip(texts.ids, others.ids, strict=True))


def same_ids(texts: TokenInputs, others: TokenInputs) -> bool:
    """Whether two readers read the same ids."""
    return np.array_equal(texts.lengths, others.lengths) and all(map(np.array_equal, texts.ids, others.ids))


def counterparts(old: Vocabulary, new: Vocabulary) -> Ids:
    """For each id of one vocabulary the id of the same token in the other: int64 (old size,); -1 where none has.

    What is unknown to one stays unknown to the other, whatever tokens share that id.
    """
    table = np.full(old.size, -1, dtype=np.int64)
    for token, number in old.ids.items():
        table[number] = new.ids.get(token, table[number])
    if old.unknown is not None:
        table[old.unknown] = -1 if new.unknown is None else new.unknown
    return table
