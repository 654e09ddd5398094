"""One split as read from its source, before validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileFormat:
    """Format of text files, as declared in the profile; None: detected for each file."""

    separator: str | None = None
    encoding: str | None = None


@dataclass(frozen=True)
class Columns:
    """The columns that contain the texts and, if requested, their labels.

    `text_key` and `label_key` are the profile keys that name them, for errors; `file_format` is the format of the
    files.
    """

    text: str
    label: str | None
    text_key: str = "text_column"
    label_key: str = "label_column"
    file_format: FileFormat = FileFormat()

    @property
    def named_keys(self) -> tuple[tuple[str, str], ...]:
        """Profile key and name of each column to read."""
        text = (self.text_key, self.text)
        return (text,) if self.label is None else (text, (self.label_key, self.label))

    @property
    def names(self) -> list[str]:
        """Names of the columns to read."""
        return [name for _, name in self.named_keys]


@dataclass(frozen=True)
class Rows:
    """Values as found in the source, of any type or null; labels that were not requested are all None.

    Attributes:
        where: the file, folder or hub split.
        location: returns the file and line of row i.
        label_names: names that the source itself provides for integer labels, starting at 0.
    """

    where: str
    items: Sequence[object]
    labels: Sequence[object]
    location: Callable[[int], str]
    label_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Source:
    """Data that was located: a reader for each of its splits.

    `files` are all files that are read, by their name relative to the source; empty for a hub data set.
    """

    where: str
    splits: Mapping[str, Callable[[], Rows]]
    files: Mapping[str, Path]
