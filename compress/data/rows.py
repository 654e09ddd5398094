"""One split as it stands in its source, before anything in it is checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Written:
    """How files of text are written, where the profile says it; None: as each file itself tells."""

    separator: str | None = None
    encoding: str | None = None


@dataclass(frozen=True)
class Columns:
    """The columns that hold the texts and, where they are asked for, their labels.

    `text_key` and `label_key` are what a profile calls them, for errors. `written` is how the files are.
    """

    text: str
    label: str | None
    text_key: str = "text_column"
    label_key: str = "label_column"
    written: Written = Written()

    @property
    def keyed(self) -> tuple[tuple[str, str], ...]:
        """Key and name of each column that is read."""
        text = (self.text_key, self.text)
        return (text,) if self.label is None else (text, (self.label_key, self.label))

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        return [name for _, name in self.keyed]


@dataclass(frozen=True)
class Rows:
    """Values as the source holds them: any type, perhaps null; labels that were not asked for are all None.

    `where` is the file, folder or hub split, `place(i)` the file and line of row i. `label_names` are the
    names that the source itself gives to numbered labels, 0 first.
    """

    where: str
    texts: Sequence[object]
    labels: Sequence[object]
    place: Callable[[int], str]
    label_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Source:
    """Data that was found: a reader for each of its splits.

    `files` are all files that reading looks at, by their name relative to the source; none for the hub's.
    """

    where: str
    splits: Mapping[str, Callable[[], Rows]]
    files: Mapping[str, Path]
