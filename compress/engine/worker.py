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
from compress.core.terminal.progress import Advance, Progress, Silent
from compress.engine.distributed import PROGRESS, RESULT
from compress.engine.making import context_of, run_pass
from compress.engine.resolve import Job, resolve_job
from compress.profile.load import load_profile
from compress.store.cache import Cache
from compress.training.distributed.world import STRATEGY_VARIABLE

_PATIENCE = timedelta(hours=12)
"""Timeout of collectives; long, since the launcher notices dead processes at once and slow ones must not fail."""

_WRITE_SECONDS = 0.1


def main(argv: list[str]) -> int:
    """Run the step of the task file; the first process of each machine writes the result."""
    _follow_parent()
    task = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    folder = Path(argv[0]).parent
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    try:
        with resource_errors(lambda: (Path(task["cache"]), Path(tempfile.gettempdir()))):
            job = resolve_job(
                load_profile(Path(task["profile"]), tuple(task["assignments"])), allow_code=task["allow_code"]
            )
            _join(job, local)
            _run(task, job, folder, local)
            # No process exits before all have received the last messages.
            distributed.barrier()
            distributed.destroy_process_group()
    except Exception as error:
        text = f"training in process {rank} failed: {type(error).__name__}: {error}"
        ours = error if isinstance(error, CompressError) else CompressError(text, where=task["step"])
        body = {"message": ours.message, "where": ours.where, "hint": ours.hint}
        write_json(folder / f"error-{rank}.json", {"kind": type(ours).__name__, **body})
        raise
    return 0


def _run(task: dict[str, Any], job: Job, folder: Path, local: int) -> None:
    step, cache = job.plan.step(task["step"]), Cache(Path(task["cache"]))
    if job.keys[step.name] != task["key"]:
        raise CompressError(
            "the profile, its data or the code was changed during the run",
            where=step.name,
            hint="Start the run again.",
        )
    inputs = {}
    for role, name in step.inputs.items():
        made = cache.find(job.keys[name])
        if made is None:
            raise CompressError("an input of the step is no longer in the cache", where=name)
        inputs[role] = made.artifact
    out, work = Path(task["out"]), Path(task["work"])
    if local > 0:
        # All processes compute the same result; only that of the first one is kept.
        out, work = folder / f"rank-{local}" / "out", folder / f"rank-{local}" / "work"
        make_folder(out)
        make_folder(work)
    with _progress(folder / PROGRESS, shown=local == 0) as progress:
        context = context_of(step, job, inputs, cache, progress, out=out, work=work)
        threads = max(1, job.numerics.threads // job.plan.profile.train.processes)
        result = run_pass(step, context, threads)
    if local == 0:
        curves = [curve.model_dump() for curve in result.curves]
        body = {"form": result.form.as_dict(), "facts": dict(result.facts), "curves": curves}
        write_json(folder / RESULT, body)


def _join(job: Job, local: int) -> None:
    """Join the process group: gloo for CPUs, NCCL between GPUs."""
    os.environ[STRATEGY_VARIABLE] = job.plan.profile.train.strategy
    if job.numerics.device == "cuda":
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"{job.plan.profile.train.processes} processes need a GPU each, and this machine has "
                f"{torch.cuda.device_count()}",
                where="train.processes",
                hint="Set CUDA_VISIBLE_DEVICES= in the environment to train on the CPU.",
            )
        torch.cuda.set_device(local)
        distributed.init_process_group("cpu:gloo,cuda:nccl", timeout=_PATIENCE)
    else:
        distributed.init_process_group("gloo", timeout=_PATIENCE)


def _follow_parent() -> None:
    """Request SIGKILL when the launcher dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(1)


@contextmanager
def _progress(file: Path, *, shown: bool) -> Iterator[Progress]:
    if not shown:
        yield Silent()
        return
    with file.open("a", encoding="utf-8", buffering=1) as stream:
        yield _Written(stream)


class _Written:
    """Progress written as lines of JSON for the waiting process."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._bars = 0

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        """Show a bar in the waiting process."""
        number = self._bars
        self._bars += 1
        self._write({"bar": number, "title": title, "total": total})
        waiting, words, written = 0, None, 0.0

        def advance(steps: int = 1, note: str | None = None) -> None:
            nonlocal waiting, words, written
            waiting, words = waiting + steps, note if note is not None else words
            if time.monotonic() - written >= _WRITE_SECONDS:
                self._write({"bar": number, "steps": waiting, "note": words})
                waiting, written = 0, time.monotonic()

        try:
            yield advance
        finally:
            self._write({"bar": number, "steps": waiting, "note": words})
            self._write({"bar": number, "ended": True})

    def say(self, message: str) -> None:
        """Show a line in the waiting process."""
        self._write({"say": message})

    def _write(self, event: dict[str, Any]) -> None:
        self._stream.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
