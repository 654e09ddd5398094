"""Legal and illegal pipelines, with the exact message of each illegal one."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.core.errors import ProfileError
from compress.planning.steps import build_plan
from compress.profile.load import load_profile
from tests.profiles import write_profile

BODIES = {"prune": {"remove": {"heads": 0.5}}}


def profile_of(folder: Path, passes: list[str], **more: object) -> Path:
    (folder / "data.csv").write_text("text,label\nhello,a\n")
    sections = {
        "teacher": {"model": "owner/model", "finetune": {}},
        "passes": [{name: BODIES.get(name, {})} for name in passes],
        **more,
    }
    return write_profile(folder / "p.yaml", **sections)


LEGAL = [
    (["distill"], ["baseline", "distill"]),
    (["prune"], ["baseline", "prune"]),
    (["quantize"], ["baseline", "quantize"]),
    (["export"], ["baseline", "export"]),
    (["distill", "export"], ["baseline", "distill", "export"]),
    (["prune", "distill"], ["baseline", "prune", "distill"]),
    (["distill", "distill"], ["baseline", "distill", "distill.2"]),
    (["prune", "prune", "quantize"], ["baseline", "prune", "prune.2", "quantize"]),
    (["distill", "prune", "quantize", "export"], ["baseline", "distill", "prune", "quantize", "export"]),
]


@pytest.mark.parametrize(("passes", "rows"), LEGAL)
def test_legal_chain(tmp_path: Path, passes: list[str], rows: list[str]):
    plan = build_plan(load_profile(profile_of(tmp_path, passes)).profile)
    assert [row.name for row in plan.rows] == rows
    made: set[str] = set()
    for step in plan.steps:
        assert set(step.inputs.values()) <= made, f"{step.name} comes before its inputs"
        made.add(step.name)


INT8 = "onnx operator"
ILLEGAL = [
    (
        ["quantize", "distill"],
        [f"passes.1.distill: needs a float torch model, but passes.0.quantize gives a model that is {INT8}"],
    ),
    (
        ["quantize", "prune"],
        [f"passes.1.prune: needs a float torch model, but passes.0.quantize gives a model that is {INT8}"],
    ),
    (
        ["quantize", "quantize"],
        [
            "passes.1.quantize: needs a float model, torch or ONNX, but passes.0.quantize gives a "
            f"model that is {INT8}"
        ],
    ),
    (
        ["export", "quantize"],
        [
            "passes.1.quantize: needs a float model, torch or ONNX, but passes.0.export gives a "
            "model that is onnx float bundle"
        ],
    ),
    (
        ["export", "export"],
        [
            "passes.1.export: needs any model that is not a bundle yet, but passes.0.export gives a "
            "model that is onnx float bundle"
        ],
    ),
    (
        ["export", "prune", "distill"],
        [
            "passes.1.prune: needs a float torch model, but passes.0.export gives a model that is onnx float bundle",
            "passes.2.distill: needs a float torch model, but passes.0.export gives a model that is onnx float bundle",
        ],
    ),
]


@pytest.mark.parametrize(("passes", "messages"), ILLEGAL)
def test_illegal_chain(tmp_path: Path, passes: list[str], messages: list[str]):
    with pytest.raises(ProfileError) as caught:
        load_profile(profile_of(tmp_path, passes))
    assert [f"{fault.path}: {fault.message}" for fault in caught.value.faults] == messages


def test_training_for_integers_is_a_step_before_the_model_is_lowered(tmp_path: Path):
    file = profile_of(tmp_path, ["distill", "quantize"])
    plan = build_plan(load_profile(file, ("passes.1.quantize.train={}",)).profile)
    assert [row.name for row in plan.rows] == ["baseline", "distill", "quantize"]
    steps = {step.name: (step.kind, dict(step.inputs)) for step in plan.steps if "quantize" in step.name}
    assert steps == {
        "quantize.train": ("quantize.train", {"model": "distill", "teacher": "teacher"}),
        "quantize.train.onnx": ("lower", {"model": "quantize.train"}),
        "quantize": ("quantize", {"model": "quantize.train.onnx"}),
    }
    assert plan.step("quantize").spec == build_plan(load_profile(file).profile).step("quantize").spec
    assert str(plan.step("quantize.train").form) == "torch float"


def test_training_for_integers_needs_a_torch_model(tmp_path: Path):
    file = profile_of(tmp_path, ["quantize", "quantize"])
    with pytest.raises(ProfileError) as caught:
        load_profile(file, ("passes.1.quantize.train={}",))
    assert [f"{fault.path}: {fault.message}" for fault in caught.value.faults] == [
        "passes.1.quantize: needs a float torch model, but passes.0.quantize gives a model that is onnx operator"
    ]


def test_training_for_integers_of_bitsandbytes_is_refused(tmp_path: Path):
    file = profile_of(tmp_path, ["quantize"], targets=[{"runtime": "torch"}])
    with pytest.raises(ProfileError) as caught:
        load_profile(file, ("passes.0.quantize.train={}", "passes.0.quantize.library=bitsandbytes"))
    assert [f"{fault.path}: {fault.message}" for fault in caught.value.faults] == [
        "passes.0.quantize: train serves ONNX only; this is `library: bitsandbytes`"
    ]


AVERAGED = ("passes.0.distill.generations=2", "passes.0.distill.keep=ensemble")
PACKED = ("passes.1.quantize.library=bitsandbytes", "passes.1.quantize.bits=8")


def test_an_average_of_several_models_is_not_packed_by_bitsandbytes(tmp_path: Path):
    file = profile_of(tmp_path, ["distill", "quantize"], targets=[{"runtime": "torch"}])
    with pytest.raises(ProfileError) as caught:
        load_profile(file, (*AVERAGED, *PACKED))
    assert [f"{fault.path}: {fault.message}" for fault in caught.value.faults] == [
        "passes.1.quantize.library: bitsandbytes packs one file of weights, but passes.0.distill leaves an ensemble of "
        "several models; leave `library` out, or distil with `keep: last` or `keep: best`"
    ]
    load_profile(file, (AVERAGED[0], "passes.0.distill.keep=best", *PACKED))


def test_a_student_of_an_average_is_one_model_again(tmp_path: Path):
    file = profile_of(tmp_path, ["distill", "distill", "quantize"], targets=[{"runtime": "torch"}])
    load_profile(file, (*AVERAGED, "passes.2.quantize.library=bitsandbytes"))


def test_control_is_a_branch_and_never_last(tmp_path: Path):
    file = profile_of(tmp_path, ["distill", "quantize"])
    plan = build_plan(load_profile(file, ("passes.0.distill.control=true",)).profile)
    assert [(row.name, row.role) for row in plan.rows] == [
        ("baseline", "baseline"),
        ("distill.control", "control"),
        ("distill", "step"),
        ("quantize", "step"),
    ]
    assert dict(plan.step("quantize").inputs) == {"model": "distill.onnx"}


def test_a_model_is_lowered_once_whoever_needs_it(tmp_path: Path):
    plan = build_plan(load_profile(profile_of(tmp_path, ["distill", "quantize", "export"])).profile)
    assert [step.name for step in plan.steps if step.kind == "lower"] == ["teacher.onnx", "distill.onnx"]


def test_torch_targets_measure_torch_models(tmp_path: Path):
    targets = [{"runtime": "torch"}, {"runtime": "onnxruntime"}]
    plan = build_plan(load_profile(profile_of(tmp_path, ["distill"], targets=targets)).profile)
    assert dict(plan.rows[-1].measured) == {"onnxruntime": "distill.onnx", "torch": "distill"}


def test_passes_learn_from_the_fine_tuned_teacher_whatever_they_change(tmp_path: Path):
    plan = build_plan(load_profile(profile_of(tmp_path, ["distill", "prune"])).profile)
    assert dict(plan.step("prune").inputs) == {"model": "distill", "teacher": "teacher"}
