"""Integrity check of everything in a cache and in the runs beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from compress.core.artifacts import open_artifact
from compress.core.disk.files import DamagedFileError, first_damaged, is_temporary, read_sealed, remove
from compress.core.disk.safe_paths import path_inside
from compress.core.errors import CompressError

CHECKPOINT = "checkpoint.json"
"""Index file with the files of a checkpoint."""
LAYOUT_SUFFIX = "layout"
"""Suffix of the files that describe the layout of a teacher signal in its data file."""
CHECKSUMS_SUFFIX = ".checksums"
"""Suffix of the checksum files of baseline outputs."""
_KEY = re.compile("[0-9a-f]{64}")


def is_cache_name(name: str) -> bool:
    """Whether a name in the cache starts with a key, as all entries do. The cache folder may contain foreign files,
    which are never removed."""
    return _KEY.fullmatch(name.partition(".")[0]) is not None


@dataclass(frozen=True)
class Finding:
    """A damaged file and the reason; `loss` names what must be recomputed, `parts` are the paths to remove."""

    path: Path
    reason: str
    loss: str
    parts: tuple[Path, ...]

    def remove(self) -> None:
        """Remove the damaged entry; the next run that needs it recomputes it."""
        for part in self.parts:
            remove(part)


def entry_paths(root: Path, runs: Path) -> list[tuple[str, Path]]:
    """List all paths to check with their kind; files with foreign names are skipped."""
    kinds = {
        "artifact": (root / "artifacts").glob("*"),
        "step": (root / "steps").glob("*.json"),
        "measurement": (root / "measurements").glob("*.json"),
        "contents": (root / "contents").glob("*.json"),
        "reference": (root / "references").glob("*.npz"),
        "signal": (root / "signals").glob(f"*/*.{LAYOUT_SUFFIX}"),
        "teacher": (root / "signals").glob("*/teacher.json"),
        "checkpoint": (root / "work").rglob(CHECKPOINT),
    }
    cached = [
        (kind, path)
        for kind, found in kinds.items()
        for path in sorted(found)
        if is_cache_name(path.relative_to(root).parts[1])
        and not any(map(is_temporary, (path, *path.parents)))
    ]
    found_runs = [path for path in sorted(runs.glob("*/run.json")) if _is_run(path.parent)]
    return [*cached, *(("run", path) for path in found_runs)]


def _is_run(folder: Path) -> bool:
    """Whether a folder with a `run.json` is a run of this package; other programs write files of that name too."""
    return any((folder / name).exists() for name in ("records", "profile.yaml"))


def check(kind: str, path: Path) -> Finding | None:
    """Read one of `entry_paths` and verify its checksums; None if it is intact or was removed concurrently."""
    try:
        return next(_CHECKS[kind](path), None)
    except FileNotFoundError:
        return None


def _check_artifact(path: Path) -> Iterator[Finding]:
    try:
        open_artifact(path, verify_hashes=True)
    except CompressError as error:
        if path.exists():
            yield Finding(Path(error.where or path), error.message, "the step", (path,))


def _check_sealed(loss: str) -> Callable[[Path], Iterator[Finding]]:
    def check_file(path: Path) -> Iterator[Finding]:
        try:
            read_sealed(path)
        except DamagedFileError:
            yield Finding(path, "its content does not match its checksum", loss, (path,))

    return check_file


def _check_indexed(loss: str, index: Callable[[Path], Path]) -> Callable[[Path], Iterator[Finding]]:
    """Return a check for files whose checksums are stored in an index file."""

    def check_file(path: Path) -> Iterator[Finding]:
        index_file = index(path)
        try:
            entries = read_sealed(index_file).get("files", {})
            for name in entries:
                path_inside(index_file.parent, name, where=str(index_file))
            damaged = first_damaged(index_file.parent, entries)
        except (DamagedFileError, FileNotFoundError):
            yield Finding(
                index_file, "it is missing, or does not match its checksum", loss, (index_file, path)
            )
            return
        except (CompressError, AttributeError, KeyError, TypeError):
            # The index was not written by this package, so the files that it names are left alone.
            yield Finding(index_file, "it does not list files of its folder", loss, (index_file, path))
            return
        if damaged is not None:
            parts = (index_file, *(index_file.parent / name for name in entries))
            yield Finding(damaged, "it is missing, or its bytes do not match its checksum", loss, parts)

    return check_file


def _check_run(path: Path) -> Iterator[Finding]:
    from compress.store.runs import RunStore

    try:
        RunStore(path.parent).load()
    except CompressError as error:
        yield Finding(Path(error.where or path), error.message, "the run, out of the cache", (path,))


_CHECKS: dict[str, Callable[[Path], Iterator[Finding]]] = {
    "artifact": _check_artifact,
    "step": _check_sealed("the step"),
    "measurement": _check_sealed("the measurement"),
    "contents": _check_sealed("nothing: the data is read again"),
    "reference": _check_indexed("the outputs of a baseline", lambda path: path.with_suffix(CHECKSUMS_SUFFIX)),
    "signal": _check_indexed("the teacher's outputs", lambda path: path),
    "teacher": _check_sealed("nothing but a title"),
    "checkpoint": _check_indexed("the training from its beginning", lambda path: path),
    "run": _check_run,
}
