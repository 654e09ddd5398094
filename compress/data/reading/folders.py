"""Folders of data: one file per split, or one sub-folder per class with one file per example.

clinc/train.csv, validation.csv, test.csv           one file per split (`dev`, `val`, `valid`, `eval`: validation)
bbc/sport/001.txt, bbc/tech/001.txt, ...            one split, `train`: one sub-folder per class
bbc/train/sport/001.txt, bbc/test/sport/001.txt     one folder per split, each with one sub-folder per class
notes/001.txt, notes/old/002.txt, ...               one unlabelled split, if no labels are requested

Names of splits match in any case (`Train`, `TEST`), names of classes in any Unicode form; bytes of a name that are not
UTF-8 are escaped in its label.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from compress.core.errors import DataError
from compress.data.faults import Faults
from compress.data.kinds import ItemKind
from compress.data.names import TRAIN, is_split, printable, to_nfc
from compress.data.reading.files import is_table
from compress.data.rows import Columns, FileFormat, Rows, Source

_IGNORED_FOLDERS = ("__pycache__", "__MACOSX")


def open_file(path: Path, columns: Columns, kind: ItemKind) -> Source:
    """Return a source for one file: its only split is `train`."""
    return Source(printable(path), {TRAIN: partial(kind.read_table, path, columns)}, {path.name: path})


def open_folder(folder: Path, columns: Columns, split_names: tuple[str, ...], kind: ItemKind) -> Source:
    """Return a source for a folder in any of the layouts.

    If `columns` has no label, the files of a split may be directly in its folder or at any depth below it.

    Args:
        split_names: split names used in the profile, in addition to the usual ones.

    Raises:
        DataError: the folder has none of the layouts, or two files for the same split.
    """
    entries = _list_folder(folder)
    tables = [entry for entry in entries if entry.is_file() and is_table(entry)]
    subfolders = [entry for entry in entries if entry.is_dir()]
    if any(is_split(table.stem, split_names) for table in tables) or (tables and not subfolders):
        return _table_folder(folder, tables, columns, kind)
    if columns.label is None:
        splits = [entry for entry in subfolders if is_split(entry.name, split_names)]
        return _unlabelled_source(folder, splits, kind, columns.file_format)
    split_folders = {
        entry.name: classes
        for entry in subfolders
        if is_split(entry.name, split_names) and (classes := _subfolders(entry))
    }
    if split_folders:
        return _class_source(folder, split_folders, kind, columns.file_format)
    if subfolders:
        return _class_source(folder, {TRAIN: subfolders}, kind, columns.file_format)
    raise _no_data_error(folder, f"one sub-folder per class with {kind.file_description}s")


def _table_folder(folder: Path, tables: list[Path], columns: Columns, kind: ItemKind) -> Source:
    by_split: dict[str, Path] = {}
    for table in tables:
        if table.stem in by_split:
            raise DataError(
                f"{by_split[table.stem].name} and {table.name} are both the split {table.stem!r}",
                where=printable(folder),
                hint="Keep one of them, or name one file as `data.path`.",
            )
        by_split[table.stem] = table
    readers: dict[str, Callable[[], Rows]] = {
        split: partial(kind.read_table, path, columns) for split, path in by_split.items()
    }
    return Source(printable(folder), readers, {path.name: path for path in tables})


def _subfolders(folder: Path) -> list[Path]:
    return [entry for entry in _list_folder(folder) if entry.is_dir()]


def _list_folder(folder: Path) -> list[Path]:
    """List a folder, without hidden entries and the folders that Python and macOS leave behind."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=printable(folder)) from error
    return [folder / name for name in names if name[0] != "." and name not in _IGNORED_FOLDERS]


def _example_files(folder: Path, kind: ItemKind) -> list[Path]:
    """Return the single-example files directly in a folder."""
    return [entry for entry in _list_folder(folder) if _is_example(entry, kind)]


def _is_example(entry: Path, kind: ItemKind) -> bool:
    return (
        kind.is_single_example(entry) and entry.is_file() and (kind.may_be_empty or entry.stat().st_size > 0)
    )


def _skipped_note(entries: Iterable[Path], kind: ItemKind) -> tuple[str, ...]:
    """Return a note on entries of class folders that are not examples: other or empty files, broken links, folders."""
    counter: Counter[str] = Counter()
    for entry in entries:
        if entry.is_dir():
            counter["in sub-folders"] += max(1, len(_example_files_below(entry, kind)))
        elif not entry.is_file():
            counter["links to nothing" if entry.is_symlink() else "not regular files"] += 1
        else:
            extension = printable(entry.suffix.lower()) or "without an ending"
            counter["empty" if kind.is_single_example(entry) else extension] += 1
    if not counter:
        return ()
    counts = ", ".join(
        f"{count} {description}" for description, count in sorted(counter.items(), key=lambda one: -one[1])
    )
    return (
        f"{counter.total()} entries in the class folders are not readable {kind.noun}s, and are left out: {counts}",
    )


def _example_files_below(folder: Path, kind: ItemKind, ancestors: frozenset[str] = frozenset()) -> list[Path]:
    """Like `_example_files`, at any depth; a link to one of the folders in `ancestors` would recurse forever and is
    skipped."""
    visited = ancestors | {os.path.realpath(folder)}
    nested = [
        file
        for entry in _subfolders(folder)
        if os.path.realpath(entry) not in visited
        for file in _example_files_below(entry, kind, visited)
    ]
    return [*_example_files(folder, kind), *nested]


def _class_source(
    root: Path, splits: Mapping[str, list[Path]], kind: ItemKind, file_format: FileFormat
) -> Source:
    """Return a source with splits of class folders: the name of an example's folder is its label."""
    files: dict[str, Path] = {}
    readers: dict[str, Callable[[], Rows]] = {}
    for split, classes in splits.items():
        by_class = {folder: _example_files(folder, kind) for folder in classes}
        readers[split] = partial(_read_classes, classes[0].parent, by_class, kind, file_format)
        files.update(
            (str(path).removeprefix(f"{root}{os.sep}"), path) for paths in by_class.values() for path in paths
        )
    return Source(printable(root), readers, files)


def _read_classes(
    folder: Path, by_class: Mapping[Path, list[Path]], kind: ItemKind, file_format: FileFormat
) -> Rows:
    faults = Faults()
    for class_folder, paths in by_class.items():
        if not paths:
            faults.add(
                DataError(
                    f"the class folder has no {kind.file_description}",
                    where=printable(class_folder),
                    hint=f"Each sub-folder is a class, and each {kind.file_description} directly in it an example.",
                    code="class-empty",
                )
            )
    faults.raise_all()
    paths = [path for each in by_class.values() for path in each]
    example_files = set(paths)
    notes = _skipped_note(
        (entry for each in by_class for entry in _list_folder(each) if entry not in example_files), kind
    )
    labels = [label for each, files in by_class.items() for label in [label_of(each)] * len(files)]
    return _read_rows(folder, paths, labels, kind, file_format, notes)


def label_of(folder: Path) -> str:
    """Return the label of a class folder."""
    return to_nfc(printable(folder.name))


def _unlabelled_source(
    root: Path, split_folders: list[Path], kind: ItemKind, file_format: FileFormat
) -> Source:
    """Return a source with unlabelled splits: folders with split names, or everything below the root."""
    by_split = {
        entry.name: files_below
        for entry in split_folders
        if (files_below := _example_files_below(entry, kind))
    }
    by_split = by_split or {TRAIN: _example_files_below(root, kind)}
    if not any(by_split.values()):
        raise _no_data_error(root, f"{kind.file_description}s")
    readers: dict[str, Callable[[], Rows]] = {
        split: partial(_read_rows, root, paths, [None] * len(paths), kind, file_format)
        for split, paths in by_split.items()
    }
    files = {str(path.relative_to(root)): path for paths in by_split.values() for path in paths}
    return Source(printable(root), readers, files)


def _read_rows(
    folder: Path,
    paths: list[Path],
    labels: Sequence[object],
    kind: ItemKind,
    file_format: FileFormat,
    skipped_notes: tuple[str, ...] = (),
) -> Rows:
    values, notes = kind.read_files(folder, paths, file_format)
    return Rows(
        printable(folder),
        values,
        labels,
        location=lambda i: printable(paths[i]),
        notes=(*skipped_notes, *notes),
    )


def _no_data_error(folder: Path, files: str) -> DataError:
    return DataError(
        "the folder has no data",
        where=printable(folder),
        hint=f"Expected train.csv (or .jsonl, .parquet, ...), or {files}.",
    )
