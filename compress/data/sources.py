"""Load the splits that a `DataSpec` describes, and compute the fingerprint of its data."""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path

from compress.core.disk.watched import FileDigests
from compress.data.kinds import ITEMS, columns_of
from compress.data.reading.locate import source_fingerprint
from compress.data.reading.sampling import sampled
from compress.data.roles import named_splits
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
    items = sampled(ITEMS[kind.items]) if sample else ITEMS[kind.items]
    splits: Splits = import_module(kind.data).load(spec, base, seed, items)
    return splits


def fingerprint(spec: DataSpec, base: Path, task: str, watched: FileDigests | None = None) -> str | None:
    """Return the sha256 of the names and contents of all files of the data (`unlabeled` included), or of a hub commit.

    Returns None for a hub data set whose commit is not in the local cache; the network is not used.

    Raises:
        DataError: there is no such data.
    """
    kind, watched = ITEMS[task_kind(task).items], watched or FileDigests()
    columns = import_module(task_kind(task).data).columns(spec, kind)
    own = source_fingerprint(spec, base, columns, named_splits(spec), kind, watched)
    if spec.further is None:
        return own
    columns = columns_of(spec, kind, labelled=False)
    further = source_fingerprint(spec.further, base, columns, (spec.further.split,), kind, watched)
    if own is None or further is None:
        return None
    return hashlib.sha256(f"{own}\0{further}".encode()).hexdigest()
