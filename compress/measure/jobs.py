"""Jobs for `runner.py`: written to a folder, done in child processes, their results read back."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.artifacts import Artifact, write_json
from compress.errors import TargetError
from compress.forms import Framework
from compress.runtimes import runner
from compress.runtimes.launching import run_all, runtime_command
from compress.targets.local import ResolvedTarget
from compress.tasks.base import Batch


@dataclass(frozen=True)
class Job:
    """The body of a job, and what it does, for errors ('timing the model')."""

    body: dict[str, Any]
    purpose: str


class JobFolder:
    """A folder of jobs for one runtime, device and number of threads; `where` names them in errors."""

    def __init__(self, folder: Path, runtime: str, device: str, threads: int, where: str) -> None:
        self._folder = folder
        self._runtime = runtime
        self._device = device
        self._threads = threads
        self._where = where

    @classmethod
    def of_target(cls, folder: Path, target: ResolvedTarget) -> JobFolder:
        """Jobs for a resolved target."""
        spec = target.spec
        return cls(folder, spec.runtime, spec.device, spec.threads, target.label)

    def feeds(self, name: str, batches: Sequence[Batch]) -> str:
        """Write batches; the path that a job names."""
        path = str(self._folder / f"{name}.npz")
        runner.write_batches(path, batches)
        return path

    def run(self, *jobs: Job) -> list[dict[str, Any]]:
        """Do jobs at the same time, each in a process of its own; their results in order.

        Raises:
            TargetError: a job failed.
        """
        made, commands = [], []
        for job in jobs:
            stem = f"job{len(list(self._folder.glob('job*.json')))}"
            file, result = self._folder / f"{stem}.json", self._folder / f"{stem}.result"
            write_json(file, {"device": self._device, "threads": self._threads, **job.body})
            commands.append(runtime_command(self._runtime, file, result, self._threads, job.purpose))
            made.append(result)
        run_all(commands, self._where)
        return [json.loads(result.read_text(encoding="utf-8")) for result in made]

    def accuracy(self, model: str, feeds: str, name: str = "outputs") -> tuple[Job, Path]:
        """The job that computes a model's outputs, and the file that they will stand in."""
        outputs = self._folder / f"{name}.npy"
        body = {"kind": "accuracy", "model": model, "feeds": feeds, "outputs": str(outputs)}
        return Job(body, "scoring the model"), outputs


def load_outputs(path: Path) -> NDArray[np.float32]:
    """Outputs (n, ...) that an accuracy job wrote."""
    outputs: NDArray[np.float32] = np.load(path, allow_pickle=False)
    return outputs


def model_path(artifact: Artifact, target: ResolvedTarget) -> str:
    """What the target's runtime loads of an artifact: an ONNX file, or the directory of a torch model.

    Raises:
        TargetError: the runtime does not load this form.
    """
    framework = artifact.form.framework
    if (framework is Framework.TORCH) != (target.spec.runtime == "torch"):
        raise TargetError(
            f"the runtime {target.spec.runtime} does not run this model ({artifact.form})", where=target.label
        )
    return str(artifact.path if framework is Framework.TORCH else artifact.model_file)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
