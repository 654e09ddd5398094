"""Checks before any training: warnings about passes that do not help on the targets, and trials of later steps on the
untrained architecture."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from compress.core.artifacts import Artifact
from compress.core.plugins import call
from compress.core.terminal.progress import Progress
from compress.engine.making import context_of, prepare_torch
from compress.engine.resolve import Job
from compress.passes.table import PASSES, step_kind
from compress.planning.steps import untrained
from compress.store.cache import Cache


def target_warnings(job: Job) -> list[str]:
    """Return the warnings of the passes about the targets, once for each kind of pass."""
    profile = job.plan.profile
    named = dict.fromkeys(PASSES[spec.kind].target_warnings for spec in profile.specs)
    return [why for target in named if target is not None for why in call(target, profile, job.targets)]


def try_untrained(job: Job, cache: Cache, progress: Progress, made: Callable[[str], Artifact]) -> None:
    """Run the trial of each step that has one and is not cached.

    Args:
        job: the job.
        cache: the store of finished steps.
        progress: receives progress of the trials.
        made: returns the artifact of a source step, making it if needed.

    Raises:
        ModelError, PassError: a step will not be possible.
    """
    for step in job.plan.steps:
        trial = step_kind(step.kind).trial
        if trial is None or cache.find(job.keys[step.name]) is not None:
            continue
        source = untrained(job.plan, step.inputs["model"])
        if source is None:
            continue
        with tempfile.TemporaryDirectory(prefix="compress-trial-") as folder:
            inputs = {"model": made(source)}
            context = context_of(step, job, inputs, cache, progress, out=Path(folder), work=Path(folder))
            prepare_torch(context, None)
            call(trial, context)
