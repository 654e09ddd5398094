"""Handwritten digits bundled with scikit-learn: 1,797 images of 8 x 8 pixels (Alpaydin and Kaynak 1998, UCI)."""

from __future__ import annotations

import hashlib
from importlib import metadata
from typing import Any

import numpy as np

from compress.core.disk.source_uris import SKLEARN_PREFIX
from compress.core.errors import DataError
from compress.data.rows import Columns, Rows, Source

_DIGITS = f"{SKLEARN_PREFIX}digits"
_MAX_GREY = 16


def open_digits(path: str, columns: Columns) -> Source:
    """Return the digits as a source with one split, `train`.

    Images are uint8 arrays (8, 8), with grey values 0..16 scaled to 0..255; labels are "0" to "9".

    Raises:
        DataError: a name other than `digits`, or scikit-learn is not installed.
    """
    _check_name(path)

    def read() -> Rows:
        digits = _load()
        pixels = np.rint(digits.images * (255 / _MAX_GREY)).astype(np.uint8)
        labels = [None if columns.label is None else str(label) for label in digits.target.tolist()]
        return Rows(path, list(pixels), labels, location=lambda i: f"{path}, image {i}")

    return Source(path, {"train": read}, {})


def digits_fingerprint(path: str) -> str:
    """Return the sha256 of the name and the version of scikit-learn, without importing it.

    Raises:
        DataError: as `open_digits`.
    """
    _check_name(path)
    try:
        version = metadata.version("scikit-learn")
    except metadata.PackageNotFoundError as error:
        raise _not_installed(path) from error
    return hashlib.sha256(f"{path}\0{version}".encode()).hexdigest()


def _load() -> Any:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise _not_installed(_DIGITS) from error
    return load_digits()


def _check_name(path: str) -> None:
    if path != _DIGITS:
        raise DataError("scikit-learn has no such images", where=path, hint=f"Only `{_DIGITS}` is supported.")


def _not_installed(path: str) -> DataError:
    return DataError(
        "scikit-learn is not installed in this Python",
        where=path,
        hint="Install it here: `pip install scikit-learn`.",
    )
