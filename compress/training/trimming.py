"""Write a student's tokenizer and interface, with a trimmed vocabulary where asked for."""

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
class TrimmedVocabulary:
    """A trimmed vocabulary: `table` maps token ids of the source model to the student's, `kept_ids` maps them back."""

    table: Ids
    kept_ids: Ids


def as_token_inputs(inputs: Inputs) -> TokenInputs:
    """Return the inputs as `TokenInputs`.

    Raises:
        ModelError: they are not token ids.
    """
    if not isinstance(inputs, TokenInputs):
        raise ModelError("trimming and augmenting need token ids; this task's inputs are others")
    return inputs


def training_tokens(ctx: StepContext, source: Path) -> Iterator[Ids]:
    """Yield the token ids, by the tokenizer of `source`, of every example that a model may be trained on."""
    for split in ctx.data.training_sets:
        yield from as_token_inputs(ctx.task.encode(split, source)).ids


def write_tokenizer(
    source: Path, out: Path, trim: VocabularySpec | None, texts: Iterable[Ids], labels: tuple[str, ...]
) -> TrimmedVocabulary | None:
    """Write the student's `task.json` and, if it reads text, `tokenizer.json`; return a trimmed vocabulary or None.

    Args:
        source: artifact directory that the student is derived from.
        trim: None keeps the vocabulary.
        texts: token ids of `source`; all tokens that occur in them are kept when trimming.

    Raises:
        ModelError: this type of tokenizer cannot be trimmed.
    """
    task_config = read_mapping(source / TASK)
    task_config["labels"] = list(labels)
    if trim is None:
        if (source / TOKENIZER).exists():
            copy_file(source / TOKENIZER, out / TOKENIZER)
        write_json(out / TASK, task_config)
        return None
    vocabulary = read_vocabulary(source / TOKENIZER)
    check_can_trim(vocabulary)
    kept_ids = choose_tokens(vocabulary, texts, trim.margin)
    table = id_table(vocabulary, kept_ids)
    write_text(out / TOKENIZER, trim_tokenizer(source / TOKENIZER, table))
    for name in ("pad_id", "unk_id", "mask_id"):
        if task_config.get(name, -1) >= 0:
            task_config[name] = int(table[task_config[name]])
    write_json(out / TASK, task_config)
    return TrimmedVocabulary(table, kept_ids)
