"""Check of the memory limits of targets."""

from __future__ import annotations

from collections.abc import Iterable

from compress.core.errors import TargetError
from compress.core.records import TargetMeasurement


def check_memory_limit(measurements: Iterable[TargetMeasurement]) -> None:
    """Check that a model does not exceed a target's `memory_limit_mb`.

    Raises:
        TargetError: it does.
    """
    for measurement in measurements:
        memory = measurement.memory
        if memory.over_limit:
            raise TargetError(
                f"the model's peak memory is {memory.absolute_peak_mb:.1f} MB ({memory.before_load_mb:.1f} MB of it "
                f"before loading), but `memory_limit_mb` allows {memory.limit_mb:g} MB",
                where=measurement.target,
                hint="Make it smaller, or raise the limit: the same command does not repeat any training.",
            )
