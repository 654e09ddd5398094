"""A student learns what its teacher writes: from a profile to a report, a card, and a run that was killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from compress import api
from compress.core.errors import PassError
from compress.core.records import StepRecord
from compress.data.splits import UNLABELLED, Examples
from compress.encoding.inputs import LOSS_MASK
from compress.generation.answers import Answer, read_answers
from compress.passes.distill import step as distill
from compress.passes.distill.spec import DistillSpec
from compress.passes.distill.written.lessons import write_answers
from compress.step import StepContext
from compress.tasks.base import TrainingData
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.task import CausalLanguageModel
from compress.tasks.causal_lm.text.documents import prompt_item
from tests.steps import context
from tests.stopping import Killing
from tests.tiny_language import WORDS, Taught, profile, taught, write_model

LICENSED = {"license": "apache-2.0", "license_ok": True}
SMALL = {"student": {"layers": 1}, "epochs": 1, "learning_rate": 3e-3, "batch_size": 16}
ANSWER = r"regex:#(\d+)"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[api.Run]:
    """A run of two distillations: a student learns all that the teacher writes, and another what is right of it."""
    place = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("COMPRESS_CACHE", str(place / "cache"))
        write_model(place / "model")
        sums = [(a, b) for a in range(9) for b in range(9)]
        rows = [{"ask": f"{a}+{b}", "say": f" {a} {b} #{a + b}"} for a, b in sums]
        (place / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"path": "sums.jsonl", "prompt_column": "ask", "completion_column": "say", "max_length": 24}
        plain = {
            **SMALL,
            "sequence": {"most": 12, **LICENSED},
            "losses": [{"logits": {"temperature": 1}}, {"next_token": {}}],
            "on_policy": {"lambda": 0.5, "most": 12},
            "control": True,
        }
        chosen = {
            **SMALL,
            "sequence": {"most": 12, "temperature": 1.0, **LICENSED},
            "rejection": {"candidates": 6, "validator": ANSWER},
            "reasoning": {"answer": ANSWER},
            "control": "answers_only",
        }
        body = profile(
            data=data,
            teacher={"model": "model", "finetune": {"epochs": 20, "learning_rate": 5e-3, "batch_size": 8}},
            passes=[{"distill": plain}, {"distill": chosen}, {"export": {"golden": 2}}],
        )
        (place / "p.yaml").write_text(yaml.safe_dump(body))
        yield api.run(place / "p.yaml", quiet=True)


def step_of(done: api.Run, name: str) -> StepRecord:
    return next(step for step in done.record.steps if step.step == name)


def test_the_answers_of_the_teacher_are_learnt(done: api.Run):
    step, control = step_of(done, "distill"), step_of(done, "distill.control")
    told = step.facts["written"]
    assert told["model"] == "model"
    assert told["license"] == "apache-2.0"
    assert told["answers"] == told["prompts"] == done.record.splits["train"]
    assert told["prompts_left_out"] == told["prompts"] - told["by_reason"]["kept"]
    assert sum(told["by_reason"].values()) == told["answers"]
    assert told["written_before"] == 0
    assert step.facts["shown"] == {"written": told["by_reason"]["kept"]}
    # The control is shown the data's own answers, for as many steps, and no longer than the student is written for.
    assert "written" not in control.facts
    assert control.facts["shown"] == {"train": told["prompts"]}
    assert abs(control.facts["steps"] - step.facts["steps"]) <= 1
    assert control.seconds > 0
    assert step.seconds > 0


def test_right_answers_alone_are_learnt_with_their_traces(done: api.Run):
    step, control = step_of(done, "distill.2"), step_of(done, "distill.2.control")
    told = step.facts["written"]
    assert told["answers"] == 6 * told["prompts"]
    assert {"kept", "wrong"} <= told["by_reason"].keys()
    right = {int(number): prompts for number, prompts in told["right_by_prompt"].items()}
    assert sum(right.values()) == told["prompts"]
    assert right.get(0, 0) == told["prompts_left_out"]
    repeated = told["by_reason"].get("repeated", 0)
    assert sum(number * prompts for number, prompts in right.items()) >= told["by_reason"]["kept"] + repeated
    for sample in step.samples:
        a, b = sample.prompt.split("+")
        if sample.why in ("kept", "wrong"):
            assert (f"#{int(a) + int(b)}" == sample.answer[sample.answer.index("#") :]) is (
                sample.why == "kept"
            )
    # The other student learns as many texts, which are the same answers without what stands before them.
    assert control.facts["shown"] == step.facts["shown"]
    assert control.facts["steps"] == step.facts["steps"]
    assert control.facts["written"]["written_before"] == told["answers"]
    assert control.facts["written"]["by_reason"] == told["by_reason"]


def test_the_report_shows_what_was_written_and_the_card_by_whom(done: api.Run):
    text = Path("reports/tiny-lm/report.md").read_text()
    for words in (
        "## What the teacher wrote",
        "Generated answers",
        "Right answers per prompt",
        "Generating model and cost",
        "Samples",
    ):
        assert words in text
    bundle = Path(str(done.record.bundle))
    learnt = [{"model": "model", "license": "apache-2.0"}] * 2
    assert json.loads((bundle / "manifest.json").read_text())["learnt_from"] == learnt
    assert "model (apache-2.0)" in (bundle / "README.md").read_text()
    # What was written goes no further than the record.
    assert not (bundle / "samples.json").exists()
    rows = json.dumps(json.loads(Path("reports/tiny-lm/report.json").read_text())["rows"])
    assert step_of(done, "distill").samples[0].answer not in rows


def test_in_half_of_the_steps_the_student_wrote_itself(done: api.Run):
    step = step_of(done, "distill")
    (stage,) = step.facts["stages"]
    assert stage["own_texts"]["steps"] == stage["steps"] // 2 > 0
    assert "own_texts" not in step_of(done, "distill.control").facts["stages"][0]
    assert {sample.by for sample in step.samples} == {"teacher", "student"}
    text = Path("reports/tiny-lm/report.md").read_text()
    for words in (
        "## What the student wrote",
        "Texts written and their cost",
        "First and last answers",
    ):
        assert words in text


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return taught(tmp_path_factory.mktemp("teacher"))


def prepared(
    folder: Path, teacher: Taught, data: dict[str, Any], items: list[str], **keys: Any
) -> StepContext:
    artifact, _, _ = teacher
    examples = Examples(tuple(items), np.full(len(items), UNLABELLED, np.int64))
    task = CausalLanguageModel(LanguageData.model_validate({"path": "x.jsonl", "max_length": 32, **data}))
    spec = DistillSpec.model_validate({**SMALL, **keys})
    roles = dict.fromkeys(("model", "teacher", "original"), artifact)
    return context(folder, spec, roles, task, TrainingData(examples, examples, ()))


def answers_in(folder: Path) -> list[Answer]:
    (file,) = folder.glob("shared/*/*.jsonl")
    return [*read_answers(file)]


PROMPTS = {"prompt_column": "p", "completion_column": "c"}


def test_what_was_written_before_a_kill_is_not_asked_again(teacher: Taught, tmp_path: Path):
    items = [prompt_item(f"the {word}", " runs") for word in WORDS]
    sequence = {"most": 6, "temperature": 1.0, "samples": 3, "stop": ["a", "e"], **LICENSED}
    ctx = prepared(tmp_path, teacher, PROMPTS, items, sequence=sequence)
    spec, model = ctx.spec_as(DistillSpec), ctx.inputs["teacher"]
    with pytest.raises(KeyboardInterrupt):
        distill.run(replace(ctx, progress=Killing(14)))
    before = answers_in(tmp_path)
    assert 14 <= len(before) < 3 * len(WORDS)
    (file,) = tmp_path.glob("shared/*/*.jsonl")
    whole = file.read_bytes()
    lessons = write_answers(ctx, spec, model)
    assert file.read_bytes().startswith(whole)
    after = answers_in(tmp_path)
    assert len({answer.key for answer in after}) == len(after) == 3 * len(WORDS)
    assert lessons.facts["written_before"] == len(before)


def test_plain_texts_are_gone_on_with(teacher: Taught, tmp_path: Path):
    _, _, data = teacher
    items = [*data.train.texts[:12]]
    sequence = {"most": 8, "prompt_tokens": 10, "own_answers": True, **LICENSED}
    losses = [{"logits": {"weight": 0.5}}, {"next_token": {"weight": 0.5}}]
    ctx = prepared(tmp_path, teacher, {}, items, sequence=sequence, losses=losses)
    lessons = write_answers(ctx, ctx.spec_as(DistillSpec), ctx.inputs["teacher"])
    inputs = lessons.task.encode(lessons.examples, ctx.inputs["teacher"].path)
    beginnings = {text[:10] for text in items}
    assert len(lessons.examples) == len(beginnings) + 12
    for answer in answers_in(tmp_path):
        assert answer.prompt in beginnings
        assert answer.ended in ("length", "end")
    for place in range(len(beginnings)):
        learnt = inputs.batch([place])[LOSS_MASK][0]
        # Nothing of the prompt is learnt, and nothing that was not written: no end where there was none.
        assert not learnt[:10].any()
        assert 0 < learnt.sum() <= 8
    result = distill.run(ctx)
    own = {name: result.facts["shown"][name] for name in ("written", "train")}
    assert own["written"] == len(beginnings)
    assert own["train"] >= 12
    assert result.facts["stages"][0]["losses"] == ["0.5 logits", "0.5 next_token"]


def test_nothing_kept_is_told_with_the_reasons(teacher: Taught, tmp_path: Path):
    items = [prompt_item(f"the {word}", " never") for word in WORDS]
    rejection = {"validator": "exact", "candidates": 1}
    sequence = {"most": 4, "stop": ["a", "e", " "], **LICENSED}
    ctx = prepared(tmp_path, teacher, PROMPTS, items, sequence=sequence, rejection=rejection)
    with pytest.raises(PassError, match=f"none of the {len(WORDS)} answers that the teacher wrote is kept: "):
        write_answers(ctx, ctx.spec_as(DistillSpec), ctx.inputs["teacher"])
    long = replace(ctx, data=replace(ctx.data, train=Examples((prompt_item("x" * 40, "y"),), np.full(1, -1))))
    with pytest.raises(PassError, match="none of the 1 prompts leaves room for an answer"):
        write_answers(long, ctx.spec_as(DistillSpec), ctx.inputs["teacher"])
