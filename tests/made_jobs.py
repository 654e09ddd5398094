"""A job whose artifacts lie in the cache already: what is tested of a run is the engine, not the passes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compress.core.artifacts import Artifact
from compress.core.numerics import local_numerics
from compress.data.sources import load
from compress.engine.resolve import Job, fingerprints
from compress.planning.steps import Plan, build_plan
from compress.profile.load import LoadedProfile
from compress.profile.schema import Profile
from compress.profile.yaml_lines import ProfileSource
from compress.store.cache import Cache
from compress.targets.local import resolve
from compress.tasks.base import task_of

Make = Callable[[Path], Artifact]


def profile_of(**changes: Any) -> Profile:
    """A profile of one pass on `data.csv`, measured as shortly as possible."""
    body = {
        "name": "made",
        "task": "text-classification",
        "data": {"path": "data.csv", "max_length": 16},
        "teacher": {"model": "teacher"},
        "passes": [{"quantize": {"bits": 8, "scheme": "dynamic"}}],
        "measure": {"examples": 8, "min_seconds": 0.05, "min_rounds": 4, "patience_s": 0},
    }
    return Profile.model_validate({**body, **changes})


def made_job(
    folder: Path, cache: Cache, profile: Profile, made: Mapping[str, Make], plan: Plan | None = None
) -> Job:
    """The job of a profile in `folder`, where each step that `made` names is found made; its key is its name."""
    plan = plan or build_plan(profile)
    cache.prepare()
    for name, make in made.items():
        out = folder / "making" / name
        shutil.rmtree(out, ignore_errors=True)
        make(out)
        cache.publish(name, out, seconds=1.0, curves=(), labels={}, parts={})
    names = [step.name for step in plan.steps]
    loaded = LoadedProfile(profile, ProfileSource("made.yaml", "", folder, {}, {}))
    return Job(
        loaded=loaded,
        plan=plan,
        keys={name: name for name in names},
        parts={name: {} for name in names},
        task=task_of(profile.task, profile.data),
        splits=load(profile.data, folder, profile.seed, profile.task),
        targets=tuple(resolve(target) for target in profile.targets if target.device == "cpu"),
        numerics=local_numerics(),
        allow_code=False,
        file_fingerprints=fingerprints(loaded, plan),
    )
