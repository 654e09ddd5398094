"""Detect task, model and data properties from files on this machine, as the basis of `compress init`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from compress.core.disk.source_uris import SKLEARN_PREFIX
from compress.core.errors import CompressError, DataError
from compress.core.task_kind import TaskHints
from compress.data.images.pixels import is_image
from compress.data.names import TRAIN, find_column, find_split, printable
from compress.data.reading.files import is_table, read_head
from compress.data.sources import load
from compress.data.splits import Splits
from compress.profile.schema import validate_data
from compress.starter.columns import (
    LanguageColumns,
    TextColumns,
    choose_columns,
    choose_language_columns,
    lacks_header,
)
from compress.starter.models import ModelInfo, inspect_model, local_path_of
from compress.tasks.table import TASKS, task_kind

_SAMPLED_FILES = 200
"""Number of files in a folder that are inspected."""


@dataclass(frozen=True)
class Detected:
    """What a starter profile is based on.

    Attributes:
        columns: detected columns of the table.
        language_columns: detected columns for language modelling.
        splits: the data; None if it cannot be read or is not on this machine.
        column_names: names of all columns of the table.
    """

    task: str
    model: ModelInfo
    columns: TextColumns = field(default_factory=TextColumns)
    language_columns: LanguageColumns = field(default_factory=LanguageColumns)
    splits: Splits | None = None
    column_names: tuple[str, ...] = ()

    @property
    def lacks_labels(self) -> bool:
        """Whether the data is a table of texts without a column for the labels that the task requires."""
        kind = task_kind(self.task)
        if kind.items != "text" or kind.head != "classifier" or self.columns.label:
            return False
        return bool(self.column_names) and find_column("label", self.column_names) is None

    @property
    def unused_columns(self) -> tuple[str, ...]:
        """The columns of a table of prompts that are neither prompts nor completions."""
        prompted = self.language_columns.prompted
        return () if prompted is None else tuple(name for name in self.column_names if name not in prompted)

    @property
    def label_counts(self) -> Mapping[str, int]:
        """Number of rows of each label."""
        if self.splits is None:
            return {}
        splits = (self.splits.train, self.splits.validation, self.splits.test)
        counter = Counter(int(label) for part in splits for label in part.labels)
        return {self.splits.labels[label]: counter[label] for label in sorted(counter) if label >= 0}


def detect(model: str, data: str, task: str | None = None) -> Detected:
    """Detect the task of a model and data, unless `task` is given, and their properties.

    The detected task is the one whose own estimate (`likely`) is highest.

    Raises:
        DataError: a table without column names, whose first row would be lost.
    """
    model_info, path = inspect_model(model), local_path_of(data)
    table = _read_table_head(path) if path else {}
    columns = choose_columns(table)
    language_columns = choose_language_columns(table)
    if path is not None and lacks_header(table, columns):
        raise DataError(
            "the first line looks like data, not like column names",
            where=printable(path),
            hint="Add a first line with the column names, such as `text,label`.",
            code="header-missing",
        )
    if task is None:
        unlabelled = (bool(table) and columns.label is None) or _contains_unlabelled_texts(path)
        has_images = (
            data.startswith(SKLEARN_PREFIX) or _contains_images(path, table) or model_info.takes_images
        )
        hints = TaskHints(
            has_images,
            bool(columns.pair),
            not unlabelled,
            model_info.embeds_sentences,
            model_info.is_causal_lm or _is_prompt_data(model_info, columns, language_columns),
        )
        task = max(TASKS, key=lambda name: task_kind(name).fit_score(hints))
    if task_kind(task).items == "image":
        columns = TextColumns()
    if task_kind(task).generates:
        columns = TextColumns()
    else:
        language_columns = LanguageColumns()
    splits = _load_splits(data, path, task, columns, language_columns)
    return Detected(task, model_info, columns, language_columns, splits, tuple(table))


def _is_prompt_data(model: ModelInfo, columns: TextColumns, language_columns: LanguageColumns) -> bool:
    """Whether a model of unknown type has data of conversations, or of prompts with answers and no labels."""
    has_prompts = language_columns.messages is not None or (
        language_columns.prompted is not None and columns.label is None
    )
    return model.model_type is None and has_prompts


def _load_splits(
    data: str, path: Path | None, task: str, columns: TextColumns, language_columns: LanguageColumns
) -> Splits | None:
    """Return the data; None if it is not on this machine, or has faults, which `validate` reports."""
    if path is None:
        return None
    keys = {
        key: value
        for key, value in (
            ("text_column", columns.text or language_columns.text),
            ("messages_column", language_columns.messages),
            ("prompt_column", language_columns.prompted and language_columns.prompted[0]),
            ("completion_column", language_columns.prompted and language_columns.prompted[1]),
            ("label_column", columns.label),
            ("pair_columns", columns.pair),
            ("score_column", columns.score),
        )
        if value is not None
    }
    try:
        spec = validate_data({"path": data, **keys}, task)
        return load(spec, Path.cwd(), 0, task, sample=task_kind(task).items == "image")
    except CompressError:
        return None


def _list_folder(folder: Path | None) -> list[Path]:
    if folder is None or not folder.is_dir():
        return []
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        # As with tables, an unreadable folder is reported when the data is loaded.
        return []


def _contains_images(path: Path | None, table: Mapping[str, Sequence[object]]) -> bool:
    """Whether most files of a folder are images, or a table has an image column and no text column."""
    if "image" in table and "text" not in table:
        return True
    if table or path is None or not path.is_dir():
        return False
    files = list(islice(_walk_files(path), _SAMPLED_FILES))
    return 2 * sum(map(is_image, files)) > len(files)


def _walk_files(folder: Path, ancestors: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield files at any depth; a link to one of the folders in `ancestors` would recurse forever and is skipped."""
    visited = ancestors | {os.path.realpath(folder)}
    for entry in _list_folder(folder):
        if entry.is_dir():
            if os.path.realpath(entry) not in visited:
                yield from _walk_files(entry, visited)
        else:
            yield entry


def _contains_unlabelled_texts(path: Path | None) -> bool:
    """Whether a folder contains text files directly rather than in one sub-folder per class."""
    entries = _list_folder(path)
    return any(entry.suffix == ".txt" for entry in entries) and not any(entry.is_dir() for entry in entries)


def _read_table_head(path: Path) -> Mapping[str, Sequence[object]]:
    """Return the first rows of a table, or of a folder's training table, by column; empty if there is none."""
    tables = [path] if path.is_file() else [entry for entry in _list_folder(path) if entry.is_file()]
    tables = [file for file in tables if is_table(file)]
    if not tables:
        return {}
    by_name = {file.stem: file for file in tables}
    try:
        train = find_split(TRAIN, by_name, str(path))
        return read_head(by_name[train] if train is not None else tables[0])
    except DataError:
        # Faults of the data are reported when it is loaded.
        return {}
