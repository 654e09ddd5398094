"""Digests of the data that steps use: the texts, labels and scores of their splits.

They do not change with other columns of a file, another test split, or the location of the same rows. Image data is
identified by the bytes of its files instead, since decoding would slow down `plan`, and data sets of the hub by their
commit.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from compress.core.disk.source_uris import SKLEARN, local_path
from compress.core.errors import CompressError, DataError
from compress.data.sources import load
from compress.data.splits import Examples, Splits, item_content
from compress.planning.code import code_digest
from compress.planning.keys import Fingerprints
from compress.profile.load import LoadedProfile
from compress.profile.schema import Profile
from compress.store.cache import Cache
from compress.tasks.table import task_kind


def are_texts_of_files(profile: Profile, base: Path) -> bool:
    """Whether all examples of a profile are texts in local files."""
    further = profile.data.further
    paths = [profile.data.path, *([] if further is None else [further.path])]
    return task_kind(profile.task).items == "text" and not any(
        path.startswith(SKLEARN) or local_path(path, base, DataError) is None for path in paths
    )


def with_content_digests(files: Fingerprints, splits: Splits) -> Fingerprints:
    """Return the fingerprints with those of the data files replaced by digests of the data that steps use."""
    seen = [json.dumps(splits.labels), *map(examples_digest, (splits.train, splits.validation))]
    further = None if splits.unlabeled is None else _joined(*seen, examples_digest(splits.unlabeled))
    test = examples_digest(splits.test)
    return replace(files, data=_joined(*seen), unlabeled=further, test=test, by_content=True)


def cached_content_digests(loaded: LoadedProfile, files: Fingerprints, cache: Cache) -> Fingerprints:
    """Return the result of `with_content_digests`, as stored by an earlier run on these files or from reading them now.

    `data` is None if they cannot be read as declared.
    """
    profile, base = loaded.profile, loaded.source.base
    if files.data is None or not are_texts_of_files(profile, base):
        return files
    noted = cache.contents(_reading_key(profile, files))
    if noted is not None:
        data, unlabeled, test = (noted.get(name) for name in ("data", "unlabeled", "test"))
        return replace(files, data=data, unlabeled=unlabeled, test=test, by_content=True)
    try:
        return with_content_digests(files, load(profile.data, base, profile.seed, profile.task))
    except CompressError:
        return replace(files, data=None, unlabeled=None)


def store_content_digests(profile: Profile, files: Fingerprints, read: Fingerprints, cache: Cache) -> None:
    """Store the digests of the data that was read, for `cached_content_digests`."""
    if read.by_content and files.data is not None:
        noted = {"data": read.data, "unlabeled": read.unlabeled, "test": read.test}
        cache.keep_contents(_reading_key(profile, files), noted)


def _reading_key(profile: Profile, files: Fingerprints) -> str:
    """Return the digest of everything that determines the data read: files, `data` section, seed and reading code."""
    parts = (
        [files.data, files.unlabeled, profile.data.model_dump(mode="json"), profile.task, profile.seed],
        code_digest(task_kind(profile.task).data.partition(":")[0]),
    )
    return _joined(json.dumps(parts))


def examples_digest(examples: Examples) -> str:
    """Return the sha256 over the items, labels and scores of a split, in order."""
    digest = hashlib.sha256(examples.labels.tobytes())
    if examples.scores is not None:
        digest.update(examples.scores.tobytes())
    for item in examples.items:
        digest.update(item_content(item) + b"\0")
    return digest.hexdigest()


def _joined(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
