"""Who teaches whom, as the plan lays it out."""

from __future__ import annotations

from pathlib import Path

import yaml

from compress.planning.steps import Plan, build_plan, model_sources
from compress.profile.load import load_profile
from tests.profiles import write_profile


def plan_of(tmp_path: Path, distill: str, **changes: object) -> Plan:
    (tmp_path / "data.csv").write_text("text,label\nhello,a\n")
    sections = {
        "teacher": {"model": "owner/model", "finetune": {}},
        "passes": [{"distill": yaml.safe_load(distill)}],
        **changes,
    }
    return build_plan(load_profile(write_profile(tmp_path / "p.yaml", **sections)).profile)


def test_the_teacher_is_source_and_reference_of_a_plain_student(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "{}")
    assert plan.step("distill").inputs == {"model": "teacher", "teacher": "teacher", "original": "teacher"}


def test_each_further_teacher_is_fetched_and_trained_by_steps_of_its_own(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path, "{teachers: [{weight: 2}, {model: owner/b, finetune: {epochs: 1}}, {model: owner/c}]}"
    )
    inputs = plan.step("distill").inputs
    assert inputs["teacher.1"] == "teacher"
    assert inputs["teacher.2"] == "distill.teacher2"
    assert plan.step("distill.teacher2").kind == "finetune"
    assert plan.step("distill.teacher2").inputs == {"model": "distill.teacher2.source"}
    assert inputs["teacher.3"] == "distill.teacher3.source"
    assert [source.model for source, _ in model_sources(plan)] == ["owner/model", "owner/b", "owner/c"]


def test_assistants_form_a_chain_that_ends_with_the_student(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "{student: {layers: 1}, assistants: [{layers: 4}, {layers: 3}], generations: 2}")
    first, second, last = (
        plan.step(name) for name in ("distill.assistant1", "distill.assistant2", "distill")
    )
    assert first.inputs == {"model": "teacher", "teacher": "teacher", "original": "teacher"}
    assert second.inputs == {
        "model": "distill.assistant1",
        "teacher": "distill.assistant1",
        "original": "teacher",
    }
    assert last.inputs["teacher"] == "distill.assistant2"
    assert [step.spec.student.layers for step in (first, second, last)] == [4, 3, 1]  # type: ignore[attr-defined]
    assert [step.spec.generations for step in (first, second, last)] == [1, 1, 2]  # type: ignore[attr-defined]
    assert [row.name for row in plan.rows] == ["baseline", "distill"]


def test_a_student_that_stands_ready_is_fetched_and_may_have_another_head(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "{student: {model: owner/small}}")
    assert plan.step("distill").inputs["student"] == "distill.student"
    source = plan.step("distill.student").spec
    assert source.model == "owner/small"  # type: ignore[attr-defined]
    assert source.finetune is not None  # type: ignore[attr-defined]


def test_the_control_of_a_student_without_data_has_its_teacher(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "{data_free: {}, losses: [{logits: {}}], control: true}")
    control = plan.step("distill.control")
    assert control.kind == "distill.control"
    assert control.spec == plan.step("distill").spec
    assert "teacher" in control.inputs
    assert [row.role for row in plan.rows] == ["baseline", "control", "step"]


def test_the_control_of_any_other_student_has_no_teacher(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "{control: true}")
    assert plan.step("distill.control").kind == "distill.control"
