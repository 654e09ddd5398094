"""Integrity check of everything in a cache and in the runs beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from compress.core.artifacts import open_artifact
from compress.core.disk.files import Damaged, first_damaged, is_temporary, read_sealed, remove
from compress.core.disk.safe_paths import inside
from compress.core.errors import CompressError

CHECKPOINT = "checkpoint.json"
"""Index file with the files of a checkpoint."""
LAYOUT = "layout"
"""Suffix of the files that describe the layout of a teacher signal in its data file."""
CHECKSUMS = ".checksums"
"""Suffix of the checksum files of baseline outputs."""
_KEY = re.compile("[0-9a-f]{64}")


def is_ours(name: str) -> bool:
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


def places(root: Path, runs: Path) -> list[tuple[str, Path]]:
    """List all paths to check with their kind; files with foreign names are skipped."""
    kinds = {
        "artifact": (root / "artifacts").glob("*"),
        "step": (root / "steps").glob("*.json"),
        "measurement": (root / "measurements").glob("*.json"),
        "contents": (root / "contents").glob("*.json"),
        "reference": (root / "references").glob("*.npz"),
        "signal": (root / "signals").glob(f"*/*.{LAYOUT}"),
        "teacher": (root / "signals").glob("*/teacher.json"),
        "checkpoint": (root / "work").rglob(CHECKPOINT),
    }
    cached = [
        (kind, path)
        for kind, found in kinds.items()
        for path in sorted(found)
        if is_ours(path.relative_to(root).parts[1]) and not any(map(is_temporary, (path, *path.parents)))
    ]
    found_runs = [path for path in sorted(runs.glob("*/run.json")) if _is_run(path.parent)]
    return [*cached, *(("run", path) for path in found_runs)]


def _is_run(folder: Path) -> bool:
    """Whether a folder with a `run.json` is a run of this package; other programs write files of that name too."""
    return any((folder / name).exists() for name in ("records", "profile.yaml"))


def check(kind: str, path: Path) -> Finding | None:
    """Read one of `places` and verify its checksums; None if it is intact or was removed concurrently."""
    try:
        return next(_LOOKS[kind](path), None)
    except FileNotFoundError:
        return None


def _artifact(path: Path) -> Iterator[Finding]:
    try:
        open_artifact(path, hashed=True)
    except CompressError as error:
        if path.exists():
            yield Finding(Path(error.where or path), error.message, "the step", (path,))


def _sealed(loss: str) -> Callable[[Path], Iterator[Finding]]:
    def look(path: Path) -> Iterator[Finding]:
        try:
            read_sealed(path)
        except Damaged:
            yield Finding(path, "its content does not match its checksum", loss, (path,))

    return look


def _with_files(loss: str, index: Callable[[Path], Path]) -> Callable[[Path], Iterator[Finding]]:
    """Return a check for files whose checksums are stored in an index file."""

    def look(path: Path) -> Iterator[Finding]:
        noting = index(path)
        try:
            entries = read_sealed(noting).get("files", {})
            for name in entries:
                inside(noting.parent, name, where=str(noting))
            damaged = first_damaged(noting.parent, entries)
        except (Damaged, FileNotFoundError):
            yield Finding(noting, "it is missing, or does not match its checksum", loss, (noting, path))
            return
        except (CompressError, AttributeError, KeyError, TypeError):
            # The index was not written by this package, so the files that it names are left alone.
            yield Finding(noting, "it does not list files of its folder", loss, (noting, path))
            return
        if damaged is not None:
            parts = (noting, *(noting.parent / name for name in entries))
            yield Finding(damaged, "it is missing, or its bytes do not match its checksum", loss, parts)

    return look


def _run(path: Path) -> Iterator[Finding]:
    from compress.store.runs import RunStore

    try:
        RunStore(path.parent).load()
    except CompressError as error:
        yield Finding(Path(error.where or path), error.message, "the run, out of the cache", (path,))


_LOOKS: dict[str, Callable[[Path], Iterator[Finding]]] = {
    "artifact": _artifact,
    "step": _sealed("the step"),
    "measurement": _sealed("the measurement"),
    "contents": _sealed("nothing: the data is read again"),
    "reference": _with_files("the outputs of a baseline", lambda path: path.with_suffix(CHECKSUMS)),
    "signal": _with_files("the teacher's outputs", lambda path: path),
    "teacher": _sealed("nothing but a title"),
    "checkpoint": _with_files("the training from its beginning", lambda path: path),
    "run": _run,
}
