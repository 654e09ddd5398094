"""Jobs for `runner.py`: their files written to a folder, done where the target is, their results read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.artifacts import Artifact
from compress.core.errors import TargetError
from compress.core.forms import Framework
from compress.encoding.inputs import Batch
from compress.measuring import outputs_scorer
from compress.measuring.transport import Elsewhere, Here, Transport
from compress.profile.device import is_ssh
from compress.runtimes import decoding, runner
from compress.targets.local import ResolvedTarget
from compress.targets.patience import Patience
from compress.tasks.base import Task


@dataclass(frozen=True)
class Job:
    """The body of a job, and what it does, for errors ('timing the model')."""

    body: dict[str, Any]
    purpose: str


class JobFolder:
    """A folder of jobs for one runtime, device and number of threads; `where` names them in errors.

    The jobs run here, or where `transport` takes them; `confinement` is part of each. `patience` is what timings may
    take to have the machine for themselves.
    """

    def __init__(
        self,
        folder: Path,
        runtime: str,
        device: str,
        threads: int,
        where: str,
        transport: Transport | None = None,
        confinement: Mapping[str, Any] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.where = where
        self.patience = patience or Patience()
        self._folder = folder
        self._common = {"device": device, "threads": threads, **(confinement or {})}
        self._transport = transport or Here(folder, runtime, threads, where)

    @classmethod
    def of_target(cls, folder: Path, target: ResolvedTarget, *, allow_code: bool = False) -> JobFolder:
        """Jobs for a resolved target; `allow_code` lets torch models run their code.

        Raises:
            TargetError: it is a device that cannot be reached.
        """
        spec = target.spec
        device = "cpu" if is_ssh(spec.device) else spec.device
        transport: Transport
        if target.device is None:
            transport = Here(folder, spec.runtime, spec.threads, target.label, allow_code=allow_code)
        else:
            transport = Elsewhere(target.device, spec.threads)
        return cls(
            folder,
            spec.runtime,
            device,
            spec.threads,
            target.label,
            transport,
            {} if spec.cores is None else {"cores": list(spec.cores)},
            target.patience,
        )

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
        bodies = [{**self._common, **job.body} for job in jobs]
        return self._transport.run(bodies, [job.purpose for job in jobs])

    def outputs(self, model: str, feeds: str, name: str = "outputs") -> tuple[Job, Path]:
        """The job that keeps a model's outputs as they are, and the file where they will stand as `outputs`."""
        return self._scoring(model, feeds, outputs_scorer, {}, name)

    def score(
        self, model: str, feeds: str, task: Task, described: Mapping[str, Any], name: str = "answers"
    ) -> tuple[Job, Path]:
        """The job that keeps of a model's outputs what the task scores, and the file where that will stand.

        Args:
            described: the `task.json` of the model.
        """
        return self._scoring(model, feeds, task.scorer, task.settings(described), name)

    def write(self, model: str, feeds: str, settings: dict[str, Any]) -> tuple[Job, Path]:
        """The job that lets a model answer prompts in words, and the file where these will stand as `written`."""
        return self._scoring(model, feeds, decoding, settings, "written")

    def _scoring(
        self, model: str, feeds: str, scorer: Any, settings: dict[str, Any], name: str
    ) -> tuple[Job, Path]:
        kept = self._folder / f"{name}.npz"
        body = {
            "kind": "score",
            "model": model,
            "feeds": feeds,
            "scorer": scorer.__file__,
            "settings": settings,
            "outputs": str(kept),
        }
        return Job(body, "scoring the model"), kept


def model_path(artifact: Artifact, target: ResolvedTarget) -> str:
    """What the target's runtime loads of an artifact: an ONNX file, or the directory of a torch model.

    Raises:
        TargetError: the runtime does not load this form.
    """
    framework = artifact.form.framework
    if (framework is Framework.TORCH) != (target.spec.runtime == "torch"):
        raise TargetError(
            f"the runtime {target.spec.runtime} cannot run this model ({artifact.form})", where=target.label
        )
    return str(artifact.path if framework is Framework.TORCH else artifact.model_file)
