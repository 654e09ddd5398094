"""Detect task, model and data properties from files on this machine, as the basis of `compress init`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from compress.core.disk.source_uris import SKLEARN
from compress.core.errors import CompressError, DataError
from compress.core.task_kind import TaskHints
from compress.data.images.pixels import is_image
from compress.data.names import TRAIN, column_named, named_split, shown
from compress.data.reading.files import is_table, read_head
from compress.data.sources import load
from compress.data.splits import Splits
from compress.profile.schema import data_of
from compress.starter.columns import Chosen, ToWrite, choose_columns, choose_to_write, lacks_header
from compress.starter.models import ModelInfo, inspect_model, place_of
from compress.tasks.table import TASKS, task_kind

_LOOKED_AT = 200
"""Number of files in a folder that are inspected."""


@dataclass(frozen=True)
class Detected:
    """What a starter profile is based on.

    Attributes:
        columns: detected columns of the table.
        to_write: detected columns for language modelling.
        splits: the data; None if it cannot be read or is not on this machine.
        names: names of all columns of the table.
    """

    task: str
    model: ModelInfo
    columns: Chosen = field(default_factory=Chosen)
    to_write: ToWrite = field(default_factory=ToWrite)
    splits: Splits | None = None
    names: tuple[str, ...] = ()

    @property
    def lacks_labels(self) -> bool:
        """Whether the data is a table of texts without a column for the labels that the task requires."""
        kind = task_kind(self.task)
        if kind.items != "text" or kind.head != "classifier" or self.columns.label:
            return False
        return bool(self.names) and column_named("label", self.names) is None

    @property
    def unread(self) -> tuple[str, ...]:
        """The columns of a table of prompts that are neither prompts nor completions."""
        asked = self.to_write.asked
        return () if asked is None else tuple(name for name in self.names if name not in asked)

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of rows of each label."""
        if self.splits is None:
            return {}
        parts = (self.splits.train, self.splits.validation, self.splits.test)
        found = Counter(int(label) for part in parts for label in part.labels)
        return {self.splits.labels[label]: found[label] for label in sorted(found) if label >= 0}


def detect(model: str, data: str, task: str | None = None) -> Detected:
    """Detect the task of a model and data, unless `task` is given, and their properties.

    The detected task is the one whose own estimate (`likely`) is highest.

    Raises:
        DataError: a table without column names, whose first row would be lost.
    """
    seen, place = inspect_model(model), place_of(data)
    table = _table(place) if place else {}
    columns = choose_columns(table)
    to_write = choose_to_write(table)
    if place is not None and lacks_header(table, columns):
        raise DataError(
            "the first line looks like data, not like column names",
            where=shown(place),
            hint="Add a first line with the column names, such as `text,label`.",
            code="header-missing",
        )
    if task is None:
        unlabelled = (bool(table) and columns.label is None) or _holds_loose_texts(place)
        images = data.startswith(SKLEARN) or _holds_images(place, table) or seen.sees
        looks = TaskHints(
            images,
            bool(columns.pair),
            not unlabelled,
            seen.embeds_sentences,
            seen.writes or _asks(seen, columns, to_write),
        )
        task = max(TASKS, key=lambda name: task_kind(name).likely(looks))
    if task_kind(task).items == "image":
        columns = Chosen()
    if task_kind(task).writes:
        columns = Chosen()
    else:
        to_write = ToWrite()
    rows = _rows(data, place, task, columns, to_write)
    return Detected(task, seen, columns, to_write, rows, tuple(table))


def _asks(model: ModelInfo, columns: Chosen, to_write: ToWrite) -> bool:
    """Whether a model of unknown type has data of conversations, or of prompts with answers and no labels."""
    asked = to_write.messages is not None or (to_write.asked is not None and columns.label is None)
    return model.kind is None and asked


def _rows(data: str, place: Path | None, task: str, columns: Chosen, to_write: ToWrite) -> Splits | None:
    """Return the data; None if it is not on this machine, or has faults, which `validate` reports."""
    if place is None:
        return None
    named = {
        key: value
        for key, value in (
            ("text_column", columns.text or to_write.text),
            ("messages_column", to_write.messages),
            ("prompt_column", to_write.asked and to_write.asked[0]),
            ("completion_column", to_write.asked and to_write.asked[1]),
            ("label_column", columns.label),
            ("pair_columns", columns.pair),
            ("score_column", columns.score),
        )
        if value is not None
    }
    try:
        spec = data_of({"path": data, **named}, task)
        return load(spec, Path.cwd(), 0, task, sample=task_kind(task).items == "image")
    except CompressError:
        return None


def _entries(folder: Path | None) -> list[Path]:
    if folder is None or not folder.is_dir():
        return []
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        # As with tables, an unreadable folder is reported when the data is loaded.
        return []


def _holds_images(place: Path | None, table: Mapping[str, Sequence[object]]) -> bool:
    """Whether most files of a folder are images, or a table has an image column and no text column."""
    if "image" in table and "text" not in table:
        return True
    if table or place is None or not place.is_dir():
        return False
    files = list(islice(_files(place), _LOOKED_AT))
    return 2 * sum(map(is_image, files)) > len(files)


def _files(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield files at any depth; a link to one of the folders in `above` would recurse forever and is skipped."""
    here = above | {os.path.realpath(folder)}
    for entry in _entries(folder):
        if entry.is_dir():
            if os.path.realpath(entry) not in here:
                yield from _files(entry, here)
        else:
            yield entry


def _holds_loose_texts(place: Path | None) -> bool:
    """Whether a folder contains text files directly rather than in one sub-folder per class."""
    entries = _entries(place)
    return any(entry.suffix == ".txt" for entry in entries) and not any(entry.is_dir() for entry in entries)


def _table(place: Path) -> Mapping[str, Sequence[object]]:
    """Return the first rows of a table, or of a folder's training table, by column; empty if there is none."""
    tables = [place] if place.is_file() else [entry for entry in _entries(place) if entry.is_file()]
    tables = [file for file in tables if is_table(file)]
    if not tables:
        return {}
    by_name = {file.stem: file for file in tables}
    try:
        train = named_split(TRAIN, by_name, str(place))
        return read_head(by_name[train] if train is not None else tables[0])
    except DataError:
        # Faults of the data are reported when it is loaded.
        return {}
