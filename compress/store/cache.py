"""Shared, locked store of artifacts and measurements. An entry that exists under its key is complete.

artifacts/<key>/        sealed directories
steps/<key>.json        records of how artifacts were made: seconds, curves, parts of the key
measurements/<key>.json
contents/<key>.json     digests of the data that steps read, valid while its files do not change
references/<key>.npz    outputs of baselines on the test split, for tasks that compare with them
signals/<key>/          teacher outputs for a set of inputs, shared by all steps and runs
using/                  keys that running runs use (`in_use.py`)
work/<key>/             checkpoints of unfinished steps
locks/<key>.lock        held while a step is made; released by the system when its process dies
making/<key>/           directories that are being filled
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from filelock import FileLock, Timeout

from compress.core.artifacts import Artifact, open_artifact
from compress.core.disk.exhaustion import is_disk_full
from compress.core.disk.files import (
    DamagedFileError,
    discard,
    is_temporary,
    make_empty_folder,
    make_folder,
    publish,
    read_sealed,
    remove,
    write_sealed,
)
from compress.core.disk.source_uris import expand_home
from compress.core.errors import CompressError, ResourceError
from compress.core.records import Curve, TargetMeasurement
from compress.core.terminal.progress import Progress
from compress.store.checking import LAYOUT_SUFFIX, is_cache_name
from compress.store.in_use import KeysInUse
from compress.store.locks import hold_lock

ENVIRONMENT_VARIABLE = "COMPRESS_CACHE"
SIGNALS_NOTE = "teacher.json"
"""File of a signals folder with the title of the teacher; its modification time is the last use by a run."""
_FOLDERS = (
    "artifacts",
    "steps",
    "measurements",
    "contents",
    "references",
    "signals",
    "work",
    "locks",
    "making",
)


@dataclass(frozen=True)
class FinishedStep:
    """A finished step: its artifact, the seconds that it took and its learning curves."""

    artifact: Artifact
    seconds: float
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class CacheEntry:
    """An artifact of the cache, for listings; `used` is its last use by a run, in seconds since 1970."""

    key: str
    step: str
    profile: str
    form: str
    bytes: int
    used: float


@dataclass(frozen=True)
class SignalsEntry:
    """Outputs of a teacher for a set of inputs: names of the signals, complete or not; `used` as in `CacheEntry`."""

    key: str
    title: str
    signals: tuple[str, ...]
    bytes: int
    used: float


class Cache:
    """The store below one root directory; runs may use it concurrently."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def default(cls) -> Cache:
        """Return the cache in the directory `COMPRESS_CACHE`, by default `.compress/` in the working directory."""
        configured = os.environ.get(ENVIRONMENT_VARIABLE)
        return cls(expand_home(configured).absolute() if configured else Path.cwd() / ".compress")

    def prepare(self) -> None:
        """Create the folders.

        Raises:
            ResourceError: the root directory is not writable.
        """
        try:
            for folder in _FOLDERS:
                make_folder(self.root / folder)
        except OSError as error:
            if is_disk_full(error):
                raise
            raise ResourceError(
                f"the cache cannot be written: {error.strerror}",
                where=str(self.root),
                hint=f"Set {ENVIRONMENT_VARIABLE} to a directory that you can write.",
                code="cache-unwritable",
            ) from error

    def find(self, key: str, *, verify_hashes: bool = False) -> FinishedStep | None:
        """Return the finished step of a key; None if it does not exist or a file of it is missing or damaged.

        Args:
            verify_hashes: read every file and compare its hash; else only sizes are compared.
        """
        folder = self.root / "artifacts" / key
        record_file = self.root / "steps" / f"{key}.json"
        if not (folder.is_dir() and record_file.is_file()):
            return None
        try:
            artifact = open_artifact(folder, verify_hashes=verify_hashes)
            body = read_sealed(record_file)
            curves = tuple(Curve.model_validate(curve) for curve in body["curves"])
            intact = body["digest"] == artifact.digest
            return FinishedStep(artifact, float(body["seconds"]), curves) if intact else None
        except (CompressError, FileNotFoundError, ValueError, KeyError, TypeError):
            # A file was changed or removed, so the content no longer matches the key.
            return None

    def mark_used(self, key: str) -> None:
        """Record the current time as the last use of a finished step, and remove checkpoints left by a process that was
        killed just after publishing it."""
        with suppress(FileNotFoundError):
            os.utime(self.root / "steps" / f"{key}.json")
        if (checkpoints := self.root / "work" / key).is_dir():
            discard(checkpoints)

    def lock(self, key: str, progress: Progress, title: str) -> AbstractContextManager[None]:
        """Hold the lock of a step; waits, with a message, while another process makes the step."""
        return hold_lock(
            self.root / "locks" / f"{key}.lock",
            lambda: progress.say(f"{title}: another run is making it; waiting"),
        )

    @property
    def references(self) -> Path:
        """Folder of the baseline outputs that other models are compared with."""
        return self.root / "references"

    @property
    def signals(self) -> Path:
        """Folder of teacher outputs, filled by `compress.training.signals.teachers` under its own locks."""
        return self.root / "signals"

    def work(self, key: str) -> Path:
        """Return the directory of a step's checkpoints, kept until the step is published."""
        folder = self.root / "work" / key
        make_folder(folder)
        return folder

    def discard_intermediate(self, key: str, since: float) -> None:
        """Remove intermediate results of a step that must not be resumed from: its checkpoints, and all teacher outputs
        used since it `since`, in seconds since 1970. The caller holds the lock of the key."""
        remove(self.root / "work" / key)
        for entry in self.signals_entries():
            if entry.used >= since:
                self.remove_signals(entry.key)

    @contextmanager
    def staging(self, key: str) -> Iterator[Path]:
        """Yield an empty directory to fill and publish; the caller holds the lock of the key.

        If it is not published, it is removed: on a full disk, leftovers would prevent the next attempt.
        """
        folder = self.root / "making" / key
        make_empty_folder(folder)
        try:
            yield folder
        finally:
            discard(folder)

    def publish(
        self,
        key: str,
        staged: Path,
        *,
        seconds: float,
        curves: tuple[Curve, ...],
        labels: dict[str, str],
        parts: dict[str, object],
    ) -> FinishedStep:
        """Move a sealed directory to its final place; the caller holds the lock of the key.

        The step record is written first, since an artifact without one is treated as a leftover.
        """
        artifact = open_artifact(staged)
        folder = self.root / "artifacts" / key
        body: dict[str, Any] = {
            "seconds": seconds,
            "curves": [curve.model_dump() for curve in curves],
            "made": time.time(),
            "parts": parts,
            "digest": artifact.digest,
            **labels,
        }
        write_sealed(self.root / "steps" / f"{key}.json", body)
        publish(staged, folder)
        discard(self.root / "work" / key)
        return FinishedStep(replace(artifact, path=folder), seconds, curves)

    def measurement(self, key: str) -> TargetMeasurement | None:
        """Return the measurement of a key, if it exists and its file is intact."""
        file = self.root / "measurements" / f"{key}.json"
        if not file.is_file():
            return None
        try:
            stored = TargetMeasurement.model_validate(read_sealed(file))
        except (FileNotFoundError, ValueError):
            return None
        return stored if stored.key == key else None

    def store_measurement(self, measurement: TargetMeasurement) -> None:
        """Store a measurement under its key."""
        write_sealed(
            self.root / "measurements" / f"{measurement.key}.json", measurement.model_dump(mode="json")
        )

    def contents(self, key: str) -> Mapping[str, str | None] | None:
        """Return the digests of the data that a run stored under a key; None if missing or damaged."""
        try:
            stored: Mapping[str, str | None] = read_sealed(self.root / "contents" / f"{key}.json")["contents"]
        except (FileNotFoundError, DamagedFileError, KeyError):
            return None
        return stored

    def store_contents(self, key: str, contents: Mapping[str, str | None]) -> None:
        """Store the digests of the data that was read."""
        write_sealed(self.root / "contents" / f"{key}.json", {"contents": dict(contents)})

    def entries(self) -> list[CacheEntry]:
        """Return every finished artifact, most recently used first."""
        listed = []
        for record_file in (self.root / "steps").glob("*.json"):
            folder = self.root / "artifacts" / record_file.stem
            if not folder.is_dir():
                # The record of a removed artifact is kept so that `compress plan` can explain what changed since.
                continue
            body = _read_step_record(record_file)
            if body is None:
                continue
            labels = body["step"], body["profile"], body["form"]
            listed.append(CacheEntry(record_file.stem, *labels, _bytes_of(folder), _last_use(record_file)))
        return sorted(listed, key=lambda entry: -entry.used)

    def signals_entries(self) -> list[SignalsEntry]:
        """Return all teacher outputs, most recently used first."""
        entries = []
        for folder in self.signals.glob("*"):
            if folder.is_dir() and is_cache_name(folder.name) and not is_temporary(folder):
                note = folder / SIGNALS_NOTE
                names = tuple(sorted({unquote(file.stem) for file in folder.glob(f"*.{LAYOUT_SUFFIX}")}))
                entries.append(
                    SignalsEntry(folder.name, _title_of(note), names, _bytes_of(folder), _last_use(note))
                )
        return sorted(entries, key=lambda entry: -entry.used)

    def remove_signals(self, key: str) -> bool:
        """Remove the outputs of a teacher; return False if a run is computing them."""
        lock = FileLock(str(self.signals / f"{key}.lock"))
        try:
            with lock.acquire(timeout=0):
                remove(self.signals / key)
        except Timeout:
            return False
        return True

    @property
    def in_use(self) -> KeysInUse:
        """The register of the steps that running runs use."""
        return KeysInUse(self.root / "using")

    def parts_of(self, step: str, profile: str) -> list[dict[str, object]]:
        """Return the key parts of all recorded versions of a step of a profile."""
        bodies = [_read_step_record(record_file) for record_file in (self.root / "steps").glob("*.json")]
        return [
            body["parts"] for body in bodies if body and body["step"] == step and body["profile"] == profile
        ]

    def remove(self, key: str) -> bool:
        """Remove a step's artifact and checkpoints; return False if a running run makes or uses it."""
        return self._remove(key, ("artifacts", "work", "making"))

    def _remove(self, key: str, folders: Sequence[str]) -> bool:
        lock = FileLock(str(self.root / "locks" / f"{key}.lock"), timeout=0)
        try:
            with self.in_use.removing() as keys_in_use:
                if any(key in keys for keys in keys_in_use):
                    return False
                with lock:
                    for folder in folders:
                        remove(self.root / folder / key)
        except Timeout:
            return False
        return True

    def remove_leftovers(self) -> int:
        """Remove leftovers of unfinished steps and removed artifacts; return the number of bytes freed.

        Checkpoints are removed too, so an interrupted run restarts its step from the beginning.
        """
        freed = 0
        for folder in ("work", "making", "artifacts"):
            for path in (self.root / folder).glob("*"):
                if not (is_cache_name(path.name) or is_temporary(path)):
                    continue
                if is_temporary(path) or (folder == "artifacts" and self.find(path.name) is not None):
                    continue
                size = _bytes_of(path)
                if self._remove(path.name, (folder,)):
                    freed += size
        return freed + self._remove_temporaries()

    def _remove_temporaries(self) -> int:
        """Remove temporary files of killed processes; return the bytes freed. Does nothing while a run is active, since
        some may be its own."""
        freed = 0
        with self.in_use.removing() as keys_in_use:
            if not keys_in_use:
                candidates = (one for folder in _FOLDERS for one in _walk(self.root / folder))
                for path in [one for one in candidates if is_temporary(one)]:
                    freed += _bytes_of(path)
                    remove(path)
        return freed


def _read_step_record(file: Path) -> dict[str, Any] | None:
    """Read the record of a step; None if the file is missing or damaged."""
    try:
        body = read_sealed(file)
    except (FileNotFoundError, DamagedFileError):
        return None
    return body if {"step", "profile", "form", "parts"} <= body.keys() else None


def _title_of(note: Path) -> str:
    try:
        return str(read_sealed(note)["title"])
    except (FileNotFoundError, DamagedFileError, KeyError):
        return "a teacher whose note is missing or damaged"


def _bytes_of(path: Path) -> int:
    """Return the bytes of a file or of all files in a folder, skipping those removed concurrently."""
    total = 0
    for file in (path, *_walk(path)):
        with suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files and folders below a folder; unlike `rglob`, tolerates concurrent removal."""
    for parent, folders, names in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *names))


def _last_use(note: Path) -> float:
    """Return the time of last use in seconds since 1970, the modification time of the note; 0 without a note."""
    try:
        return note.stat().st_mtime
    except FileNotFoundError:
        return 0.0
