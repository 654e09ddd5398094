"""A run's directory: one file a record, each written under a temporary name and renamed.

run.json            what the run is, and how it ended
profile.yaml        the profile as it was read
records/00-....json one record a row
bundle/             what is deployed, where the profile exports
"""

from __future__ import annotations

from pathlib import Path

from compress.artifacts import SEAL, Artifact
from compress.errors import UsageError
from compress.files import copy_tree, make_folder, move, remove, write_json, write_text
from compress.reading import read_mapping
from compress.records import RunRecord, StepRecord

RUNS = "runs"
_RUN = "run.json"
_RECORDS = "records"
BUNDLE = "bundle"


class RunStore:
    """The only reader and writer of one `runs/<id>/`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, run: RunRecord) -> None:
        """Make the directory, or take up the one that an interrupted run left."""
        make_folder(self.path / _RECORDS)
        write_text(self.path / "profile.yaml", run.profile_text)
        for stale in (self.path / _RECORDS).glob("*.json"):
            remove(stale)
        self.write(run)

    def write(self, run: RunRecord) -> None:
        """Write the run; its steps stand in files of their own."""
        body = run.model_dump(mode="json", exclude={"steps"})
        write_json(self.path / _RUN, body)

    def add(self, position: int, record: StepRecord) -> None:
        """Write one row's record."""
        write_json(
            self.path / _RECORDS / f"{position:02d}-{record.step}.json", record.model_dump(mode="json")
        )

    def load(self) -> RunRecord:
        """The run with its records.

        Raises:
            UsageError: there is no run in the directory, or another version of the package wrote it.
        """
        try:
            files = sorted((self.path / _RECORDS).glob("*.json"))
            body = read_mapping(self.path / _RUN, error=UsageError, finite=False)
            body["steps"] = [read_mapping(file, error=UsageError, finite=False) for file in files]
            return RunRecord.model_validate(body)
        except UsageError:
            raise
        except OSError as error:
            raise UsageError(
                "there is no run here", where=str(self.path), hint="`compress run` makes one."
            ) from error
        except (ValueError, TypeError) as error:
            raise UsageError("the records of this run cannot be read", where=str(self.path)) from error

    def place_bundle(self, artifact: Artifact) -> Path:
        """Copy a bundle from the cache to `bundle/`, replacing what an earlier run put there.

        One that somebody put files into is kept, as `bundle.kept-1`.
        """
        target = self.path / BUNDLE
        if _holds_more(target):
            number = 1
            while (kept := target.with_name(f"{BUNDLE}.kept-{number}")).exists():
                number += 1
            move(target, kept)
        copy_tree(artifact.path, target, without={SEAL})
        return target


def _holds_more(bundle: Path) -> bool:
    """Whether a bundle holds files that its manifest does not name; not known where the manifest itself is damaged."""
    if not bundle.is_dir():
        return False
    try:
        named = read_mapping(bundle / "manifest.json", error=UsageError)["files"]
        ours = {*named, "manifest.json"}
    except (OSError, UsageError, KeyError, TypeError):
        return False
    return any(
        str(file.relative_to(bundle)) not in ours and "__pycache__" not in file.parts
        for file in bundle.rglob("*")
        if not file.is_dir()
    )


def find_run(word: str, root: Path) -> RunStore:
    """The run that a word names: a directory, a run's id, or a profile's name (its newest run).

    Raises:
        UsageError: there is none.
    """
    for path in (Path(word), root / word):
        if (path / _RUN).is_file():
            return RunStore(path)
    candidates = [path.parent for path in root.glob(f"*/{_RUN}") if path.parent.name.startswith(word)]
    if not candidates:
        known = ", ".join(sorted(path.parent.name for path in root.glob(f"*/{_RUN}"))) or "none"
        raise UsageError(f"no run {word!r}", hint=f"Runs in {root}: {known}.")
    return RunStore(max(candidates, key=lambda path: (path / _RUN).stat().st_mtime))
