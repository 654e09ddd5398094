"""Jobs for `runner.py`: written to a folder, run on the target's machine, and their results read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compress.core.artifacts import Artifact
from compress.core.errors import TargetError
from compress.core.forms import Framework
from compress.encoding.inputs import Batch
from compress.measuring import outputs_scorer
from compress.measuring.transport import LocalTransport, RemoteTransport, Transport
from compress.profile.device import is_ssh
from compress.runtimes import decoding, runner
from compress.targets.local import ResolvedTarget
from compress.targets.patience import Patience
from compress.tasks.base import Task


@dataclass(frozen=True)
class Job:
    """The body of a job and its purpose ('timing the model'), for errors."""

    body: dict[str, Any]
    purpose: str


class JobFolder:
    """A folder of jobs for one runtime, device and number of threads; `where` names the target in errors.

    Jobs run on this machine or through `transport`; `resource_limits` is merged into each job. `patience` is the time
    that timings may spend waiting for a quiet machine, `cores` the number of cores that untimed jobs may use.
    """

    def __init__(
        self,
        folder: Path,
        runtime: str,
        device: str,
        threads: int,
        where: str,
        transport: Transport | None = None,
        resource_limits: Mapping[str, Any] | None = None,
        patience: Patience | None = None,
        cores: int = 1,
    ) -> None:
        self.where = where
        self.patience = patience or Patience()
        self.cores = max(cores, threads)
        self._folder = folder
        self._common = {"device": device, "threads": threads, **(resource_limits or {})}
        self._transport = transport or LocalTransport(folder, runtime, threads, where)

    @classmethod
    def of_target(cls, folder: Path, target: ResolvedTarget, *, allow_code: bool = False) -> JobFolder:
        """Create the folder for a resolved target; `allow_code` lets torch models run their code.

        Raises:
            TargetError: the target is a device that cannot be reached.
        """
        spec = target.spec
        device = "cpu" if is_ssh(spec.device) else spec.device
        transport: Transport
        if target.device is None:
            transport = LocalTransport(
                folder,
                spec.runtime,
                spec.threads,
                target.label,
                allow_code=allow_code,
                limit_s=spec.time_limit_s,
            )
        else:
            transport = RemoteTransport(target.device, spec.threads, spec.time_limit_s)
        return cls(
            folder,
            spec.runtime,
            device,
            spec.threads,
            target.label,
            transport,
            {} if spec.cores is None else {"cores": list(spec.cores)},
            target.patience,
            target.cores,
        )

    def feeds(self, name: str, batches: Sequence[Batch]) -> str:
        """Write batches to a file and return its path, for use in a job."""
        path = str(self._folder / f"{name}.npz")
        runner.write_batches(path, batches)
        return path

    def run(self, *jobs: Job) -> list[dict[str, Any]]:
        """Run jobs in parallel, each in its own process; return their results in order.

        Raises:
            TargetError: a job failed.
        """
        bodies = [{**self._common, **job.body} for job in jobs]
        return self._transport.run(bodies, [job.purpose for job in jobs])

    def outputs(self, model: str, feeds: str, name: str = "outputs") -> tuple[Job, Path]:
        """Return a job that stores a model's raw outputs, and the file that will contain them as `outputs`."""
        return self._scoring_job(model, feeds, outputs_scorer, {}, name)

    def score(
        self,
        model: str,
        feeds: str,
        task: Task,
        task_config: Mapping[str, Any],
        name: str = "answers",
        *,
        on_all_cores: bool = False,
    ) -> tuple[Job, Path]:
        """Return a job that reduces a model's outputs to what the task scores, and the file that will contain it.

        Args:
            model: path of the model.
            feeds: path of the batches.
            task: the task, which provides the scorer.
            task_config: the `task.json` of the model.
            name: stem of the output file.
            on_all_cores: use all cores of the target instead of its `threads`.
        """
        job, answers_path = self._scoring_job(model, feeds, task.scorer, task.settings(task_config), name)
        return (self._on_all_cores(job) if on_all_cores else job), answers_path

    def write(self, model: str, feeds: str, settings: dict[str, Any]) -> tuple[Job, Path]:
        """Return a job that generates answers to prompts, and the file that will contain their tokens as `written`."""
        job, answers_path = self._scoring_job(model, feeds, decoding, settings, "written")
        return self._on_all_cores(job), answers_path

    def _on_all_cores(self, job: Job) -> Job:
        return replace(job, body={**job.body, "threads": self.cores})

    def _scoring_job(
        self, model: str, feeds: str, scorer: Any, settings: dict[str, Any], name: str
    ) -> tuple[Job, Path]:
        answers_path = self._folder / f"{name}.npz"
        body = {
            "kind": "score",
            "model": model,
            "feeds": feeds,
            "scorer": scorer.__file__,
            "settings": settings,
            "outputs": str(answers_path),
        }
        return Job(body, "scoring the model"), answers_path


def model_path(artifact: Artifact, target: ResolvedTarget) -> str:
    """Return the path that the target's runtime loads: an ONNX file, or the directory of a torch model.

    Raises:
        TargetError: the runtime cannot load this form.
    """
    framework = artifact.form.framework
    if (framework is Framework.TORCH) != (target.spec.runtime == "torch"):
        raise TargetError(
            f"the runtime {target.spec.runtime} cannot run this model ({artifact.form})", where=target.label
        )
    return str(artifact.path if framework is Framework.TORCH else artifact.model_file)
