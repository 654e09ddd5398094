"""Kill a run of a tiny job at random moments, or let random system calls of it and its children fail; start it again
each time, and compare what it reports at last with an undisturbed run.

    python -m tests.killing kills [--count 50] [--seed 0]
    python -m tests.killing calls [--count 500] [--seed 0]     (needs strace)

One process imports everything, and the runs are forks of it: what is killed is work, not imports.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from compress.store.checking import check, entry_paths
from tests.injection import CODES, Job, ended, import_everything, in_fork, leave, print_to, tail

SYSTEM_CALLS = (
    "openat",
    "read",
    "write",
    "pwrite64",
    "fsync",
    "rename",
    "unlink",
    "mkdir",
    "rmdir",
    "ftruncate",
    "mmap",
)
ERRORS = ("ENOSPC", "EIO", "EACCES", "EMFILE", "ENOMEM")
MOST = 400
"""Which call of its kind, at most, of each process."""


class Disturbed:
    """A job, and what an undisturbed run of it reports."""

    def __init__(self, base: Path) -> None:
        self.logs = base / "logs"
        self.logs.mkdir(parents=True)
        self.job = Job(base / "one")
        self.job.write()
        import_everything()
        began = time.monotonic()
        self.finish("undisturbed")
        self.seconds = time.monotonic() - began
        self.expected = self.job.rows()
        self.faults: list[str] = []
        self.codes: Counter[int] = Counter()
        self.finished = 0
        self.begin_anew()

    def begin_anew(self) -> None:
        for name in ("cache", "runs", "reports"):
            shutil.rmtree(self.job.base / name, ignore_errors=True)

    def start(self) -> int:
        """A run in a fork, which waits for SIGCONT; its process id."""
        pid = os.fork()
        if pid == 0:
            print_to(self.logs / "disturbed")
            os.kill(os.getpid(), signal.SIGSTOP)
            with self.job.here():
                leave(self.job.run())
        os.waitpid(pid, os.WUNTRACED)
        return pid

    def finish(self, log: str = "last") -> None:
        """Run to the end."""
        with self.job.here():
            code = in_fork(self.job.run, self.logs / log)
        assert code in (0, 3), f"{code}: {tail(self.logs / log)}"

    def look(self, title: str, code: int) -> None:
        """At what a disturbed run left; where it was finished, at its rows, and the next one begins anew."""
        self.codes[code] += 1
        if code not in (*CODES, -signal.SIGKILL):
            self.fault(f"{title}: exit code {code}: {tail(self.logs / 'disturbed')}")
        found = [
            one
            for kind, path in entry_paths(self.job.cache, self.job.base / "runs")
            if (one := check(kind, path))
        ]
        if found:
            self.fault(f"{title}: half made: {found}")
        if code in (0, 3):
            self.compare(title)

    def compare(self, title: str) -> None:
        self.finished += 1
        if self.job.rows() != self.expected:
            self.fault(f"{title}: other rows: {self.job.rows()}")
        self.begin_anew()

    def fault(self, words: str) -> None:
        print(words, flush=True)
        self.faults.append(words)


def kills(run: Disturbed, count: int, chance: random.Random) -> int:
    """Kill runs with SIGKILL; how many were."""
    killed = 0
    while killed < count:
        moment = chance.uniform(0.0, max(1.0, 4 * run.seconds / count))
        pid = run.start()
        os.kill(pid, signal.SIGCONT)
        until = time.monotonic() + moment
        while (
            time.monotonic() < until
            and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ):
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        killed += code == -signal.SIGKILL
        run.look(f"kill {killed} after {moment:.2f} s", code)
        print(
            f"{time.strftime('%H:%M:%S')} {killed} kills, {run.finished} runs came to their end", flush=True
        )
    return killed


def calls(run: Disturbed, count: int, chance: random.Random) -> int:
    """Let random system calls of runs and their children fail; how many were tried."""
    for number in range(1, count + 1):
        name, error = chance.choice(SYSTEM_CALLS), chance.choice(ERRORS)
        which = int(MOST ** chance.random())
        title = f"trial {number}: {name} number {which} with {error}"
        pid = run.start()
        traced = f"inject={name}:error={error}:when={which}"
        strace = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={name}", "-e", traced, "-p", str(pid)],
            stderr=subprocess.DEVNULL,
        )
        while "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text() and strace.poll() is None:
            time.sleep(0.01)
        os.kill(pid, signal.SIGCONT)
        run.look(title, ended(pid))
        strace.wait()
        print(f"{time.strftime('%H:%M:%S')} {title}: exit codes so far {dict(run.codes)}", flush=True)
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["kills", "calls"])
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ways: dict[str, tuple[Callable[[Disturbed, int, random.Random], int], int]] = {
        "kills": (kills, 50),
        "calls": (calls, 500),
    }
    disturb, usual = ways[options.what]
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=in_memory, prefix="killing-") as base:
        run = Disturbed(Path(base) / "here")
        tried = disturb(run, options.count or usual, random.Random(options.seed))
        run.finish()
        run.compare("at last")
    print(
        f"{tried} {options.what}, exit codes {dict(run.codes)}, {run.finished} runs came to their end, "
        f"{len(run.faults)} faults"
    )
    return 1 if run.faults else 0


if __name__ == "__main__":
    sys.exit(main())
