"""Load the splits that a `DataSpec` describes, and compute the fingerprint of its data."""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path

from compress.core.disk.watched import FileDigests
from compress.data.kinds import ITEM_KINDS, columns_of
from compress.data.reading.locate import source_fingerprint
from compress.data.reading.sampling import with_sampling
from compress.data.roles import declared_splits
from compress.data.splits import Splits
from compress.profile.schema import DataSpec
from compress.tasks.table import task_kind


def load(
    spec: DataSpec,
    base: Path,
    seed: int,
    task: str,
    *,
    sample: bool = False,
) -> Splits:
    """Load the three splits of the data that a profile names, and its unlabelled examples.

    A text or image of a held-out split is never trained on: duplicates in several named splits are kept in test before
    validation, and in validation before train. Splits made here contain the given fraction of the distinct examples of
    each class, selected by the hash of their content and the seed.

    Args:
        spec: the profile's `data` section.
        base: the folder that relative paths are resolved against.
        seed: seed of the splits made here; existing splits are not changed.
        task: determines whether the examples are texts or images, and whether they have labels.
        sample: open only some of many single-example files; the others are represented by their names, so these splits
            are for inspection, not for training.

    Raises:
        DataError: the data cannot be used; with file and line where there is one.
    """
    kind = task_kind(task)
    item_kind = with_sampling(ITEM_KINDS[kind.items]) if sample else ITEM_KINDS[kind.items]
    splits: Splits = import_module(kind.data).load(spec, base, seed, item_kind)
    return splits


def fingerprint(spec: DataSpec, base: Path, task: str, file_digests: FileDigests | None = None) -> str | None:
    """Return the sha256 of the names and contents of all files of the data (`unlabeled` included), or of a hub commit.

    Returns None for a hub data set whose commit is not in the local cache; the network is not used.

    Raises:
        DataError: there is no such data.
    """
    kind, file_digests = ITEM_KINDS[task_kind(task).items], file_digests or FileDigests()
    columns = import_module(task_kind(task).data).columns(spec, kind)
    data_digest = source_fingerprint(spec, base, columns, declared_splits(spec), kind, file_digests)
    if spec.existing_unlabeled is None:
        return data_digest
    columns = columns_of(spec, kind, labelled=False)
    unlabeled_digest = source_fingerprint(
        spec.existing_unlabeled, base, columns, (spec.existing_unlabeled.split,), kind, file_digests
    )
    if data_digest is None or unlabeled_digest is None:
        return None
    return hashlib.sha256(f"{data_digest}\0{unlabeled_digest}".encode()).hexdigest()
