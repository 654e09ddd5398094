"""Images in tables: parquet files and splits of hub data sets, memory-mapped by `datasets`.

The bytes of an image stay in the mapped file until the image is requested.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.core.disk.safe_paths import path_inside
from compress.core.errors import DataError
from compress.data.reading.files import is_table
from compress.data.reading.hub import split_rows
from compress.data.rows import Columns, Rows
from compress.data.splits import Item, StoredImage


def read_image_table(path: Path, columns: Columns) -> Rows:
    """Read the images of a parquet file, and their labels if `columns` names a label column.

    Raises:
        DataError: the table is of another kind or unreadable, or a column is missing.
    """
    if path.suffix.lower() != ".parquet":
        assert is_table(path), path
        raise DataError(
            f"a {path.suffix} file cannot hold images",
            where=str(path),
            hint="Images are read from folders with a sub-folder per class, from parquet files and from the hub.",
        )
    # Imported lazily: no other local data needs it.
    import datasets
    import pyarrow as pa

    bars_enabled = datasets.utils.logging.is_progress_bar_enabled()
    datasets.utils.logging.disable_progress_bar()
    try:
        table = datasets.Dataset.from_parquet(str(path))
        table.data.table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"not a readable parquet file: {error}", where=str(path)) from error
    finally:
        if bars_enabled:
            datasets.utils.logging.enable_progress_bar()
    return read_image_split(table, str(path), columns, path.parent)


def read_image_split(dataset: Any, where: str, columns: Columns, folder: Path | None = None) -> Rows:
    """Return the rows of one split of images; a `ClassLabel` column provides the label names.

    Args:
        folder: folder of the files that rows refer to by path; None: the cache of the hub.

    Raises:
        DataError: a column is missing, or a row refers to a file outside the folder.
    """
    import datasets

    root = Path(datasets.config.HF_CACHE_HOME).expanduser() if folder is None else folder

    def images(column: str) -> list[Item | object]:
        table = dataset.select_columns([column])
        if isinstance(dataset.features[column], datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
        return [_item(table, row, column, root, where) for row in range(len(table))]

    return split_rows(dataset, where, columns, images)


def _item(table: Any, row: int, column: str, folder: Path, where: str) -> Item | object:
    """Return a handle to the image in a row, the file in `folder` that the row refers to, or None if it is empty."""
    value = table[row][column]
    if isinstance(value, dict):
        if value.get("bytes") is None:
            return (
                _referenced_file(folder, value["path"], f"{where}, row {row}") if value.get("path") else None
            )
        return StoredImage(table, row, column)
    return StoredImage(table, row, column) if isinstance(value, bytes) else value


def _referenced_file(folder: Path, name: object, where: str) -> Path:
    """Return the file that a row refers to, by a path relative to `folder` or an absolute path inside it."""
    if isinstance(name, str) and Path(name).is_absolute() and Path(name).is_relative_to(folder.absolute()):
        name = str(Path(name).relative_to(folder.absolute()))
    return path_inside(folder, name, where=where, error=DataError)
