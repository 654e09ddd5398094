"""`DataSpec` -> splits: what reads the rows of a task, and what tells its data from any other."""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path

from compress.core.disk.watched import Watched
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
    """The three splits of the data that a profile names, and its unlabelled examples.

    A text or image of a held-out split is never trained on: where equal ones stand in several named splits, test
    keeps them before validation, and validation before train. Made splits hold each class's fraction of
    distinct ones, drawn by the hash of their content and the seed.

    Args:
        spec: the profile's `data` section.
        base: the folder that relative paths start at.
        seed: another seed makes other splits; splits that exist are not changed.
        task: says whether the examples are texts or images, and whether they have labels.
        sample: open only some of many files that hold one example each; the others stand there by their names, so
            these splits are for looking at, not for training.

    Raises:
        DataError: whatever makes the data unfit, with the file and line where there is one.
    """
    kind = task_kind(task)
    items = sampled(ITEMS[kind.items]) if sample else ITEMS[kind.items]
    splits: Splits = import_module(kind.data).load(spec, base, seed, items)
    return splits


def fingerprint(spec: DataSpec, base: Path, task: str, watched: Watched | None = None) -> str | None:
    """sha256 over the names and bytes of all files of the data, or of a hub data set's commit; of `unlabeled` too.

    None: a hub data set whose commit the local cache does not know; the network is not asked.

    Raises:
        DataError: there is no such data.
    """
    kind, watched = ITEMS[task_kind(task).items], watched or Watched()
    columns = import_module(task_kind(task).data).columns(spec, kind)
    own = source_fingerprint(spec, base, columns, named_splits(spec), kind, watched)
    if spec.further is None:
        return own
    columns = columns_of(spec, kind, labelled=False)
    further = source_fingerprint(spec.further, base, columns, (spec.further.split,), kind, watched)
    if own is None or further is None:
        return None
    return hashlib.sha256(f"{own}\0{further}".encode()).hexdigest()
