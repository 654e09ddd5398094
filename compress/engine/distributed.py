"""Training steps in several processes, started by `torch.distributed.run` and killed with this process.

They communicate through files in an exchange folder: `task.json` (what to run), `progress.jsonl` (bars and messages of
the first process), `result.json`, and an `error-<rank>.json` for each process that failed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import compress.core.errors
from compress.core.disk.files import make_empty_folder, write_json
from compress.core.errors import CompressError
from compress.core.forms import Form
from compress.core.records import Curve
from compress.core.terminal.progress import Advance, Progress
from compress.engine.resolve import Job
from compress.planning.steps import PlannedStep
from compress.profile.schema import TrainSpec
from compress.runtimes.launching import TAIL_LINES, clean_environment, follow_parent
from compress.step import StepContext, StepResult
from compress.store.cache import Cache

TASK = "task.json"
PROGRESS = "progress.jsonl"
RESULT = "result.json"
ERRORS = "error-*.json"

_POLL_SECONDS = 0.1
_STOP_SECONDS = 10.0
_RENDEZVOUS_SECONDS = 2 * 3600
"""Timeout for the rendezvous of machines, which measure at their own speed before they reach the next step."""


def run_in_processes(step: PlannedStep, job: Job, context: StepContext, cache: Cache) -> StepResult:
    """Run a training step in the number of processes that the profile sets, and wait for its result.

    Each process loads the profile, the data and the inputs itself and runs the same pass; the first process of each
    machine fills `context.out`.

    Raises:
        CompressError: a process raised it or was killed; checkpoints are kept, so the run can be resumed.
    """
    folder = context.work / "processes"
    make_empty_folder(folder)
    source = job.loaded.source
    task = {
        "profile": str(Path(source.file).absolute()),
        "assignments": [word.removeprefix("--set ") for word in source.overridden.values()],
        "allow_code": job.allow_code,
        "step": step.name,
        "key": job.keys[step.name],
        "cache": str(cache.root.absolute()),
        "out": str(context.out.absolute()),
        "work": str(context.work.absolute()),
    }
    write_json(folder / TASK, task)
    train = job.plan.profile.train
    with (folder / "output").open("w+b") as output:
        exit_code = _wait(
            subprocess.Popen(
                follow_parent(launch_command(train, folder / TASK, job.keys[step.name])),
                env=workers_environment(train, job.numerics.threads),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            ),
            _ProgressRelay(folder / PROGRESS, context.progress),
        )
        if exit_code != 0:
            raise _failure(step.name, exit_code, folder, output)
    body = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    curves = tuple(Curve.model_validate(curve) for curve in body["curves"])
    return StepResult(Form.from_dict(body["form"]), body["facts"], curves)


def workers_environment(train: TrainSpec, threads: int) -> dict[str, str]:
    """Return the environment of the processes of this machine, which share `threads` threads."""
    environment = clean_environment(max(1, threads // train.processes))
    # Modules in the working folder must not shadow this package.
    paths = [str(Path(compress.__file__).parents[1]), *filter(None, [environment.get("PYTHONPATH")])]
    environment |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(paths)}
    if train.nodes == 1 and sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment


def launch_command(train: TrainSpec, task: Path, key: str) -> list[str]:
    """Return the command that starts the processes of this machine."""
    if train.nodes == 1:
        rendezvous = ["--standalone", "--local-addr", "127.0.0.1"]
    else:
        timeouts = f"read_timeout={_RENDEZVOUS_SECONDS},join_timeout={_RENDEZVOUS_SECONDS}"
        rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", str(train.rendezvous), "--rdzv-id", key]
        rendezvous += ["--rdzv-conf", timeouts]
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", str(train.nodes), "--nproc-per-node", str(train.processes), "--max-restarts", "0"),
        *rendezvous,
        *("-m", "compress.engine.worker", str(task)),
    ]


def _wait(child: subprocess.Popen[bytes], relay: _ProgressRelay) -> int:
    """Wait for the launcher and return its exit code; if this ends early, the processes are stopped."""
    try:
        with relay:
            while child.poll() is None:
                relay.forward()
                time.sleep(_POLL_SECONDS)
            relay.forward()
    finally:
        if child.poll() is None:
            # The launcher stops its processes on SIGTERM; after SIGKILL they end by themselves.
            child.terminate()
            try:
                child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
        child.wait()
    return child.returncode


class _ProgressRelay(ExitStack):
    """Shows the bars and messages that another process writes to a file."""

    def __init__(self, file: Path, progress: Progress) -> None:
        super().__init__()
        self._file = file
        self._progress = progress
        self._offset = 0
        self._bars: dict[int, tuple[ExitStack, Advance]] = {}

    def forward(self) -> None:
        """Show what was written since the last call."""
        if not self._file.exists():
            return
        with self._file.open("rb") as stream:
            stream.seek(self._offset)
            appended = stream.read()
        # The last line may be incomplete.
        complete = appended[: appended.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.splitlines():
            self._show(json.loads(line))

    def _show(self, event: dict[str, Any]) -> None:
        if "say" in event:
            self._progress.say(event["say"])
        elif "title" in event:
            stack = self.enter_context(ExitStack())
            bar = stack.enter_context(self._progress.bar(event["title"], event["total"]))
            self._bars[event["bar"]] = (stack, bar)
        elif "ended" in event:
            self._bars.pop(event["bar"])[0].close()
        else:
            self._bars[event["bar"]][1](event["steps"], event["note"])


def _failure(step: str, exit_code: int, folder: Path, output: IO[bytes]) -> CompressError:
    """Return the error for failed processes: that one was killed, else an error that one raised, else their output."""
    output.seek(0)
    text = output.read().decode(errors="replace")
    # The launcher itself stops the other processes with SIGTERM.
    kill_signals = {int(number) for number in re.findall(r"exitcode *: -(\d+)", text)} - {int(signal.SIGTERM)}
    if kill_signals:
        name = signal.Signals(min(kill_signals)).name
        return CompressError(
            f"a training process was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}",
            where=step,
            hint="The same command resumes from the last checkpoint.",
        )
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob(ERRORS))]
    # Processes that lost the connection to a failed one raise secondary errors, so errors of known kinds come first.
    for body in sorted(reports, key=lambda one: one["kind"] == "CompressError"):
        error_class = getattr(compress.core.errors, body["kind"])
        error: CompressError = error_class(body["message"], where=body["where"], hint=body["hint"])
        return error
    # The output of the processes precedes the launcher's report.
    worker_output = text.partition("torch.distributed.elastic")[0]
    lines = [line for line in worker_output.splitlines() if line.strip()]
    return CompressError(
        f"the training processes ended with exit code {exit_code}",
        where=step,
        hint="\n  ".join(lines[-TAIL_LINES:]) or None,
    )
