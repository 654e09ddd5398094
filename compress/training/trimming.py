"""A model's tokenizer and interface with a trimmed vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from compress.core.artifacts import TASK, TOKENIZER
from compress.core.disk.files import copy_file, write_json, write_text
from compress.core.disk.reading import read_mapping
from compress.core.errors import ModelError
from compress.encoding.inputs import Inputs
from compress.encoding.tokens import TokenInputs
from compress.models.text.vocabulary import (
    Ids,
    check_can_trim,
    choose_tokens,
    id_table,
    read_vocabulary,
    trim_tokenizer,
)
from compress.profile.specs.examples import VocabularySpec
from compress.step import StepContext


@dataclass(frozen=True)
class Words:
    """A trimmed vocabulary: `table` maps an id of the model that it is made from to the student's, `kept` the other way
    round."""

    table: Ids
    kept: Ids


def tokens_of(inputs: Inputs) -> TokenInputs:
    """The inputs as token ids.

    Raises:
        ModelError: they are no token ids.
    """
    if not isinstance(inputs, TokenInputs):
        raise ModelError("trimming and augmenting need token ids; this task's inputs are others")
    return inputs


def tokens_shown(ctx: StepContext, source: Path) -> Iterator[Ids]:
    """The token ids of each example that a model may be trained on, as the reader of `source` has them."""
    for split in ctx.data.shown:
        yield from tokens_of(ctx.task.encode(split, source)).ids


def write_tokenizer(
    source: Path, out: Path, trim: VocabularySpec | None, texts: Iterable[Ids], labels: tuple[str, ...]
) -> Words | None:
    """Write the student's `task.json` into `out`, and its `tokenizer.json` where the model reads texts; its vocabulary
    where that is trimmed.

    Args:
        source: the artifact directory that the student is made from.
        trim: None keeps the vocabulary.
        texts: token ids of `source` whose tokens must be kept, where the vocabulary is trimmed.

    Raises:
        ModelError: the tokenizer is of a kind that cannot be trimmed.
    """
    declared = read_mapping(source / TASK)
    declared["labels"] = list(labels)
    if trim is None:
        if (source / TOKENIZER).exists():
            copy_file(source / TOKENIZER, out / TOKENIZER)
        write_json(out / TASK, declared)
        return None
    vocabulary = read_vocabulary(source / TOKENIZER)
    check_can_trim(vocabulary)
    kept = choose_tokens(vocabulary, texts, trim.margin)
    table = id_table(vocabulary, kept)
    write_text(out / TOKENIZER, trim_tokenizer(source / TOKENIZER, table))
    for name in ("pad_id", "unk_id", "mask_id"):
        if declared.get(name, -1) >= 0:
            declared[name] = int(table[declared[name]])
    write_json(out / TASK, declared)
    return Words(table, kept)
