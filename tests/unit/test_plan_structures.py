"""Which orders of prune and low_rank are legal, and what form each leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.core.errors import ProfileError
from compress.core.forms import Structure
from compress.passes.low_rank.spec import LowRankSpec
from compress.passes.prune.spec import PruneSpec, PruneTargetSpec, RemoveSpec
from compress.planning.steps import build_plan
from compress.profile.load import load_profile

DISTILL: dict[str, Any] = {"distill": {"student": {"layers": 2}}}
PRUNE: dict[str, Any] = {"prune": {"remove": {"feed_forward": 0.5}}}
LOW_RANK: dict[str, Any] = {"low_rank": {"ratio": 0.5}}
QUANTIZE: dict[str, Any] = {"quantize": {"bits": 8}}
EXPORT: dict[str, Any] = {"export": {}}


def profile(folder: Path, *passes: dict[str, Any], task: str = "text-classification") -> Path:
    (folder / "data").mkdir()
    (folder / "data" / "train.csv").write_text("text,label\na,x\nb,y\n")
    (folder / "model").mkdir()
    body = {"name": "p", "task": task, "data": {"path": "data"}, "teacher": {"model": "model"}}
    file = folder / "p.yaml"
    file.write_text(yaml.safe_dump({**body, "passes": list(passes)}))
    return file


@pytest.mark.parametrize(
    ("passes", "structures"),
    [
        ([LOW_RANK], ["factored"]),
        ([DISTILL, LOW_RANK], ["regular", "factored"]),
        ([PRUNE, LOW_RANK, QUANTIZE, EXPORT], ["pruned", "factored", "factored", "factored"]),
        ([LOW_RANK, PRUNE], ["factored", "factored"]),
        ([PRUNE, PRUNE], ["pruned", "pruned"]),
        ([LOW_RANK, DISTILL, LOW_RANK], ["factored", "regular", "factored"]),
    ],
)
def test_legal_orders(passes: list[dict[str, Any]], structures: list[str], tmp_path: Path):
    plan = build_plan(load_profile(profile(tmp_path, *passes)).profile)
    found = [plan.step(row.step).form.structure for row in plan.rows[1:]]
    assert found == [Structure(each) for each in structures]
    for step in plan.steps:
        if step.kind == "lower" and step.inputs["model"] in plan.step(step.name).name:
            assert step.form.structure is plan.step(step.inputs["model"]).form.structure


INT4: dict[str, Any] = {"quantize": {"bits": 4}}
LEARN: dict[str, Any] = {"distill": {"student": {"layers": 2}, "losses": [{"logits": {}}]}}
BOTH: dict[str, Any] = {"export": {"formats": ["onnx", "gguf"]}}
GENAI: dict[str, Any] = {"export": {"formats": ["onnx", "genai"]}}


@pytest.mark.parametrize(
    ("passes", "structures"),
    [
        ([LOW_RANK, INT4, EXPORT], ["factored"] * 3),
        ([PRUNE, LOW_RANK, INT4], ["pruned", "factored", "factored"]),
        ([LOW_RANK, PRUNE, EXPORT], ["factored"] * 3),
        ([LOW_RANK, LEARN, BOTH], ["factored", "regular", "regular"]),
        ([PRUNE, BOTH], ["pruned", "pruned"]),
        ([LOW_RANK, GENAI], ["factored", "factored"]),
        ([LOW_RANK, LEARN, LOW_RANK], ["factored", "regular", "factored"]),
        ([LOW_RANK, BOTH], None),
        ([PRUNE, LOW_RANK, INT4, BOTH], None),
    ],
)
def test_orders_of_language_models(
    passes: list[dict[str, Any]], structures: list[str] | None, tmp_path: Path
):
    file = profile(tmp_path, *passes, task="causal-lm")
    if structures is None:
        with pytest.raises(ProfileError, match="without factored maps"):
            load_profile(file)
        return
    plan = build_plan(load_profile(file).profile)
    found = [plan.step(row.step).form.structure for row in plan.rows[1:]]
    assert found == [Structure(each) for each in structures]


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        (
            [LOW_RANK, LOW_RANK],
            r"p.yaml:\d+: passes.1.low_rank: needs a float torch model, .* gives a model that is torch float factored",
        ),
        ([QUANTIZE, LOW_RANK], r"passes.1.low_rank: needs a float torch model"),
        ([QUANTIZE, PRUNE], r"passes.1.prune: needs a float torch model"),
        ([EXPORT, LOW_RANK], r"passes.1.low_rank: needs"),
        ([LOW_RANK, PRUNE, LOW_RANK], r"passes.2.low_rank: needs"),
        ([{"low_rank": {}}], "give exactly one of ratio, energy and max_drop"),
        ([{"low_rank": {"ratio": 0.5, "energy": 0.9}}], "give exactly one of ratio, energy and max_drop"),
        ([{"prune": {}}], "give exactly one of `remove`"),
        (
            [{"prune": {"remove": {"heads": 0.5}, "target": {"ratio": 0.5}}}],
            "give exactly one of `remove` .* and `target`",
        ),
        ([{"prune": {"target": {}}}], "give exactly one of latency_ms, speedup, size_mb and ratio"),
        (
            [{"prune": {"remove": {"heads": 0.5}, "steps": 2, "recover": None}}],
            "`steps` has no effect without `recover`",
        ),
        (
            [{"prune": {"remove": {"heads": 0.5}, "layers_by": "loss"}}],
            "`layers_by: loss` chooses layers, but `remove.layers` removes none",
        ),
        ([{"prune": {"remove": {"layers": 0.5}, "reconstruct": True}}], "only decoders can be refitted"),
        ([{"prune": {"remove": {"channels": 0.5, "layers": 0.5}}}], "not both"),
        ([{"prune": {"remove": {"channels": 0.5}}}], "text models have no channels"),
        ([{"prune": {"remove": {"channels": 0.5}, "scope": "global"}}], "not channels"),
    ],
)
def test_illegal_orders_and_requests(passes: list[dict[str, Any]], message: str, tmp_path: Path):
    with pytest.raises(ProfileError, match=message):
        load_profile(profile(tmp_path, *passes))


def test_embeddings_have_no_loss_that_chooses_layers(tmp_path: Path):
    asked = {"prune": {"remove": {"layers": 0.5}, "layers_by": "loss"}}
    with pytest.raises(ProfileError, match="embeddings have no loss; use `importance`"):
        load_profile(profile(tmp_path, asked, task="sentence-embedding"))


def test_images_have_no_vocabulary(tmp_path: Path):
    asked = {"prune": {"remove": {"vocabulary": "unused"}}}
    with pytest.raises(ProfileError, match="image models have no vocabulary"):
        load_profile(profile(tmp_path, asked, task="image-classification"))


def test_specs_know_what_is_timed():
    assert PruneTargetSpec(speedup=2).depends_on_timing
    assert not PruneTargetSpec(ratio=0.5).depends_on_timing
    assert PruneSpec(remove=RemoveSpec(vocabulary="unused")).remove is not None
    assert LowRankSpec(energy=0.9).weighted


def test_a_gpu_shows_the_teacher_in_fp16_too(tmp_path: Path):
    file = profile(tmp_path, DISTILL)
    cuda, cpu = {"device": "cuda", "runtime": "onnxruntime"}, {"device": "cpu", "runtime": "onnxruntime"}
    plans = {}
    for name, targets in {
        "both": [cpu, cuda],
        "cpu": [cpu],
        "torch": [{"device": "cuda", "runtime": "torch"}],
    }.items():
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "targets": targets}))
        plans[name] = build_plan(load_profile(file).profile)
    rows = {row.name: row for row in plans["both"].rows}
    assert list(rows) == ["baseline", "baseline.fp16", "distill"]
    half = rows["baseline.fp16"]
    assert [half.is_measured_on(target) for target in plans["both"].profile.targets] == [False, True]
    assert plans["both"].step(half.step).inputs == {"model": "source.onnx"}
    assert all("baseline.fp16" not in {row.name for row in plans[name].rows} for name in ("cpu", "torch"))
