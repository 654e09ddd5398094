"""What a model and data call for, as far as files on this machine tell; `compress init` starts from it."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from compress.errors import CompressError
from compress.package_paths import PACKAGE, SKLEARN, locate_package
from compress.profile.schema import TaskName

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
_VISION_TRANSFORMERS = ("vit", "deit", "beit", "dinov2")
_LOOKED_AT = 200
"""Files of a folder that are looked at."""


@dataclass(frozen=True)
class Detected:
    """What a starter profile is made for.

    `layered`: the teacher is a transformer, so that a student may be made of its layers. `pairs`: the columns of two
    texts whose similarity is given. `text_column`: the only column there is, where it is not called `text`.
    """

    task: TaskName
    layered: bool = True
    pairs: tuple[str, str] | None = None
    text_column: str | None = None


def detect(model: str, data: str, task: TaskName | None = None) -> Detected:
    """The task of a model and data; `task` if it is given.

    Images or a model of images: image-classification. Pairs with scores, or a sentence-transformers model and texts
    without labels: sentence-embedding. All else, and all that does not lie on this machine: text-classification.
    """
    folder, place = _place(model), _place(data)
    config = _read_mapping(folder / "config.json") if folder else {}
    columns = _columns(place) if place else ()
    pairs = _scored_pair(columns)
    lone = columns[0] if len(columns) == 1 and columns[0] != "text" else None
    if task is None:
        task = "text-classification"
        if data.startswith(SKLEARN) or _holds_images(place, columns) or _sees(config, folder):
            task = "image-classification"
        elif pairs or (_embeds_sentences(folder) and (len(columns) == 1 or _holds_loose_texts(place))):
            task = "sentence-embedding"
    layered = task != "image-classification" or config.get("model_type") in _VISION_TRANSFORMERS
    return Detected(task, layered, pairs if task == "sentence-embedding" else None, lone)


def _place(source: str) -> Path | None:
    """Where a source stands; None for what is not on this machine."""
    if source.startswith(PACKAGE):
        try:
            return locate_package(source)
        except CompressError:
            return None
    return Path(source) if os.path.exists(source) else None


def _read_mapping(file: Path) -> dict[str, Any]:
    """A JSON mapping, empty where there is none: what is wrong with it is told when the profile is validated."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sees(config: dict[str, Any], folder: Path | None) -> bool:
    """Whether a model is one of images."""
    named = " ".join(map(str, config.get("architectures") or ()))
    return "ForImageClassification" in named or (
        "vocab_size" not in config
        and (
            "image_size" in config or (folder is not None and (folder / "preprocessor_config.json").is_file())
        )
    )


def _embeds_sentences(folder: Path | None) -> bool:
    """Whether a folder is that of a sentence-transformers model."""
    names = ("modules.json", "config_sentence_transformers.json", "1_Pooling")
    return folder is not None and any((folder / name).exists() for name in names)


def _entries(folder: Path | None) -> list[Path]:
    if folder is None or not folder.is_dir():
        return []
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        # As with a table: a folder that may not be read is told of when the data is read in earnest.
        return []


def _holds_images(place: Path | None, columns: tuple[str, ...]) -> bool:
    """Whether most files of a folder are images, or a table has a column of images and none of texts."""
    if "image" in columns and "text" not in columns:
        return True
    if columns or place is None or not place.is_dir():
        return False
    files = list(islice(_files(place), _LOOKED_AT))
    return 2 * sum(file.suffix.lower() in _IMAGES for file in files) > len(files)


def _files(folder: Path) -> Iterator[Path]:
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _files(entry)
        else:
            yield entry


def _holds_loose_texts(place: Path | None) -> bool:
    """Whether a folder holds text files themselves, and not in one sub-folder a class."""
    entries = _entries(place)
    return any(entry.suffix == ".txt" for entry in entries) and not any(entry.is_dir() for entry in entries)


def _columns(place: Path) -> tuple[str, ...]:
    """The columns of a table, or of the first table of a folder; none where it has none."""
    tables = [place] if place.is_file() else [entry for entry in _entries(place) if entry.is_file()]
    table = next((file for file in tables if file.suffix.lower() in _TABLES), None)
    if table is None:
        return ()
    try:
        return _header(table)
    except (OSError, ValueError, csv.Error):
        # Like all that is wrong with the data, this is told when it is read in earnest.
        return ()


def _header(table: Path) -> tuple[str, ...]:
    if table.suffix == ".parquet":
        from pyarrow import parquet

        return tuple(parquet.read_schema(table).names)
    with table.open(encoding="utf-8-sig", newline="") as stream:
        if table.suffix in (".csv", ".tsv"):
            return tuple(next(csv.reader(stream, delimiter="\t" if table.suffix == ".tsv" else ","), ()))
        first = json.loads(stream.readline()) if table.suffix == ".jsonl" else json.load(stream)
    first = first[0] if isinstance(first, list) and first else first
    return tuple(map(str, first)) if isinstance(first, dict) else ()


def _scored_pair(columns: tuple[str, ...]) -> tuple[str, str] | None:
    """The two text columns of a table of pairs with a `score`."""
    others = [name for name in columns if name != "score"]
    return (others[0], others[1]) if "score" in columns and len(others) == 2 else None
