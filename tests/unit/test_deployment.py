"""What a profile leaves to the processor is decided by those of its targets."""

from __future__ import annotations

from typing import Any

import pytest

from compress.core.numerics import Numerics
from compress.engine.deployment import resolve_for_processors, resolve_if_reachable
from compress.planning.keys import Fingerprints, all_parts
from compress.planning.steps import build_plan
from compress.profile.schema import Profile, TargetSpec
from compress.targets.local import ResolvedTarget
from compress.targets.ssh.device import SshDevice

OLD, NEW, ARM = (("avx2",), "x86_64"), (("avx2", "avx512_vnni"), "x86_64"), ((), "aarch64")


def profile(targets: list[dict[str, Any]], **quantize: Any) -> Profile:
    return Profile.model_validate(
        {
            "name": "tiny",
            "task": "text-classification",
            "data": {"path": "data.csv"},
            "teacher": {"model": "teacher"},
            "passes": [{"quantize": quantize or {"scheme": "dynamic"}}],
            "targets": targets,
        }
    )


def target(spec: TargetSpec, processor: tuple[tuple[str, ...], str]) -> ResolvedTarget:
    flags, arch = processor
    device = None if spec.device == "cpu" else SshDevice(spec)
    return ResolvedTarget(spec, spec.label, "f", {"cpu": {"flags": list(flags)}, "arch": arch}, device)


def reduce_range(made: Profile) -> object:
    return made.specs[0].reduce_range  # type: ignore[union-attr]


BOARD, OTHER, HERE = {"device": "ssh://board"}, {"device": "ssh://other"}, {"device": "cpu"}


@pytest.mark.parametrize(
    ("targets", "processors", "wanted"),
    [
        ([BOARD], [OLD], True),
        ([BOARD], [NEW], False),
        ([BOARD], [ARM], False),
        ([BOARD, OTHER], [ARM, OLD], True),
        ([HERE, BOARD], [OLD, ARM], True),
        ([HERE, BOARD], [NEW, ARM], False),
        ([HERE], [OLD], "auto"),
    ],
)
def test_a_device_that_needs_seven_bits_gets_them(
    targets: list[dict[str, Any]], processors: list[tuple[tuple[str, ...], str]], wanted: object
) -> None:
    one = profile(targets)
    found = [target(spec, processor) for spec, processor in zip(one.targets, processors, strict=True)]
    assert reduce_range(resolve_for_processors(one, found)) == wanted


def test_what_the_profile_says_itself_stays() -> None:
    one = profile([BOARD], scheme="dynamic", reduce_range=False)
    assert reduce_range(resolve_for_processors(one, [target(one.targets[0], OLD)])) is False
    four = profile([BOARD], bits=4)
    assert resolve_for_processors(four, [target(four.targets[0], OLD)]).passes == four.passes


def test_the_key_depends_on_the_device() -> None:
    one = profile([BOARD])
    known = Fingerprints({("teacher", None): "t"}, "d")
    parts = {}
    for processor in (OLD, NEW):
        plan = build_plan(resolve_for_processors(one, [target(one.targets[0], processor)]))
        parts[processor] = all_parts(plan, known, Numerics("cpu", 1, False))["quantize"]
    assert parts[OLD]["reduced_range"] is True
    assert parts[NEW]["reduced_range"] is False


def test_a_plan_whose_device_is_away_keeps_auto() -> None:
    away = profile([{"device": "ssh://127.0.0.1:1"}])
    assert resolve_if_reachable(away) == away
