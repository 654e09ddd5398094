"""Run directories: one file per record, each with a checksum of its content.

run.json            the run, its status, and the names and checksums of its records
profile.yaml        the profile as it was read
records/00-....json one record per step
bundle/             the deployed bundle, if the profile exports
.lock               held while a run writes here; released by the system when its process dies
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from compress.core.artifacts import SEAL, Artifact
from compress.core.disk.files import (
    DamagedFileError,
    checksum_of,
    copy_tree,
    is_temporary,
    make_folder,
    move,
    read_sealed,
    remove,
    write_sealed,
    write_text,
)
from compress.core.disk.ownership import unused_name
from compress.core.disk.reading import read_mapping
from compress.core.errors import UsageError
from compress.core.records import RunRecord, StepRecord
from compress.core.terminal.progress import Progress
from compress.store.locks import hold_lock

RUNS = "runs"
_RUN_FILE = "run.json"
_RECORDS = "records"
BUNDLE = "bundle"


class RunStore:
    """Reader and writer of one run directory, `runs/<id>/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._body: dict[str, Any] = {}
        self._checksums: dict[str, str] = {}

    def lock(self, progress: Progress, *, wait: bool = True) -> AbstractContextManager[None]:
        """Lock the directory, so that two runs cannot mix their records.

        Args:
            progress: receives a message before waiting.
            wait: wait if another run holds the lock, instead of raising.

        Raises:
            UsageError: another run holds the lock and `wait` is false.
        """

        def on_wait() -> None:
            if not wait:
                raise UsageError(
                    "another run is writing here",
                    where=str(self.path),
                    code="run-locked",
                    hint="Wait until it has ended, or use another folder.",
                )
            progress.say(
                f"{self.path}: another run of the same profile is writing here; waiting until it has ended"
            )

        make_folder(self.path)
        return hold_lock(self.path / ".lock", on_wait)

    def begin(self, run: RunRecord) -> None:
        """Create the directory, or reuse that of an earlier run, and remove old records."""
        make_folder(self.path / _RECORDS)
        write_text(self.path / "profile.yaml", run.profile_text)
        self._checksums = {}
        self.write(run)
        for stale in (self.path / _RECORDS).glob("*.json"):
            remove(stale)

    def write(self, run: RunRecord) -> None:
        """Write the run without its steps, which have their own files."""
        self._body = run.model_dump(mode="json", exclude={"steps"})
        self._list_records()

    def add(self, position: int, record: StepRecord) -> None:
        """Write the record of a step, then list it in `run.json`; unlisted records do not belong to the run."""
        file = self.path / _RECORDS / f"{position:02d}-{record.step}.json"
        self._checksums[file.name] = write_sealed(file, record.model_dump(mode="json"))
        self._list_records()

    def _list_records(self) -> None:
        write_sealed(self.path / _RUN_FILE, {**self._body, _RECORDS: self._checksums})

    def load(self) -> RunRecord:
        """Load a consistent snapshot of the run with its records, even while another process writes them.

        Raises:
            UsageError: there is no run in the directory, or its records are damaged or of another package version.
        """
        try:
            while True:
                version = self._version()
                try:
                    return self._read()
                except (OSError, DamagedFileError):
                    if self._version() == version:
                        raise
        except OSError as error:
            raise UsageError(
                "there is no run here", where=str(self.path), hint="`compress run` makes one."
            ) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f": {error}" if isinstance(error, DamagedFileError) else ""
            raise UsageError(
                f"the records of this run cannot be read{reason}",
                where=str(self.path),
                hint="`compress run` of its profile writes them again; what was measured is in the cache.",
                code="records-damaged",
            ) from error

    def _version(self) -> tuple[int, int]:
        """Return the identity of `run.json`, which changes with every write, even of the same content."""
        status = (self.path / _RUN_FILE).stat()
        return status.st_ino, status.st_mtime_ns

    def _read(self) -> RunRecord:
        body = read_sealed(self.path / _RUN_FILE)
        checksums = body.pop(_RECORDS)
        present = {file.name for file in (self.path / _RECORDS).glob("*.json") if not is_temporary(file)}
        # During a run, or after it was killed, records of the previous run or one not yet listed may exist.
        if set(checksums) != present and (body["status"] != "running" or not set(checksums) <= present):
            raise DamagedFileError(f"{len(checksums)} records belong to it, {len(present)} are there")
        records = {name: read_sealed(self.path / _RECORDS / name) for name in sorted(checksums)}
        for name, checksum in checksums.items():
            if checksum_of(records[name]) != checksum:
                raise DamagedFileError(f"{name} belongs to another run")
        if body.get("bundle") is not None:
            # Beside the record, not where the record says: a working folder may have been moved or copied.
            body["bundle"] = str(self.path.absolute() / BUNDLE)
        return RunRecord.model_validate({**body, "steps": list(records.values())})

    def copy_bundle(self, artifact: Artifact) -> Path:
        """Copy a bundle from the cache to `bundle/`, replacing that of an earlier run.

        If two processes do so at once, both bundles are complete and the later one stays. An existing bundle with files
        added by others is kept as `bundle.kept-1`.
        """
        target = self.path / BUNDLE
        if _has_foreign_files(target):
            move(target, unused_name(target))
        copy_tree(artifact.path, target, exclude={SEAL})
        return target


def _has_foreign_files(bundle: Path) -> bool:
    """Whether a bundle contains files that its manifest does not list; False if the manifest cannot be read."""
    if not bundle.is_dir():
        return False
    try:
        listed = read_mapping(bundle / "manifest.json", error=UsageError)["files"]
        own_files = {*listed, "manifest.json"}
    except (OSError, UsageError, KeyError, TypeError):
        return False
    return any(
        str(file.relative_to(bundle)) not in own_files and "__pycache__" not in file.parts
        for file in bundle.rglob("*")
        if not file.is_dir()
    )


def find_run(name: str, root: Path) -> RunStore:
    """Find a run by its directory, its id, or the name of its profile (its newest run).

    Raises:
        UsageError: no run matches.
    """
    for path in (Path(name), root / name):
        if (path / _RUN_FILE).is_file():
            return RunStore(path)
    run_folders = [path.parent for path in root.glob(f"*/{_RUN_FILE}")]
    # Exact names first, since the name of a profile may be a prefix of another's.
    exact = [path for path in run_folders if path.name.rpartition("-")[0] == name]
    candidates = (exact or [path for path in run_folders if path.name.startswith(name)]) if name else []
    if not candidates:
        known = ", ".join(sorted(path.name for path in run_folders)) or "none"
        raise UsageError(f"no run {name!r}", hint=f"Runs in {root}: {known}.")
    return RunStore(max(candidates, key=lambda path: (path / _RUN_FILE).stat().st_mtime))
