"""Let every single call of `core/disk/files.py` fail in turn, as SQLite is tested: a run of a tiny job dies of it, the
next one finishes, and its rows are those of a run that nobody disturbed.

    python -m tests.injection [--every 1] [--from 1] [--to 1000] [--seconds 3600]

One process imports everything. It forks the run that is to be disturbed; at each call that run stands still, what lies
on the disk is kept, and for each error a fork of it goes on with that call failing. A run that a failing call has ended
leaves some state on the disk; where no other call left that state, the process that imported everything forks the next
run. Steps that the disturbed run had not begun are found made by the undisturbed one, as if another run had made them
meanwhile, and measurements too: what is looked at is the step that was interrupted.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from compress.core.disk import files
from compress.core.disk.files import is_temporary, read_sealed, write_sealed
from compress.passes.table import PASSES, step_kind
from compress.planning.code import code_digest
from compress.store.checking import check, entry_paths
from tests.jobs import write_job

ERRNOS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE)
CALLS = ("open", "write", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "ftruncate")
_UNLIKE = ("manifest.json", "model.ort", "README.md")
STABLE = ("step", "role", "score", "retention", "size_mb", "parameters", "macs", "artifact")
CODES = (0, 2, 3, 4, 5, 6, 7, 130)
"""Exit codes of the table, without 1."""
WENT_ON = 100
"""Stands for the exit code of a run that a failing call did not end."""
PATIENCE_S = 1200
_CALLS_OF_AN_ENDING = 150
"""A run that is ending makes fewer calls: its record, its report, what it removes."""

SMALLEST = {
    "data": {"path": "data.csv", "max_length": 16},
    "teacher": {"model": "teacher", "finetune": {"epochs": 1, "learning_rate": 3e-3, "batch_size": 16}},
    "passes": [
        {"distill": {"student": {"layers": 1, "hidden_size": 16}, "epochs": 1, "learning_rate": 5e-3}},
        {"prune": {"remove": {"feed_forward": 0.25}, "recover": {"epochs": 1, "learning_rate": 1e-3}}},
        {"quantize": {"bits": 8, "scheme": "static"}},
        {"export": {"formats": ["onnx", "ort"], "golden": 4}},
    ],
    "targets": [{"threads": 1, "batch_sizes": [1]}],
    "measure": {"examples": 8, "min_seconds": 0.05, "min_rounds": 4, "patience_s": 0},
}
"""A profile with one of each kind of step."""


@dataclass
class Found:
    """What came of it."""

    calls: Counter[str] = field(default_factory=Counter)
    trials: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    states: int = 0
    faults: list[str] = field(default_factory=list)

    def words(self) -> str:
        return (
            f"{sum(self.calls.values())} calls ({dict(self.calls)}), {self.trials} trials, exit codes "
            f"{dict(sorted(self.codes.items()))}, {self.states} distinct states resumed, {len(self.faults)} faults"
        )


class Job:
    """A job below one folder, with its cache, its working folder and its temporary files."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.profile = base / "job" / "tiny.yaml"
        self.cache = base / "cache"

    def write(self, **changes: Any) -> None:
        write_job(self.base / "job", **{**SMALLEST, **changes})
        (self.base / "tmp").mkdir()

    @contextmanager
    def here(self) -> Iterator[None]:
        """Work in it."""
        before = os.getcwd(), dict(os.environ)
        os.chdir(self.base)
        os.environ.update(COMPRESS_CACHE=str(self.cache), TMPDIR=str(self.base / "tmp"))
        tempfile.tempdir = None
        try:
            yield
        finally:
            os.chdir(before[0])
            os.environ.clear()
            os.environ.update(before[1])
            tempfile.tempdir = None

    def run(self) -> int:
        """`compress run` in this process; its exit code."""
        from compress.cli.root import main

        try:
            main(["run", str(self.profile), "--quiet"])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    def rows(self) -> list[dict[str, Any]]:
        """What is not timed of the report's rows; that of an artifact is its digest too."""
        (report,) = (self.base / "reports").glob("*/report.json")
        rows = json.loads(report.read_text())["rows"]
        made = [path for path in (self.cache / "artifacts").iterdir() if not is_temporary(path)]
        digests = {path.name: self._digest(path) for path in made}
        return [{**{name: row[name] for name in STABLE}, "digests": digests} for row in rows]

    def _digest(self, artifact: Path) -> dict[str, str]:
        """The hashes of its files, but those that two undisturbed runs make unlike: a manifest holds a probe's timings,
        onnxruntime does not write its own format the same way twice, and the card says how large that is."""
        from compress.core.artifacts import open_artifact

        found = open_artifact(artifact, verify_hashes=True).files
        return {name: sha for name, (sha, _) in found.items() if name not in _UNLIKE}

    def half_made(self) -> list[str]:
        """What a finished run left that is damaged, or that stands for something it is not."""
        found = [
            str(one)
            for kind, path in entry_paths(self.cache, self.base / "runs")
            if (one := check(kind, path))
        ]
        found += [f"left: {path}" for name in ("work", "making") for path in visible(self.cache / name)]
        return found

    def state(self) -> str:
        """What lies there, without what is timed or told to people; what has a temporary name is nothing."""
        digest = hashlib.sha256()
        for path in sorted(visible(self.base)):
            if path.is_file():
                name = str(path.relative_to(self.base))
                timed = path.suffix == ".json" and ("records" in name or path.name == "run.json")
                # Its files name the error and the seconds, and are written anew whatever they say.
                told = name.startswith("reports/")
                locks = path.suffix == ".lock" or name.startswith(("tmp/", "cache/using/"))
                content = b"" if timed or told or locks else path.read_bytes()
                digest.update(name.encode() * (not locks) + hashlib.sha256(content).digest())
        return digest.hexdigest()


def visible(folder: Path) -> Iterator[Path]:
    """All below a folder that has no temporary name, nor lies in what has."""
    for path in folder.glob("*"):
        if not is_temporary(path):
            yield path
            if path.is_dir() and not path.is_symlink():
                yield from visible(path)


class Failing:
    """Stands for `os` in `compress.core.disk.files`: `at_call` is called before each call that is counted."""

    def __init__(self, at_call: Callable[[str], None]) -> None:
        self._at_call = at_call

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def counted(*arguments: Any, **options: Any) -> Any:
            self._at_call(name)
            return real(*arguments, **options)

        return counted


def in_fork(work: Callable[[], int], log: Path) -> int:
    """The exit code of some work in a fork of this process; -9 where it hung."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            print_to(log)
            code = work()
        except BaseException:  # noqa: BLE001 - whatever it is, it is told by its code and its log
            traceback.print_exc()
        finally:
            leave(code)
    return ended(pid)


def print_to(log: Path) -> None:
    """What this process prints goes to a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def leave(code: int) -> None:
    """End this process at once: what its parent holds is not to be cleaned up."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ended(pid: int) -> int:
    """The exit code of a child; -9 where it hung."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -9


def tail(log: Path) -> str:
    """The end of what a process printed."""
    return log.read_text(errors="replace")[-600:]


def swallowed() -> bool:
    """Whether the call is made where its failing changes nothing: in the removal of what was given up."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "discard" and frame.f_code.co_filename == files.__file__:
            return True
        frame = frame.f_back
    return False


class _Injected(Exception):
    """The call fails, in this fork."""

    def __init__(self, error: int) -> None:
        super().__init__(error)
        self.error = error


class _Patience:
    """Ends a process that goes on with its work though a call of it has failed."""

    def __init__(self) -> None:
        self._left = _CALLS_OF_AN_ENDING

    def __call__(self, name: str) -> None:
        self._left -= 1
        if self._left == 0:
            leave(WENT_ON)


class Kept:
    """What lies in a folder now, by hard links: what is open in this process is the same file when it is put back."""

    def __init__(self, folder: Path, kept: Path) -> None:
        self._folder, self._kept = folder, kept
        # The only files that are written in place.
        self._written = {path: path.read_bytes() for path in folder.rglob("*.part")}
        shutil.copytree(folder, kept, symlinks=True, copy_function=os.link)

    def put_back(self) -> None:
        for parent, names, found in os.walk(self._folder):
            inside = Path(parent).relative_to(self._folder)
            for name in found:
                old, now = self._kept / inside / name, Path(parent, name)
                if not (old.is_file() and now.is_file() and old.samefile(now)):
                    now.unlink(missing_ok=True)
            for name in [one for one in names if not (self._kept / inside / one).is_dir()]:
                # Children of a run that has ended may still be ending, and write.
                while Path(parent, name).exists():
                    shutil.rmtree(Path(parent, name), ignore_errors=True)
                names.remove(name)
        for parent, names, found in os.walk(self._kept):
            inside = self._folder / Path(parent).relative_to(self._kept)
            for name in names:
                (inside / name).mkdir(exist_ok=True)
            for name in found:
                if not (inside / name).exists():
                    os.link(Path(parent, name), inside / name)
        for path, content in self._written.items():
            path.write_bytes(content)

    def forget(self) -> None:
        shutil.rmtree(self._kept)


class Harness:
    """The whole of it, for one job below `base`, which is best in memory.

    Args:
        every: try each so manieth call.
        first: begin at this call.
        last: end at this call.
        seconds: try no further call after so long.
        to_the_end: let a run that a failing call did not end go on to its end, which costs a whole run each time.
        changes: sections of the profile.
    """

    def __init__(
        self,
        base: Path,
        *,
        every: int = 1,
        first: int = 1,
        last: int = 10**9,
        seconds: float = 1e9,
        to_the_end: bool = False,
        **changes: Any,
    ) -> None:
        self.base, self.every, self.to_the_end = base, every, to_the_end
        self.first, self.last = first, last
        self.until = time.monotonic() + seconds
        self.found = Found()
        self.seen: set[str] = set()
        self._told = 0
        self.logs = base / "logs"
        self.logs.mkdir(parents=True)
        self.whole, self.job = Job(base / "whole"), Job(base / "one")
        self.job.write(**changes)

    def go(self) -> Found:
        """Try the calls, on one core: a fork has none of the threads with which its parent has trained."""
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})
        import_everything()
        with self.job.here():
            code = in_fork(self._first_run, self.logs / "undisturbed")
        assert code in (0, 3), tail(self.logs / "undisturbed")
        for file in (self.job.cache / "measurements").glob("*.json"):
            call_quiet(file)
        self._import_the_rest()
        shutil.copytree(self.job.base, self.whole.base, symlinks=True)
        self.expected = self.job.rows()
        for name in ("cache", "runs", "reports"):
            shutil.rmtree(self.job.base / name)
        asked, answered = os.pipe(), os.pipe()
        runner = os.fork()
        if runner == 0:
            self._asks, self._answers = asked[1], answered[0]
            try:
                self._disturbed()
            except BaseException:  # noqa: BLE001 - told by the code
                traceback.print_exc()
            leave(99)
        os.close(asked[1])
        os.close(answered[0])
        while os.read(asked[0], 1):
            with self.job.here():
                code = in_fork(self.job.run, self.logs / "next")
            os.write(answered[1], str(code).encode().ljust(4))
        assert os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1]) == 0
        body = json.loads((self.base / "found.json").read_text())
        counts = {
            "calls": Counter(body["calls"]),
            "codes": Counter({int(k): v for k, v in body["codes"].items()}),
        }
        return Found(**{**body, **counts})

    def _first_run(self) -> int:
        """A run that nobody disturbs, and the names of the modules that it came to need."""
        code = self.job.run()
        (self.base / "modules.json").write_text(json.dumps(sorted(sys.modules)))
        return code

    def _import_the_rest(self) -> None:
        """Else each fork would import the same again."""
        for name in json.loads((self.base / "modules.json").read_text()):
            if name not in sys.modules and not name.startswith("__"):
                with suppress(Exception):  # some modules are made, not imported
                    importlib.import_module(name)
        for module in step_modules():
            code_digest(module)

    def _disturbed(self) -> None:
        """The run whose calls are tried, and the forks of it in which one of them fails: each ends here."""
        own = os.getpid()
        with self.job.here():
            files.os = Failing(self._try)  # type: ignore[attr-defined]
            code = self.job.run()
            if os.getpid() != own:
                leave(code)
            files.os = os  # type: ignore[attr-defined]
        if code not in (0, 3) or self.job.rows() != self.expected:
            self._fault(f"the run whose calls were tried ended with {code}, or with other rows")
        self._note()
        leave(0)

    def _note(self) -> None:
        (self.base / "found.json").write_text(json.dumps(vars(self.found), indent=1))

    def _fault(self, words: str) -> None:
        print(words, flush=True)
        self.found.faults.append(words)
        self._note()

    def _try(self, name: str) -> None:
        """At a call: let it fail in forks, one for each error, and look at what each leaves."""
        self.found.calls[name] += 1
        number, harmless = sum(self.found.calls.values()), swallowed()
        rare = self.every * (20 if harmless else 1)
        tried = self.first <= number <= self.last and (number - self.first) % rare == 0
        if not tried or time.monotonic() > self.until:
            return
        if self.found.trials >= self._told + 20:
            self._told = self.found.trials
            print(f"{time.strftime('%H:%M:%S')} call {number}: {self.found.words()}", flush=True)
            self._note()
        counting, files.os = files.os, os  # type: ignore[attr-defined]
        try:
            # Looking reads through the same module; that is not counted.
            self._fail(name, number, harmless)
            files.os = counting  # type: ignore[attr-defined]
        except _Injected as injected:
            raise OSError(injected.error, os.strerror(injected.error)) from None
        except Exception:  # noqa: BLE001 - the run itself must not take it for its own
            traceback.print_exc()
            leave(98)

    def _fail(self, name: str, number: int, harmless: bool) -> None:
        kept = Kept(self.job.base, self.base / "kept")
        for error in ERRNOS[: 1 if harmless else None]:
            title = f"call {number} ({name}) with {errno.errorcode[error]}"
            pid = os.fork()
            if pid == 0:
                print_to(self.logs / "disturbed")
                files.os = os if self.to_the_end else Failing(_Patience())  # type: ignore[attr-defined]
                raise _Injected(error)
            self._look(title, ended(pid))
            kept.put_back()
        kept.forget()

    def _look(self, title: str, code: int) -> None:
        """At what a run that has failed left, and at what the next one makes of it."""
        self.found.trials += 1
        self.found.codes[code] += 1
        if code == WENT_ON:
            return
        if code not in CODES:
            self._fault(f"{title}: exit code {code}: {tail(self.logs / 'disturbed')}")
        state = self.job.state()
        if state in self.seen:
            return
        self.seen.add(state)
        self.found.states += 1
        self._provide()
        os.write(self._asks, b"r")
        code = int(os.read(self._answers, 4))
        if code not in (0, 3):
            self._fault(f"{title}: the next run ended with exit code {code}: {tail(self.logs / 'next')}")
            return
        rows = self.job.rows()
        if rows != self.expected:
            self._fault(f"{title}: other rows: {_difference(rows, self.expected)}")
        if half := self.job.half_made():
            self._fault(f"{title}: half made: {half}")

    def _provide(self) -> None:
        """What the undisturbed run made, but the step that was interrupted; and no lock is held any more, as the run
        that stands still holds those of the one that has ended."""
        for lock in [*self.job.base.rglob("*.lock")]:
            lock.unlink()
        there, whole = self.job.cache, self.whole.cache
        for name in ("artifacts", "steps", "measurements"):
            (there / name).mkdir(parents=True, exist_ok=True)
        notes = sorted(
            (whole / "steps").glob("*.json"), key=lambda file: json.loads(file.read_text())["made"]
        )
        missing = [file.stem for file in notes if not (there / "artifacts" / file.stem).is_dir()]
        for key in missing[1:]:
            shutil.copytree(whole / "artifacts" / key, there / "artifacts" / key)
            shutil.copy2(whole / "steps" / f"{key}.json", there / "steps")
        for file in (whole / "measurements").glob("*.json"):
            if not (there / "measurements" / file.name).exists():
                shutil.copy2(file, there / "measurements")
            call_quiet(there / "measurements" / file.name)


def call_quiet(file: Path) -> None:
    """Say of a measurement that nothing disturbed it, or the next run would time it again; a damaged one stays so."""
    with suppress(files.DamagedFileError):
        write_sealed(file, _called_quiet(read_sealed(file)))


def _called_quiet(said: Any) -> Any:
    if isinstance(said, dict):
        return {name: False if name == "disturbed" else _called_quiet(each) for name, each in said.items()}
    return [_called_quiet(each) for each in said] if isinstance(said, list) else said


def _difference(rows: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]) -> str:
    if len(rows) != len(expected):
        return f"{len(rows)} rows, not {len(expected)}"
    pairs = [(a, b, name) for a, b in zip(rows, expected, strict=True) for name in a if a[name] != b[name]]
    return "; ".join(f"{a['step']}.{name}: {a[name]} is not {b[name]}" for a, b, name in pairs[:3])


def import_everything() -> None:
    """All that a run imports, so that forks need not; nothing runs yet, so there is one thread."""
    import torch

    torch.set_num_threads(1)
    for name in (
        "cli",
        "engine.running",
        "reporting.render.html",
        "reporting.render.terminal",
        "core.terminal.console",
    ):
        importlib.import_module(f"compress.{name}")
    for module in step_modules():
        importlib.import_module(module)


def step_modules() -> list[str]:
    """The modules that run steps."""
    names = ("source", "finetune", "lower", *(step for kind in PASSES.values() for step in kind.steps))
    return [step_kind(name).run.partition(":")[0] for name in names]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--from", dest="first", type=int, default=1)
    parser.add_argument("--to", dest="last", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--to-the-end", action="store_true")
    options = parser.parse_args()
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=in_memory, prefix="injection-") as base:
        found = Harness(Path(base) / "here", **vars(options)).go()
    print(found.words())
    print("\n".join(found.faults))
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
