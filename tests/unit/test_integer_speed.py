"""Where 8 bits will be no faster is said before the first step, by the processors of the targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compress.core.errors import ModelError
from compress.core.terminal.progress import SilentProgress
from compress.engine import running
from compress.engine.resolve import resolve_job
from compress.passes.quantize.int8.gain import probe
from compress.passes.quantize.int8.gain.probe import Probe, ShapeTiming
from compress.passes.quantize.int8.gain.speed import integer_warnings
from compress.profile.load import load_profile
from compress.profile.pass_entries import PASS_ENTRIES
from compress.profile.schema import Profile
from compress.store.cache import Cache
from compress.targets.local import ResolvedTarget
from tests.jobs import write_job
from tests.quantize_specs import quantize_spec
from tests.unit.test_deployment import ARM, BOARD, HERE, NEW, OLD, OTHER, profile, target

LACKING = "no INT8 dot-product instructions"


def told(made: Profile, *processors: tuple[tuple[str, ...], str]) -> list[str]:
    found = [target(spec, processor) for spec, processor in zip(made.targets, processors, strict=True)]
    return integer_warnings(made, found)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every machine is as fast in integers as in floats; where that was timed, and with how many threads."""
    found: list[tuple[str, int]] = []

    def equal(shapes: Any, rows: int, target: ResolvedTarget) -> Probe:
        found.append((target.spec.device, target.spec.threads))
        flags = tuple(target.description["cpu"]["flags"])
        return Probe(flags, rows, (ShapeTiming(*next(iter(shapes)), 1, 1.0, 1.0),))

    monkeypatch.setattr(probe, "probe", equal)
    return found


SLOW = "8-bit products of a typical shape run 1.00 times as fast as FP32 on {} (64 rows)"
EXPECT = ": expect a smaller file, not a faster model"


def test_devices_are_timed_too(timed: list[tuple[str, int]]) -> None:
    made = profile([BOARD, OTHER])
    board, other = (target.label for target in made.targets)
    assert told(made, OLD, NEW) == [
        SLOW.format(board) + f"; its processor has {LACKING} (it has avx2)" + EXPECT,
        SLOW.format(other) + EXPECT,
    ]
    assert timed == [("ssh://board", 1), ("ssh://other", 1)]


def test_images_are_judged_by_instructions(timed: list[tuple[str, int]]) -> None:
    made = profile([BOARD]).model_copy(update={"task": "image-classification"})
    assert told(made, NEW) == []
    assert told(made, ARM) == [
        f"{made.targets[0].label}'s processor has {LACKING}: INT8 may be no faster than FP32"
    ]
    assert timed == []


def test_this_machine_is_timed_and_told_once(timed: list[tuple[str, int]]) -> None:
    made = profile([HERE, {**HERE, "threads": 2}])
    assert told(made, NEW, NEW) == [SLOW.format("this machine") + EXPECT]
    assert timed == [("cpu", 1), ("cpu", 2)]


@pytest.mark.parametrize("bits", [4, 16])
def test_without_eight_bits_nothing_is_told(timed: list[tuple[str, int]], bits: Any) -> None:
    passes = (PASS_ENTRIES.entry(quantize_spec({"bits": bits})),)
    assert told(profile([HERE]).model_copy(update={"passes": passes}), OLD) == []
    assert timed == []


def test_it_is_said_before_the_first_step(
    tmp_path: Path, timed: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Told(SilentProgress):
        def say(self, message: str) -> None:
            events.append(message)

    def first(*_: object) -> None:
        events.append("a step")
        raise ModelError("enough")

    monkeypatch.setattr(running, "make_step", first)
    job = resolve_job(load_profile(write_job(tmp_path)), allow_code=False)
    with pytest.raises(ModelError, match="enough"):
        running.run_job(job, Cache(tmp_path / "cache"), tmp_path, Told(), lambda *_: None)
    assert events[-1] == "a step"
    assert sum("expect a smaller file, not a faster model" in event for event in events[:-1]) == 1
