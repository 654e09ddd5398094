"""Data sets of the Hugging Face hub, through `datasets`, which is imported only when needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

from compress.core.disk.safe_paths import name_fault
from compress.core.errors import DataError
from compress.data.reading.files import find_columns
from compress.data.rows import Columns, Rows, Source

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 20


def open_hub(
    path: str,
    name: str | None,
    revision: str | None,
    columns: Columns,
    read_rows: Callable[[Any, str, Columns], Rows],
) -> Source:
    """Return the splits of a hub data set. The network is used only for what is not in the local cache.

    Args:
        read_rows: returns the rows of a split, as `read_split` does for texts.

    Raises:
        DataError: the data set cannot be reached, does not exist, or requires a configuration name.
    """
    commit = cached_commit(path, revision)
    datasets = _load_cached(path, name, commit) if commit else None
    if datasets is None:
        datasets = _download(path, name, commit or revision)
    readers = {
        str(split): partial(read_rows, dataset, f"{path}, split {split}", columns)
        for split, dataset in datasets.items()
    }
    return Source(path, readers, {})


def read_split(dataset: Any, where: str, columns: Columns) -> Rows:
    """Return the texts of one split, with their labels."""
    return split_rows(dataset, where, columns, lambda text: list(dataset[text]))


def split_rows(
    dataset: Any, where: str, columns: Columns, read_items: Callable[[str], Sequence[object]]
) -> Rows:
    """Return the rows of one split; a `ClassLabel` column provides the label names.

    Args:
        read_items: returns the examples of a column.
    """
    text, *label = find_columns(dataset.column_names, columns, where)
    names = getattr(dataset.features[label[0]], "names", None) if label else None
    return Rows(
        where=where,
        items=read_items(text),
        labels=list(dataset[label[0]]) if label else [None] * len(dataset),
        location=lambda i: f"{where}, row {i}",
        label_names=tuple(names) if names else None,
    )


def cached_commit(path: str, revision: str | None) -> str | None:
    """Return the commit that a revision of a data set refers to, according to the local cache; no network access."""
    if revision and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub.constants import HF_HUB_CACHE

    if name_fault(path) is not None or (revision and name_fault(revision) is not None):
        return None
    ref_file = Path(HF_HUB_CACHE, f"datasets--{path.replace('/', '--')}", "refs", revision or "main")
    try:
        commit = ref_file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _load_cached(path: str, name: str | None, commit: str) -> Any:
    """Return the splits that an earlier download of this exact commit left in the cache; None if there are none.

    `datasets` itself would fall back to any cached commit, after retrying for half a minute.
    """
    from datasets.config import HF_DATASETS_CACHE
    from datasets.naming import camelcase_to_snakecase
    from datasets.packaged_modules.cache.cache import Cache

    if name is not None and (name_fault(name) is not None or "/" in name):
        return None
    *owner, own_name = path.split("/")
    folder = Path(HF_DATASETS_CACHE, "___".join((*owner, camelcase_to_snakecase(own_name))))
    folders = [
        info.parent for info in folder.glob(f"{escape(name) if name else '*'}/*/{commit}/dataset_info.json")
    ]
    if len(folders) != 1:
        return None
    config, version, _ = folders[0].parts[-3:]
    cached = Cache(repo_id=path, dataset_name=own_name, config_name=config, version=version, hash=commit)
    return cached.as_dataset()


def _download(path: str, name: str | None, revision: str | None) -> Any:
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        # Checked first because `datasets` retries for half a minute without a network.
        HfApi().dataset_info(path, revision=revision, timeout=_TIMEOUT_S)
        return datasets.load_dataset(path, name, revision=revision)
    except RepositoryNotFoundError as error:
        hint = "Is it private, or meant as a path? Paths are relative to the profile's folder."
        raise DataError("no such path, and the hub has no such data set", where=path, hint=hint) from error
    except RevisionNotFoundError as error:
        raise DataError(f"the data set has no revision {revision!r}", where=path) from error
    except (HTTPError, ConnectionError) as error:
        raise DataError(
            "no such path, and the hub cannot be reached for a data set of this name",
            where=path,
            hint=f"Without a network only local paths and data sets downloaded before can be used ({error}).",
        ) from error
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        hint = "A data set with several configurations needs `data.name`."
        raise DataError(f"the data set cannot be loaded: {error}", where=path, hint=hint) from error
