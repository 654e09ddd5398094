"""Folders of data: one file a split, or one sub-folder a class with a text file an example.

clinc/train.csv, validation.csv, test.csv           a file a split (`dev`, `val`, `valid`, `eval`: validation)
bbc/sport/001.txt, bbc/tech/001.txt, ...            one split, `train`: a sub-folder a class
bbc/train/sport/001.txt, bbc/test/sport/001.txt     a folder a split, in each a sub-folder a class
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from compress.data.files import decode, is_table, read_bytes, read_table
from compress.data.rows import Columns, Rows, Source
from compress.errors import DataError

TRAIN = "train"
VALIDATION_NAMES = ("validation", "valid", "val", "dev", "eval")
_LEFT_BEHIND = ("__pycache__", "__MACOSX")
_SPLIT_NAMES = (TRAIN, *VALIDATION_NAMES, "test")


def open_file(path: Path, columns: Columns) -> Source:
    """One file: its only split is `train`."""
    return Source(str(path), {TRAIN: partial(read_table, path, columns)}, {path.name: path})


def open_folder(folder: Path, columns: Columns, named: tuple[str, ...]) -> Source:
    """The splits of a folder, whichever of the three layouts it has.

    Args:
        named: names that the profile gives to splits, beside the usual ones.

    Raises:
        DataError: the folder has none of the layouts, or two files for the same split.
    """
    usual = {*_SPLIT_NAMES, *named}
    entries = _entries(folder)
    tables = [entry for entry in entries if entry.is_file() and is_table(entry)]
    folders = [entry for entry in entries if entry.is_dir()]
    if any(table.stem in usual for table in tables) or (tables and not folders):
        return _table_folder(folder, tables, columns)
    split_folders = {
        entry.name: classes for entry in folders if entry.name in usual and (classes := _class_folders(entry))
    }
    if split_folders:
        return _text_source(folder, split_folders)
    if folders:
        return _text_source(folder, {TRAIN: folders})
    raise DataError(
        "the folder holds no data",
        where=str(folder),
        hint="Expected train.csv (or .jsonl, .parquet, ...), or one sub-folder a class with .txt files.",
    )


def _table_folder(folder: Path, tables: list[Path], columns: Columns) -> Source:
    by_split: dict[str, Path] = {}
    for table in tables:
        if table.stem in by_split:
            raise DataError(
                f"{by_split[table.stem].name} and {table.name} are both the split {table.stem!r}",
                where=str(folder),
                hint="Leave one of them, or name one file as `data.path`.",
            )
        by_split[table.stem] = table
    readers: dict[str, Callable[[], Rows]] = {
        split: partial(read_table, path, columns) for split, path in by_split.items()
    }
    return Source(str(folder), readers, {path.name: path for path in tables})


def _class_folders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _entries(folder: Path) -> list[Path]:
    """What stands in a folder; hidden entries and what Python and macOS leave behind are left out."""
    try:
        return sorted(
            entry for entry in folder.iterdir() if entry.name[0] != "." and entry.name not in _LEFT_BEHIND
        )
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(folder)) from error


def _text_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))


def _text_source(root: Path, splits: Mapping[str, list[Path]]) -> Source:
    files: dict[str, Path] = {}
    readers: dict[str, Callable[[], Rows]] = {}
    for split, classes in splits.items():
        texts = {folder.name: _text_files(folder) for folder in classes}
        where = classes[0].parent
        readers[split] = partial(_read_texts, where, texts)
        files.update((str(path.relative_to(root)), path) for paths in texts.values() for path in paths)
    return Source(str(root), readers, files)


def _read_texts(folder: Path, texts: Mapping[str, list[Path]]) -> Rows:
    """Every `.txt` of every class folder; files that are not UTF-8 are read as cp1252, then latin-1."""
    for name, paths in texts.items():
        if not paths:
            raise DataError(
                "the class folder holds no .txt file",
                where=str(folder / name),
                hint="Each sub-folder is a class, and each .txt file directly in it an example.",
            )
    paths = [path for each in texts.values() for path in each]
    decoded = [decode(read_bytes(path), path) for path in paths]
    odd = [
        (path, encoding) for path, (_, encoding) in zip(paths, decoded, strict=True) if encoding != "utf-8"
    ]
    notes: tuple[str, ...] = ()
    if odd:
        first = odd[0][0].relative_to(folder)
        encodings = " or ".join(sorted({encoding for _, encoding in odd}))
        count = "1 text file is" if len(odd) == 1 else f"{len(odd)} text files are"
        notes = (f"{count} not UTF-8 and read as {encodings}; the first is {first}",)
    return Rows(
        where=str(folder),
        texts=[text for text, _ in decoded],
        labels=[path.parent.name for path in paths],
        place=lambda i: str(paths[i]),
        notes=notes,
    )
