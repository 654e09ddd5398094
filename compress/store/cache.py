"""The shared, locked store of artifacts and measurements. What stands in it under its key is finished.

artifacts/<key>/        sealed directories
steps/<key>.json        what their making found out: seconds, facts, curves
measurements/<key>.json
contents/<key>.json     what steps read of data whose files did not change since, as digests
references/<key>.npz    answers of baselines on the test split, where a task compares with them
signals/<key>/          what a teacher says of some inputs, for every step and run that asks for it
using/                  what the runs that go on now have use for (`in_use.py`)
work/<key>/             checkpoints of steps that are not finished
locks/<key>.lock        held while a step is made; the system frees it when its process dies
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
from compress.core.disk.exhaustion import is_full
from compress.core.disk.files import (
    Damaged,
    discard,
    empty_folder,
    is_temporary,
    make_folder,
    publish,
    read_sealed,
    remove,
    write_sealed,
)
from compress.core.disk.source_uris import at_home
from compress.core.errors import CompressError, ResourceError
from compress.core.records import Curve, TargetMeasurement
from compress.core.terminal.progress import Progress
from compress.store.checking import LAYOUT, is_ours
from compress.store.in_use import InUse
from compress.store.locks import held

ENVIRONMENT_VARIABLE = "COMPRESS_CACHE"
SIGNALS_NOTE = "teacher.json"
"""The file of a folder of signals that says whose they are; its time is when a run last asked for them."""
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
class MadeStep:
    """A finished step: its artifact, and what its making found out."""

    artifact: Artifact
    seconds: float
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class CacheEntry:
    """One artifact of the cache, for listing: `used` is when a run last asked for it, seconds since 1970."""

    key: str
    step: str
    profile: str
    form: str
    bytes: int
    used: float


@dataclass(frozen=True)
class SignalsEntry:
    """What one teacher says of one set of inputs: the names of its signals, finished or not; `used` as above."""

    key: str
    title: str
    signals: tuple[str, ...]
    bytes: int
    used: float


class Cache:
    """The store below one root directory; two runs may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def default(cls) -> Cache:
        """`.compress/` in the working directory, unless `COMPRESS_CACHE` names another place."""
        named = os.environ.get(ENVIRONMENT_VARIABLE)
        return cls(at_home(named).absolute() if named else Path.cwd() / ".compress")

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            ResourceError: the place cannot be written.
        """
        try:
            for folder in _FOLDERS:
                make_folder(self.root / folder)
        except OSError as error:
            if is_full(error):
                raise
            raise ResourceError(
                f"the cache cannot be written: {error.strerror}",
                where=str(self.root),
                hint=f"Set {ENVIRONMENT_VARIABLE} to a directory that you can write.",
                code="cache-unwritable",
            ) from error

    def find(self, key: str, *, hashed: bool = False) -> MadeStep | None:
        """The finished step of this key; None: it is not made yet, or a file of it is missing or damaged.

        Args:
            hashed: read every file and compare its hash; else their sizes alone are looked at.
        """
        folder = self.root / "artifacts" / key
        note = self.root / "steps" / f"{key}.json"
        if not (folder.is_dir() and note.is_file()):
            return None
        try:
            artifact = open_artifact(folder, hashed=hashed)
            body = read_sealed(note)
            curves = tuple(Curve.model_validate(curve) for curve in body["curves"])
            whole = body["digest"] == artifact.digest
            return MadeStep(artifact, float(body["seconds"]), curves) if whole else None
        except (CompressError, FileNotFoundError, ValueError, KeyError, TypeError):
            # Somebody changed or removed a file: what is left is not what the key promises.
            return None

    def use(self, key: str) -> None:
        """Note that a run asked for this finished step now, and remove the checkpoints that one left which was killed
        just after it had published it."""
        with suppress(FileNotFoundError):
            os.utime(self.root / "steps" / f"{key}.json")
        if (left := self.root / "work" / key).is_dir():
            discard(left)

    def lock(self, key: str, progress: Progress, title: str) -> AbstractContextManager[None]:
        """Hold the step of this key; waits, and says so, while another process makes it."""
        return held(
            self.root / "locks" / f"{key}.lock",
            lambda: progress.say(f"{title}: another run is making it; waiting"),
        )

    @property
    def references(self) -> Path:
        """Where the outputs of baselines are kept that every rival is compared with."""
        return self.root / "references"

    @property
    def signals(self) -> Path:
        """The folder of what teachers say; `compress.training.signals.teachers` fills it under locks of its own."""
        return self.root / "signals"

    def work(self, key: str) -> Path:
        """The directory of a step's checkpoints; it survives a kill and goes when the step is published."""
        folder = self.root / "work" / key
        make_folder(folder)
        return folder

    def forget(self, key: str, began: float) -> None:
        """Remove what a step left on its way that must not be gone on from: its checkpoints, and what teachers said
        since it `began`, seconds since 1970; the caller holds the lock of the key."""
        remove(self.root / "work" / key)
        for entry in self.signals_entries():
            if entry.used >= began:
                self.remove_signals(entry.key)

    @contextmanager
    def making(self, key: str) -> Iterator[Path]:
        """An empty directory to fill and publish; the caller holds the lock of the key: what stood there was given up.

        What is not published goes: where the disk is full it would stand in the way of the next try.
        """
        folder = self.root / "making" / key
        empty_folder(folder)
        try:
            yield folder
        finally:
            discard(folder)

    def publish(
        self,
        key: str,
        made: Path,
        *,
        seconds: float,
        curves: tuple[Curve, ...],
        labels: dict[str, str],
        parts: dict[str, object],
    ) -> MadeStep:
        """Move a sealed directory to its place; the caller holds the lock of the key.

        The note goes first: an artifact without one would be taken for a leftover.
        """
        artifact = open_artifact(made)
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
        publish(made, folder)
        discard(self.root / "work" / key)
        return MadeStep(replace(artifact, path=folder), seconds, curves)

    def measurement(self, key: str) -> TargetMeasurement | None:
        """The measurement of this key, if it was made and its file is whole."""
        file = self.root / "measurements" / f"{key}.json"
        if not file.is_file():
            return None
        try:
            found = TargetMeasurement.model_validate(read_sealed(file))
        except (FileNotFoundError, ValueError):
            return None
        return found if found.key == key else None

    def keep_measurement(self, measurement: TargetMeasurement) -> None:
        """Store a measurement under its key."""
        write_sealed(
            self.root / "measurements" / f"{measurement.key}.json", measurement.model_dump(mode="json")
        )

    def contents(self, key: str) -> Mapping[str, str | None] | None:
        """What a run noted of the data that it read under this key."""
        try:
            found: Mapping[str, str | None] = read_sealed(self.root / "contents" / f"{key}.json")["contents"]
        except (FileNotFoundError, Damaged, KeyError):
            return None
        return found

    def keep_contents(self, key: str, contents: Mapping[str, str | None]) -> None:
        """Note what was read of the data."""
        write_sealed(self.root / "contents" / f"{key}.json", {"contents": dict(contents)})

    def entries(self) -> list[CacheEntry]:
        """Every finished artifact, the one used last first."""
        found = []
        for note in (self.root / "steps").glob("*.json"):
            folder = self.root / "artifacts" / note.stem
            if not folder.is_dir():
                # The note of a removed artifact stays: it tells `compress plan` what changed since.
                continue
            body = _read_note(note)
            if body is None:
                continue
            labels = body["step"], body["profile"], body["form"]
            found.append(CacheEntry(note.stem, *labels, _size_of(folder), _time_of(note)))
        return sorted(found, key=lambda entry: -entry.used)

    def signals_entries(self) -> list[SignalsEntry]:
        """What teachers said, the one used last first."""
        found = []
        for folder in self.signals.glob("*"):
            if folder.is_dir() and is_ours(folder.name) and not is_temporary(folder):
                note = folder / SIGNALS_NOTE
                names = tuple(sorted({unquote(file.stem) for file in folder.glob(f"*.{LAYOUT}")}))
                found.append(
                    SignalsEntry(folder.name, _title_of(note), names, _size_of(folder), _time_of(note))
                )
        return sorted(found, key=lambda entry: -entry.used)

    def remove_signals(self, key: str) -> bool:
        """Remove what a teacher said; False where a run is computing it just now."""
        lock = FileLock(str(self.signals / f"{key}.lock"))
        try:
            with lock.acquire(timeout=0):
                remove(self.signals / key)
        except Timeout:
            return False
        return True

    @property
    def in_use(self) -> InUse:
        """Which steps the runs that go on now have use for."""
        return InUse(self.root / "using")

    def parts_of(self, step: str, profile: str) -> list[dict[str, object]]:
        """What the keys of this profile's steps of that name were made of, whenever they were made."""
        bodies = [_read_note(note) for note in (self.root / "steps").glob("*.json")]
        return [
            body["parts"] for body in bodies if body and body["step"] == step and body["profile"] == profile
        ]

    def remove(self, key: str) -> bool:
        """Remove a step's artifact and checkpoints; False where a run that goes on makes it or has use for it."""
        return self._remove(key, ("artifacts", "work", "making"))

    def _remove(self, key: str, folders: Sequence[str]) -> bool:
        lock = FileLock(str(self.root / "locks" / f"{key}.lock"), timeout=0)
        try:
            with self.in_use.removing() as used:
                if any(key in keys for keys in used):
                    return False
                with lock:
                    for folder in folders:
                        remove(self.root / folder / key)
        except Timeout:
            return False
        return True

    def remove_leftovers(self) -> int:
        """Remove what unfinished steps and removed artifacts left behind; the bytes freed.

        Checkpoints go too: an interrupted run begins its step anew.
        """
        freed = 0
        for folder in ("work", "making", "artifacts"):
            for path in (self.root / folder).glob("*"):
                if not (is_ours(path.name) or is_temporary(path)):
                    continue
                if is_temporary(path) or (folder == "artifacts" and self.find(path.name) is not None):
                    continue
                size = _size_of(path)
                if self._remove(path.name, (folder,)):
                    freed += size
        return freed + self._remove_temporaries()

    def _remove_temporaries(self) -> int:
        """Remove what killed processes were writing; the bytes freed. Where a run goes on, some may be its own."""
        freed = 0
        with self.in_use.removing() as used:
            if not used:
                ours = (one for folder in _FOLDERS for one in _below(self.root / folder))
                for path in [one for one in ours if is_temporary(one)]:
                    freed += _size_of(path)
                    remove(path)
        return freed


def _read_note(file: Path) -> dict[str, Any] | None:
    """What is noted of a step; None where the file is damaged."""
    try:
        body = read_sealed(file)
    except (FileNotFoundError, Damaged):
        return None
    return body if {"step", "profile", "form", "parts"} <= body.keys() else None


def _title_of(note: Path) -> str:
    try:
        return str(read_sealed(note)["title"])
    except (FileNotFoundError, Damaged, KeyError):
        return "a teacher whose note is missing or damaged"


def _size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder, as far as they are there: others may remove them meanwhile."""
    total = 0
    for file in (path, *_below(path)):
        with suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _below(folder: Path) -> Iterator[Path]:
    """All files and folders below a folder; unlike `rglob`, what others remove meanwhile is left out."""
    for parent, folders, names in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *names))


def _time_of(note: Path) -> float:
    """When something was last asked for, seconds since 1970; 0 where its note is gone."""
    try:
        return note.stat().st_mtime
    except FileNotFoundError:
        return 0.0
