"""The shared, locked store of artifacts and measurements. What stands in it under its key is finished.

artifacts/<key>/        sealed directories
steps/<key>.json        what their making found out: seconds, facts, curves
measurements/<key>.json
references/<key>.npy    outputs of baselines on the test split, where a task compares with them
signals/<key>/          what a teacher says of some inputs, for every step and run that asks for it
work/<key>/             checkpoints of steps that are not finished
locks/<key>.lock        held while a step is made; the system frees it when its process dies
making/<key>/           directories that are being filled
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from filelock import FileLock, Timeout

from compress.artifacts import Artifact, open_artifact, read_mapping
from compress.errors import CompressError
from compress.exhaustion import is_full
from compress.files import discard, empty_folder, is_temporary, make_folder, publish, remove, write_json
from compress.progress import Progress
from compress.records import Curve, TargetMeasurement

ENVIRONMENT_VARIABLE = "COMPRESS_CACHE"
SIGNALS_NOTE = "teacher.json"
"""The file of a folder of signals that says whose they are; its time is when a run last asked for them."""
_FOLDERS = ("artifacts", "steps", "measurements", "references", "signals", "work", "locks", "making")


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
        return cls(Path(named).expanduser().absolute() if named else Path.cwd() / ".compress")

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            CompressError: the place cannot be written.
        """
        try:
            for folder in _FOLDERS:
                make_folder(self.root / folder)
        except OSError as error:
            if is_full(error):
                raise
            raise CompressError(
                f"the cache cannot be written: {error.strerror}",
                where=str(self.root),
                hint=f"Set {ENVIRONMENT_VARIABLE} to a directory that you can write.",
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
            body = read_mapping(note)
            curves = tuple(Curve.model_validate(curve) for curve in body["curves"])
            return MadeStep(artifact, float(body["seconds"]), curves)
        except (CompressError, ValueError, KeyError, TypeError):
            # Somebody changed or removed a file: what is left is not what the key promises.
            return None

    def touch(self, key: str) -> None:
        """Note that a run asked for this step now."""
        note = self.root / "steps" / f"{key}.json"
        if note.exists():
            os.utime(note)

    @contextmanager
    def lock(self, key: str, progress: Progress, title: str) -> Iterator[None]:
        """Hold the step of this key; waits, and says so, while another process makes it."""
        lock = FileLock(str(self.root / "locks" / f"{key}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.say(f"{title}: another run is making it; waiting")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @property
    def references(self) -> Path:
        """Where the outputs of baselines are kept that every rival is compared with."""
        return self.root / "references"

    @property
    def signals(self) -> Path:
        """The folder of what teachers say; `compress.training.teachers` fills it under locks of its own."""
        return self.root / "signals"

    def work(self, key: str) -> Path:
        """The directory of a step's checkpoints; it survives a kill and goes when the step is published."""
        folder = self.root / "work" / key
        make_folder(folder)
        return folder

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
        """Move a sealed directory to its place; the caller holds the lock of the key."""
        folder = self.root / "artifacts" / key
        body: dict[str, Any] = {
            "seconds": seconds,
            "curves": [curve.model_dump() for curve in curves],
            "made": time.time(),
            "parts": parts,
            **labels,
        }
        write_json(self.root / "steps" / f"{key}.json", body)
        publish(made, folder)
        discard(self.root / "work" / key)
        return MadeStep(open_artifact(folder), seconds, curves)

    def measurement(self, key: str) -> TargetMeasurement | None:
        """The measurement of this key, if it was made and its file is whole."""
        file = self.root / "measurements" / f"{key}.json"
        if not file.is_file():
            return None
        try:
            found = TargetMeasurement.model_validate_json(file.read_text(encoding="utf-8"))
        except ValueError:
            return None
        return found if found.key == key else None

    def keep_measurement(self, measurement: TargetMeasurement) -> None:
        """Store a measurement under its key."""
        write_json(
            self.root / "measurements" / f"{measurement.key}.json", measurement.model_dump(mode="json")
        )

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
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            found.append(
                CacheEntry(note.stem, body["step"], body["profile"], body["form"], size, note.stat().st_mtime)
            )
        return sorted(found, key=lambda entry: -entry.used)

    def signals_entries(self) -> list[SignalsEntry]:
        """What teachers said, the one used last first."""
        found = []
        for note in self.signals.glob(f"*/{SIGNALS_NOTE}"):
            files = [file.stat() for file in note.parent.iterdir() if file.is_file()]
            body = json.loads(note.read_text(encoding="utf-8"))
            names = tuple(sorted({unquote(file.stem) for file in note.parent.glob("*.layout")}))
            size = sum(file.st_size for file in files)
            found.append(SignalsEntry(note.parent.name, body["title"], names, size, note.stat().st_mtime))
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

    def parts_of(self, step: str, profile: str) -> list[dict[str, object]]:
        """What the keys of this profile's steps of that name were made of, whenever they were made."""
        bodies = [_read_note(note) for note in (self.root / "steps").glob("*.json")]
        return [
            body["parts"] for body in bodies if body and body["step"] == step and body["profile"] == profile
        ]

    def remove(self, key: str) -> bool:
        """Remove a step's artifact; False where a run is making it just now."""
        lock = FileLock(str(self.root / "locks" / f"{key}.lock"))
        try:
            with lock.acquire(timeout=0):
                for folder in ("artifacts", "work", "making"):
                    remove(self.root / folder / key)
        except Timeout:
            return False
        return True

    def remove_leftovers(self) -> int:
        """Remove what unfinished steps and removed artifacts left behind; the bytes freed.

        Checkpoints go too: an interrupted run begins its step anew.
        """
        finished = {entry.key for entry in self.entries()}
        freed = 0
        for folder in ("work", "making", "artifacts"):
            for path in (self.root / folder).glob("*"):
                if not (_KEY.fullmatch(path.name) or is_temporary(path)):
                    # Somebody else's: the cache may have been put where other things lie.
                    continue
                if path.name in finished and folder == "artifacts":
                    continue
                size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                if self.remove(path.name) if path.name not in finished else _removed(path):
                    freed += size
        return freed


_KEY = re.compile("[0-9a-f]{64}")


def _read_note(file: Path) -> dict[str, Any] | None:
    """What is noted of a step; None where the file is damaged."""
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    whole = isinstance(body, dict) and {"step", "profile", "form", "parts"} <= body.keys()
    return body if whole else None


def _removed(path: Path) -> bool:
    remove(path)
    return True
