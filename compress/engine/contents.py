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

from compress.core.disk.source_uris import SKLEARN_PREFIX, local_path
from compress.core.errors import CompressError, DataError
from compress.data.sources import load
from compress.data.splits import Examples, Splits, item_content
from compress.planning.code import code_digest
from compress.planning.keys import Fingerprints
from compress.profile.load import LoadedProfile
from compress.profile.schema import Profile
from compress.store.cache import Cache
from compress.tasks.table import task_kind


def reads_local_texts(profile: Profile, base: Path) -> bool:
    """Whether all examples of a profile are texts in local files."""
    unlabeled = profile.data.existing_unlabeled
    paths = [profile.data.path, *([] if unlabeled is None else [unlabeled.path])]
    return task_kind(profile.task).items == "text" and not any(
        path.startswith(SKLEARN_PREFIX) or local_path(path, base, DataError) is None for path in paths
    )


def with_content_digests(fingerprints: Fingerprints, splits: Splits) -> Fingerprints:
    """Return the fingerprints with those of the data files replaced by digests of the data that steps use."""
    parts = [json.dumps(splits.labels), *map(examples_digest, (splits.train, splits.validation))]
    unlabeled = None if splits.unlabeled is None else _hash_parts(*parts, examples_digest(splits.unlabeled))
    test = examples_digest(splits.test)
    return replace(fingerprints, data=_hash_parts(*parts), unlabeled=unlabeled, test=test, by_content=True)


def cached_content_digests(loaded: LoadedProfile, fingerprints: Fingerprints, cache: Cache) -> Fingerprints:
    """Return the result of `with_content_digests`, as stored by an earlier run on these files or from reading them now.

    `data` is None if they cannot be read as declared.
    """
    profile, base = loaded.profile, loaded.source.base
    if fingerprints.data is None or not reads_local_texts(profile, base):
        return fingerprints
    stored = cache.contents(_data_key(profile, fingerprints))
    if stored is not None:
        data, unlabeled, test = (stored.get(name) for name in ("data", "unlabeled", "test"))
        return replace(fingerprints, data=data, unlabeled=unlabeled, test=test, by_content=True)
    try:
        return with_content_digests(fingerprints, load(profile.data, base, profile.seed, profile.task))
    except CompressError:
        return replace(fingerprints, data=None, unlabeled=None)


def store_content_digests(
    profile: Profile, fingerprints: Fingerprints, contents: Fingerprints, cache: Cache
) -> None:
    """Store the digests of the data that was read, for `cached_content_digests`."""
    if contents.by_content and fingerprints.data is not None:
        digests = {"data": contents.data, "unlabeled": contents.unlabeled, "test": contents.test}
        cache.store_contents(_data_key(profile, fingerprints), digests)


def _data_key(profile: Profile, fingerprints: Fingerprints) -> str:
    """Return the digest of everything that determines the data read: files, `data` section, seed and reading code."""
    parts = (
        [
            fingerprints.data,
            fingerprints.unlabeled,
            profile.data.model_dump(mode="json"),
            profile.task,
            profile.seed,
        ],
        code_digest(task_kind(profile.task).data.partition(":")[0]),
    )
    return _hash_parts(json.dumps(parts))


def examples_digest(examples: Examples) -> str:
    """Return the sha256 over the items, labels and scores of a split, in order."""
    digest = hashlib.sha256(examples.labels.tobytes())
    if examples.scores is not None:
        digest.update(examples.scores.tobytes())
    for item in examples.items:
        digest.update(item_content(item) + b"\0")
    return digest.hexdigest()


def _hash_parts(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
