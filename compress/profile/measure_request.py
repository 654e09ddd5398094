"""The request of `compress measure` beside the model: the sections of a profile that measuring needs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from compress.core.errors import ProfileError, UsageError
from compress.core.spec import Seed, Spec
from compress.profile.faults import faults_of
from compress.profile.schema import MeasureSpec, Profile, TargetSpec, TaskData, TaskName
from compress.profile.yaml_lines import ProfileSource, override
from compress.tasks.table import task_names


class MeasureRequest(Spec):
    """Task, data, targets and how to measure; each section means what it means in a profile."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Names the run and the folder of its report."""
    task: TaskName
    """The kind of problem."""
    seed: Seed = 0
    """Seeds the splits and the choice of latency inputs."""
    data: TaskData
    """Where the examples come from."""
    targets: Annotated[tuple[TargetSpec, ...], Field(min_length=1)] = (TargetSpec(),)
    """Where the model is measured."""
    measure: MeasureSpec = MeasureSpec()
    """How long and on what to measure."""


def measure_sections(profile: Profile) -> dict[str, Any]:
    """Return the sections of a profile that measuring needs, without unset defaults, which may not fit the device."""
    return profile.model_dump(
        mode="json", include={"task", "seed", "data", "targets", "measure"}, exclude_unset=True
    )


def build_request(
    values: Mapping[str, Any], targets: Sequence[Any], assignments: Sequence[str], base: Path
) -> MeasureRequest:
    """Build the request and validate it like a profile.

    Args:
        targets: replace those of `values`, unless empty.
        base: the folder that relative paths are resolved against.

    Raises:
        UsageError: data or task are missing.
        ProfileError: with every fault of the request.
    """
    if "data" not in values:
        raise UsageError("say on which data to measure: --data PATH, or --profile PROFILE")
    if "task" not in values:
        raise UsageError(f"say what the model is for: --task {' | '.join(task_names())}")
    merged = {**values, "targets": list(targets)} if targets else dict(values)
    source = override(ProfileSource("compress measure", "", base, merged, {}), tuple(assignments))
    try:
        return MeasureRequest.model_validate(source.values)
    except ValidationError as error:
        raise ProfileError(faults_of(error, source, MeasureRequest)) from error


def run_name(model: Path) -> str:
    """Derive the name of a run from its model: `runs/x/bundle/model.onnx` -> `bundle`, `mine.onnx` -> `mine`."""
    path = model.absolute()
    stem = path.name if path.is_dir() else path.parent.name if path.stem == "model" else path.stem
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.") or "model"
