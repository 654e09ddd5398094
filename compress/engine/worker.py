"""One process of a distributed training step: `torch.distributed.run ... -m compress.engine.worker TASK`."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from compress.core.disk.exhaustion import resource_errors
from compress.core.disk.files import make_folder, write_json
from compress.core.errors import CompressError, UsageError
from compress.core.terminal.progress import Advance, Progress, SilentProgress
from compress.engine.distributed import PROGRESS, RESULT
from compress.engine.making import context_of, run_pass
from compress.engine.resolve import Job, resolve_job
from compress.profile.load import load_profile
from compress.store.cache import Cache
from compress.training.distributed.world import STRATEGY_VARIABLE

_COLLECTIVE_TIMEOUT = timedelta(hours=12)
"""Timeout of collectives; long, since the launcher notices dead processes at once and slow ones must not fail."""

_WRITE_SECONDS = 0.1


def main(argv: list[str]) -> int:
    """Run the step of the task file; the first process of each machine writes the result."""
    _follow_parent()
    task = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    folder = Path(argv[0]).parent
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    try:
        with resource_errors(lambda: (Path(task["cache"]), Path(tempfile.gettempdir()))):
            job = resolve_job(
                load_profile(Path(task["profile"]), tuple(task["assignments"])), allow_code=task["allow_code"]
            )
            _join(job, local_rank)
            _run(task, job, folder, local_rank)
            # No process exits before all have received the last messages.
            distributed.barrier()
            distributed.destroy_process_group()
    except Exception as error:
        text = f"training in process {rank} failed: {type(error).__name__}: {error}"
        reported = error if isinstance(error, CompressError) else CompressError(text, where=task["step"])
        body = {"message": reported.message, "where": reported.where, "hint": reported.hint}
        write_json(folder / f"error-{rank}.json", {"kind": type(reported).__name__, **body})
        raise
    return 0


def _run(task: dict[str, Any], job: Job, folder: Path, local_rank: int) -> None:
    step, cache = job.plan.step(task["step"]), Cache(Path(task["cache"]))
    if job.keys[step.name] != task["key"]:
        raise CompressError(
            "the profile, its data or the code was changed during the run",
            where=step.name,
            hint="Start the run again.",
        )
    inputs = {}
    for role, name in step.inputs.items():
        cached = cache.find(job.keys[name])
        if cached is None:
            raise CompressError("an input of the step is no longer in the cache", where=name)
        inputs[role] = cached.artifact
    out, work = Path(task["out"]), Path(task["work"])
    if local_rank > 0:
        # All processes compute the same result; only that of the first one is kept.
        out, work = folder / f"rank-{local_rank}" / "out", folder / f"rank-{local_rank}" / "work"
        make_folder(out)
        make_folder(work)
    with _progress(folder / PROGRESS, enabled=local_rank == 0) as progress:
        context = context_of(step, job, inputs, cache, progress, out=out, work=work)
        threads = max(1, job.numerics.threads // job.plan.profile.train.processes)
        result = run_pass(step, context, threads)
    if local_rank == 0:
        curves = [curve.model_dump() for curve in result.curves]
        body = {"form": result.form.as_dict(), "facts": dict(result.facts), "curves": curves}
        write_json(folder / RESULT, body)


def _join(job: Job, local_rank: int) -> None:
    """Join the process group: gloo for CPUs, NCCL between GPUs."""
    os.environ[STRATEGY_VARIABLE] = job.plan.profile.train.strategy
    if job.numerics.device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"{job.plan.profile.train.processes} processes need a GPU each, and this machine has "
                f"{torch.cuda.device_count()}",
                where="train.processes",
                hint="Set CUDA_VISIBLE_DEVICES= in the environment to train on the CPU.",
            )
        torch.cuda.set_device(local_rank)
        distributed.init_process_group("cpu:gloo,cuda:nccl", timeout=_COLLECTIVE_TIMEOUT)
    else:
        distributed.init_process_group("gloo", timeout=_COLLECTIVE_TIMEOUT)


def _follow_parent() -> None:
    """Request SIGKILL when the launcher dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(1)


@contextmanager
def _progress(file: Path, *, enabled: bool) -> Iterator[Progress]:
    if not enabled:
        yield SilentProgress()
        return
    with file.open("a", encoding="utf-8", buffering=1) as stream:
        yield _JsonProgress(stream)


class _JsonProgress:
    """Progress written as lines of JSON for the waiting process."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._bar_count = 0

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        """Show a bar in the waiting process."""
        bar_id = self._bar_count
        self._bar_count += 1
        self._write({"bar": bar_id, "title": title, "total": total})
        pending_steps, last_note, last_write = 0, None, 0.0

        def advance(steps: int = 1, note: str | None = None) -> None:
            nonlocal pending_steps, last_note, last_write
            pending_steps, last_note = pending_steps + steps, note if note is not None else last_note
            if time.monotonic() - last_write >= _WRITE_SECONDS:
                self._write({"bar": bar_id, "steps": pending_steps, "note": last_note})
                pending_steps, last_write = 0, time.monotonic()

        try:
            yield advance
        finally:
            self._write({"bar": bar_id, "steps": pending_steps, "note": last_note})
            self._write({"bar": bar_id, "ended": True})

    def say(self, message: str) -> None:
        """Show a line in the waiting process."""
        self._write({"say": message})

    def _write(self, event: dict[str, Any]) -> None:
        self._stream.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
