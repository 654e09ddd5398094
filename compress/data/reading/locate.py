"""Locate data: open the source that a profile path names, and compute the fingerprint of its content."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from compress.core.disk.source_uris import SKLEARN_PREFIX, local_path
from compress.core.disk.watched import FileDigests
from compress.core.errors import DataError
from compress.data.images.digits import digits_fingerprint, open_digits
from compress.data.kinds import ItemKind
from compress.data.reading.folders import open_file, open_folder
from compress.data.reading.hub import cached_commit, open_hub
from compress.data.rows import Columns, FileFormat, Source
from compress.profile.schema import DataSpec
from compress.profile.specs.unlabeled import UnlabeledSpec


def open_source(
    spec: DataSpec | UnlabeledSpec, base: Path, columns: Columns, split_names: tuple[str, ...], kind: ItemKind
) -> Source:
    """Open the source that a spec names; no examples are read yet.

    Args:
        base: the folder that relative paths are resolved against.
        split_names: split names used in the profile, in addition to the usual ones.

    Raises:
        DataError: there is no such source, or it contains another kind of example.
    """
    columns = replace(columns, file_format=FileFormat(spec.separator, spec.encoding))
    if spec.path.startswith(SKLEARN_PREFIX):
        if not kind.is_image:
            raise DataError(f"these are images; this task takes {kind.noun}s", where=spec.path)
        _refuse_format_keys(columns.file_format, "images of scikit-learn")
        return open_digits(spec.path, columns)
    if kind.is_image:
        _refuse_format_keys(columns.file_format, "images")
    path = local_path(spec.path, base, DataError)
    if path is None:
        _refuse_format_keys(columns.file_format, "a data set of the hub")
        return open_hub(spec.path, spec.name, spec.revision, columns, kind.read_split)
    return open_file(path, columns, kind) if path.is_file() else open_folder(path, columns, split_names, kind)


def source_fingerprint(
    spec: DataSpec | UnlabeledSpec,
    base: Path,
    columns: Columns,
    split_names: tuple[str, ...],
    kind: ItemKind,
    file_digests: FileDigests,
) -> str | None:
    """Return the sha256 of the names and contents of all files of a source, or of a hub data set's commit.

    Returns None for a hub data set whose commit is not in the local cache; the network is not used.

    Raises:
        DataError: there is no such data.
    """
    if spec.path.startswith(SKLEARN_PREFIX):
        return digits_fingerprint(spec.path)
    digest = hashlib.sha256()
    if local_path(spec.path, base, DataError) is None:
        commit = cached_commit(spec.path, spec.revision)
        if commit is None:
            return None
        digest.update("\0".join((spec.path, spec.name or "", commit)).encode())
        return digest.hexdigest()
    for name, file in sorted(open_source(spec, base, columns, split_names, kind).files.items()):
        digest.update(
            name.encode("utf-8", "surrogateescape") + b"\0" + bytes.fromhex(_sha256(file, file_digests))
        )
    return digest.hexdigest()


def _refuse_format_keys(file_format: FileFormat, what: str) -> None:
    """Refuse `separator` and `encoding` where they would have no effect."""
    for key, value in vars(file_format).items():
        if value is not None:
            raise DataError(f"does not apply to {what}", where=f"data.{key}", code=f"{key}-unused")


def _sha256(file: Path, file_digests: FileDigests) -> str:
    try:
        return file_digests.sha256(file)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(file)) from error
