"""Read all that a cache and the runs beside it hold, and say what is not as it was written."""

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
"""What names the files of a checkpoint."""
LAYOUT = "layout"
"""The suffix of what says how a signal of a teacher lies in its file."""
CHECKSUMS = ".checksums"
"""The suffix of what is noted of the outputs of a baseline."""
_KEY = re.compile("[0-9a-f]{64}")


def is_ours(name: str) -> bool:
    """Whether a file or folder of the cache is called as what we put there, after a key: the cache may lie where other
    things are, which are never removed."""
    return _KEY.fullmatch(name.partition(".")[0]) is not None


@dataclass(frozen=True)
class Finding:
    """What is damaged, and why; `loss` is what is made anew because of it, `parts` are what goes with it."""

    path: Path
    reason: str
    loss: str
    parts: tuple[Path, ...]

    def remove(self) -> None:
        """Remove it: the next run that needs it makes it anew."""
        for part in self.parts:
            remove(part)


def places(root: Path, runs: Path) -> list[tuple[str, Path]]:
    """All that there is to be read, by its kind; what is called otherwise than ours is somebody else's."""
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
    """Whether something of a run of ours stands beside the `run.json` of a folder; other programs have such files."""
    return any((folder / name).exists() for name in ("records", "profile.yaml"))


def check(kind: str, path: Path) -> Finding | None:
    """Read one of `places` and compare its checksums; None: it is as it was written, or gone meanwhile."""
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
    """Of files that are noted in another one."""

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
            # It was not written here: what it names is left alone.
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
