"""Execution of a step unless it is cached: lock, run the pass, check its result, seal, publish."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from compress.core.artifacts import Artifact, open_artifact, seal
from compress.core.disk.exhaustion import is_exhaustion
from compress.core.errors import CompressError, PassError, TargetError
from compress.core.forms import TEXTS
from compress.core.plugins import call_named
from compress.core.terminal.progress import Progress
from compress.engine.distributed import run_in_processes
from compress.engine.resolve import Job
from compress.generation.by_label import written_examples
from compress.passes.contract import UNLABELED
from compress.passes.table import step_kind
from compress.planning.keys import training_precision
from compress.planning.steps import PlannedStep
from compress.profile.timing_target import timing_target
from compress.step import StepContext, StepResult
from compress.store.cache import Cache, FinishedStep
from compress.targets.local import ResolvedTarget, resolve
from compress.tasks.base import TrainingData


def make_step(
    step: PlannedStep, job: Job, inputs: dict[str, Artifact], cache: Cache, progress: Progress
) -> tuple[FinishedStep, bool]:
    """Return a step from the cache or by running its pass, and whether it was cached.

    Raises:
        PassError: the result has another form than planned, or no parameter count.
    """
    key = job.keys[step.name]
    made = cache.find(key, verify_hashes=True)
    if made is not None:
        cache.mark_used(key)
        return made, True
    with cache.lock(key, progress, step.name):
        made = cache.find(key, verify_hashes=True)
        if made is not None:
            return made, True
        with cache.staging(key) as out:
            made = _make(step, job, inputs, cache, progress, out)
    return made, False


def _make(
    step: PlannedStep, job: Job, inputs: dict[str, Artifact], cache: Cache, progress: Progress, out: Path
) -> FinishedStep:
    """Run the pass into the directory `out`, seal and publish it."""
    key, started, started_at = job.keys[step.name], time.monotonic(), time.time()
    context = context_of(step, job, inputs, cache, progress, out=out, work=cache.work(key))
    if step_kind(step.kind).trains and job.plan.profile.train.world_size > 1:
        result = run_in_processes(step, job, context, cache)
    else:
        result = run_pass(step, context)
    check_result(step, result)
    try:
        parts = job.parts[step.name]
        job.check_unchanged(models=not parts.keys().isdisjoint(("model", "judges")), data="data" in parts)
        for artifact in inputs.values():
            open_artifact(artifact.path, verify_hashes=True)
    except CompressError:
        cache.discard_intermediate(key, started_at)
        raise
    seal(out, result.form, result.facts)
    return cache.publish(
        key,
        out,
        seconds=time.monotonic() - started,
        curves=result.curves,
        parts=job.parts[step.name],
        labels={"step": step.name, "profile": job.plan.profile.name, "form": str(result.form)},
    )


def context_of(
    step: PlannedStep,
    job: Job,
    inputs: dict[str, Artifact],
    cache: Cache,
    progress: Progress,
    *,
    out: Path,
    work: Path,
) -> StepContext:
    """Build the context of a step."""
    task, data = job.writer_training if step.is_generator else (job.task, _step_data(step, job, inputs))
    return StepContext(
        spec=step.spec,
        inputs=inputs,
        task=task,
        data=data,
        out=out,
        work=work,
        seed=seed_of(step, job),
        precision=job.numerics.precision(training_precision(step.spec)),
        device=job.numerics.device,
        timing_target=_timing_target(job),
        progress=progress,
        shared=cache.signals,
        base=job.loaded.source.base,
        allow_code=job.allow_code,
    )


def _step_data(step: PlannedStep, job: Job, inputs: Mapping[str, Artifact]) -> TrainingData:
    """Return the data that a step may read, as covered by its key."""
    kind, data = step_kind(step.kind), job.training_data
    if UNLABELED in inputs:
        return replace(data, unlabeled=written_examples(inputs[UNLABELED].path))
    unlabeled = data.unlabeled if kind.reads_unlabeled else None
    return replace(
        data, unlabeled=unlabeled, is_heldout_copy=job.is_heldout_copy if step.generates_texts else None
    )


def _timing_target(job: Job) -> ResolvedTarget:
    spec = timing_target(job.plan.profile.targets)
    resolved = next((target for target in job.targets if target.spec == spec), None)
    return resolved or replace(resolve(spec), patience=job.targets[0].patience)


def seed_of(step: PlannedStep, job: Job) -> int:
    """Return the seed of a step: that of its spec, else the profile's."""
    spec_seed: int | None = getattr(step.spec, "seed", None)
    return job.plan.profile.seed if spec_seed is None else spec_seed


def run_pass(step: PlannedStep, context: StepContext, threads: int | None = None) -> StepResult:
    """Import and run the code of a step with a number of threads; None uses all threads of this machine."""
    kind = step_kind(step.kind)
    if "torch" in kind.libraries:
        prepare_torch(context, threads)
    result = call_named(kind.run, context)
    assert isinstance(result, StepResult)
    if "torch" in kind.libraries:
        release_gpu_memory()
    return result


def prepare_torch(context: StepContext, threads: int | None) -> None:
    """Seed torch and set its number of threads, so that a step gives the same results whenever it runs."""
    import torch

    from compress.core.numerics import local_numerics

    if context.device == "cuda":
        _check_gpu()
    torch.set_num_threads(threads or local_numerics().threads)
    torch.manual_seed(context.seed)


def release_gpu_memory() -> None:
    """Release the GPU memory that torch caches, since the measuring processes need it."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()
        torch.cuda.empty_cache()


def _check_gpu() -> None:
    """Check early that torch can use the GPU.

    Raises:
        TargetError: it cannot.
    """
    import torch

    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        if is_exhaustion(error):
            raise
        raise TargetError(
            f"torch {torch.__version__} cannot train on the GPU of this machine: {str(error).splitlines()[0]}",
            hint="Set CUDA_VISIBLE_DEVICES= in the environment to train on the CPU.",
        ) from error


def check_result(step: PlannedStep, result: StepResult) -> None:
    """Check that the form of a result is the planned one, and that it has a parameter count.

    Fields of the step's `open_form_fields` are not compared: the number format that `auto` chooses, and the
    structure of an external model.

    Raises:
        PassError: it is not.
    """
    open_fields = {name: getattr(result.form, name) for name in step_kind(step.kind).open_form_fields}
    expected = step.form.with_fields(**open_fields)
    if result.form != expected:
        raise PassError(
            f"promised a model that is {step.form}, but produced one that is {result.form}", where=step.name
        )
    if result.form != TEXTS and not isinstance(result.facts.get("parameters"), int):
        raise PassError("gave no parameter count", where=step.name)
