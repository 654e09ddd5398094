"""Checks before any training: warnings about passes that do not help on the targets, and trials of later steps on the
untrained architecture."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from compress.core.artifacts import Artifact
from compress.core.plugins import call_named
from compress.core.terminal.progress import Progress
from compress.engine.making import context_of, prepare_torch
from compress.engine.resolve import Job
from compress.passes.table import PASSES, step_kind
from compress.planning.steps import architecture_source
from compress.store.cache import Cache


def target_warnings(job: Job) -> list[str]:
    """Return the warnings of the passes about the targets, once for each kind of pass."""
    profile = job.plan.profile
    hooks = dict.fromkeys(PASSES[spec.kind].target_warnings for spec in profile.specs)
    return [
        warning for hook in hooks if hook is not None for warning in call_named(hook, profile, job.targets)
    ]


def run_trials(job: Job, cache: Cache, progress: Progress, artifact_of: Callable[[str], Artifact]) -> None:
    """Run the trial of each step that has one and is not cached.

    Args:
        job: the job.
        cache: the store of finished steps.
        progress: receives progress of the trials.
        artifact_of: returns the artifact of a source step, making it if needed.

    Raises:
        ModelError, PassError: a step will not be possible.
    """
    for step in job.plan.steps:
        trial = step_kind(step.kind).trial
        if trial is None or cache.find(job.keys[step.name]) is not None:
            continue
        source = architecture_source(job.plan, step.inputs["model"])
        if source is None:
            continue
        with tempfile.TemporaryDirectory(prefix="compress-trial-") as folder:
            inputs = {"model": artifact_of(source)}
            context = context_of(step, job, inputs, cache, progress, out=Path(folder), work=Path(folder))
            prepare_torch(context, None)
            call_named(trial, context)
