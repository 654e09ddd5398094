"""A student learns pairs that were written from documents: what is held out, what is kept, and what a kill leaves."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from compress import api
from compress.core.errors import PassError
from compress.data.splits import UNLABELLED, Examples
from compress.generation.answers import read_answers
from compress.generation.copies import contained_in
from compress.passes.distill import step as distill
from compress.passes.distill.spec import DistillSpec
from compress.passes.distill.written.documents import write_pairs
from compress.passes.distill.written.lessons import TeacherExamples
from compress.step import StepContext
from compress.tasks.base import TrainingData
from tests import steps
from tests.integration.test_written_texts import LICENSED
from tests.speaking_server import Speaker, listening, prompt_in
from tests.stopping import Killing
from tests.tiny_language import Taught, profile, taught, write_model

TRAIN, HELD = 40, 12
NUMBER = re.compile(r"cat(\d+)")
PAIRS: dict[str, Any] = {
    "passage_tokens": [8, 60],
    "ask": "{passage}",
    "examples": [],
    "prompt": "{passage} {question}",
    "held_out": HELD,
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return taught(tmp_path_factory.mktemp("teacher"), max_length=120, rounds=0)


def document(number: int) -> str:
    return f"The cat{number} sees {number + 500} birds on tree{number}."


def prepared(folder: Path, teacher: Taught, *, pairs: dict[str, Any], **sequence: Any) -> StepContext:
    artifact, task, _ = teacher
    # The first training document stands in validation, too.
    texts = [[*map(document, [200, *range(1, TRAIN)])], [*map(document, range(200, 200 + HELD))]]
    train, held = (Examples(tuple(one), np.full(len(one), UNLABELLED, np.int64)) for one in texts)
    body = {
        "student": {"layers": 1},
        "epochs": 2,
        "learning_rate": 3e-3,
        "batch_size": 16,
        "sequence": {"most": 20, **LICENSED, **sequence},
        "synthetic": {**PAIRS, **pairs},
        "control": True,
    }
    roles = dict.fromkeys(("model", "teacher", "original"), artifact)
    # As the engine tells it, which alone knows the test split.
    data = TrainingData(
        train, held, (), is_heldout_copy=lambda texts: contained_in(texts, [*held.texts, document(39)])
    )
    return steps.context(folder, DistillSpec.model_validate(body), roles, task, data)


class Asking(Speaker):
    """Writes pairs of passages; some of its answers do not serve."""

    def said(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        found = super().said(path, asked)
        number = int(NUMBER.findall(prompt_in(asked))[-1])
        question, answer = f"How many birds sees cat{number}?", f"It sees {number + 500} birds."
        if number % 10 == 3:
            answer = f"It sees {number + 400} birds."
        if number % 10 == 4 or number in (7, 17):
            answer = "It sees some on a tree."
            question = "How many birds are there?" if number % 10 == 4 else "Where does it see birds?"
        found["choices"][0]["message"]["content"] = f"Answer: {answer}\nQuestion: {question}"
        found["choices"][0]["finish_reason"] = "stop"
        return found


def test_pairs_are_learnt_and_held_out_ones_scored(teacher: Taught, tmp_path: Path):
    with listening(Asking()) as there:
        assert isinstance(there, Asking)
        server = {"url": there.url, "model": "scripted"}
        ctx = prepared(tmp_path / "a", teacher, pairs={}, server=server)
        lessons = write_pairs(ctx, ctx.spec_as(DistillSpec), ctx.inputs["teacher"])
        asked = [int(NUMBER.findall(prompt_in(one))[-1]) for one in there.asked]
        # What is held out is asked about once, and not as a training document.
        assert sorted(asked) == [*range(1, TRAIN - 1), *range(200, 200 + HELD)]
        assert lessons.facts["passages_left_out"] == 2
        assert lessons.facts["by_reason"] == {
            "kept": 29,
            "not supported by the passage": 4,
            "a copy of another": 1,
            "a copy of what is held out": 4,
        }
        assert lessons.facts["prompts_left_out"] == 9
        assert lessons.held_out is not None
        held_out = [lessons.held_out.selection, lessons.held_out.scored]
        numbers = [{int(found) for item in each.texts for found in NUMBER.findall(item)} for each in held_out]
        assert not numbers[0] & numbers[1]
        assert numbers[0] | numbers[1] <= {*range(200, 200 + HELD)}
        learnt = {int(found) for item in lessons.examples.texts for found in NUMBER.findall(item)}
        assert max(learnt) < TRAIN
        assert len(lessons.examples) == 29
        first = json.loads(lessons.examples.texts[0])
        number = int(NUMBER.findall(first["prompt"])[0])
        questions = (f"How many birds sees cat{number}?", "How many birds are there?")
        assert first["prompt"] in [f"{document(number)} {question}\n" for question in questions]
        assert len(lessons.samples) == 29 + 4 + 1 + 4
        assert all(f"cat{NUMBER.findall(one['passage'])[0]} " in one["passage"] for one in lessons.samples)

        made, result = steps.run(distill, ctx)
        assert len(there.asked) == len(asked)
    assert result.facts["shown"] == {"written": 29}
    told = result.facts["held_out"]
    assert told["pairs"] == len(lessons.held_out.scored)
    assert told["gain"][0] == pytest.approx(np.log(told["untaught"][0] / told["perplexity"][0]))
    assert told["gain"][1] > 0
    assert json.loads((ctx.out / "samples.json").read_text())["samples"][0]["passage"]

    # The control learns the documents, for as many steps, and is scored by the same pairs.
    beside = prepared(tmp_path / "b", teacher, pairs={}, server=server)
    beside = replace(beside, inputs={**beside.inputs, "taught": made})
    control = distill.run_control(beside).facts
    assert control["shown"] == {"train": TRAIN}
    assert control["steps"] == result.facts["steps"]
    assert control["held_out"]["untaught"] == told["untaught"]
    apart = np.log(control["held_out"]["perplexity"][0] / told["perplexity"][0])
    assert control["held_out"]["beside"][0] == pytest.approx(apart)


def test_what_was_written_before_a_kill_is_not_asked_again(teacher: Taught, tmp_path: Path):
    ctx = prepared(tmp_path, teacher, pairs={"passages": 10}, most=6, samples=2, temperature=1.0)
    spec, model = ctx.spec_as(DistillSpec), ctx.inputs["teacher"]
    with pytest.raises(KeyboardInterrupt):
        write_pairs(replace(ctx, progress=Killing(9)), spec, model)
    (file,) = tmp_path.glob("shared/*/*.jsonl")
    whole, before = file.read_bytes(), [*read_answers(file)]
    assert 9 <= len(before) < 2 * (10 + HELD)
    # Nobody taught this one to write pairs.
    with pytest.raises(PassError, match=r"none of the \d+ pairs that the teacher wrote is kept: \d+ "):
        write_pairs(ctx, spec, model)
    assert file.read_bytes().startswith(whole)
    keys = [answer.key for answer in read_answers(file)]
    assert len(set(keys)) == len(keys)
    texts = {str(answer.prompt) for answer in read_answers(file)}
    assert len(keys) == 2 * len(texts)
    assert HELD + 9 <= len(texts) <= HELD + 10


def test_a_pattern_or_a_function_judges_pairs(teacher: Taught, tmp_path: Path):
    (tmp_path / "mine.py").write_text("def right(question, passage, answer):\n    return answer in passage\n")
    with listening(Asking()) as there:
        assert isinstance(there, Asking)

        def lessons(validator: str) -> TeacherExamples:
            server = {"url": there.url, "model": "scripted"}
            folder = tmp_path / str(len(validator))
            ctx = prepared(folder, teacher, pairs={"validator": validator}, server=server)
            ctx = replace(ctx, base=tmp_path, shared=tmp_path / "shared")
            return write_pairs(ctx, ctx.spec_as(DistillSpec), ctx.inputs["teacher"])

        told = lessons("regex:[0-9]").facts["by_reason"]
        assert (told["kept"], told["refused by the validator"]) == (28, 6)
        with pytest.raises(PassError, match=r"is kept: .* 34 refused by the validator"):
            lessons("python:mine:right")
        # What judges has no part in what is asked.
        assert len(there.asked) == TRAIN - 2 + HELD


def test_documents_that_are_too_short_are_told(teacher: Taught, tmp_path: Path):
    ctx = prepared(tmp_path, teacher, pairs={"passage_tokens": [90, 100]})
    with pytest.raises(PassError, match="the validation documents contain no passage of 90 to 100 tokens"):
        write_pairs(ctx, ctx.spec_as(DistillSpec), ctx.inputs["teacher"])


def test_too_few_pairs_to_hold_out_are_told(teacher: Taught, tmp_path: Path):
    with listening(Asking()) as there:
        ctx = prepared(
            tmp_path, teacher, pairs={"alike": 0.7}, server={"url": there.url, "model": "scripted"}
        )
        few = Examples(tuple(map(document, [201, 202])), np.full(2, UNLABELLED, np.int64))
        ctx = replace(ctx, data=replace(ctx.data, validation=few))
        with pytest.raises(
            PassError, match="pairs from only 2 validation documents are kept, and four are needed"
        ):
            write_pairs(ctx, ctx.spec_as(DistillSpec), ctx.inputs["teacher"])


@pytest.mark.slow
def test_a_profile_leads_to_a_report_with_pairs_and_their_passages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    write_model(tmp_path / "model")
    (tmp_path / "data").mkdir()
    splits = {"train": range(1, TRAIN), "validation": range(200, 200 + HELD), "test": range(400, 406)}
    for split, numbers in splits.items():
        rows = [json.dumps({"text": document(number)}) + "\n" for number in numbers]
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(rows))
    with listening(Asking()) as there:
        assert isinstance(there, Asking)
        sequence = {"most": 20, "server": {"url": there.url, "model": "scripted"}, **LICENSED}
        student = {"student": {"layers": 1}, "epochs": 2, "learning_rate": 3e-3, "batch_size": 16}
        pairs = {**PAIRS, "passage_tokens": [8, 48], "prompt": "{question}"}
        body = profile(
            data={"path": "data", "max_length": 128},
            teacher={"model": "model"},
            passes=[
                {"distill": {**student, "sequence": sequence, "synthetic": pairs, "control": True}},
                {"export": {"golden": 2}},
            ],
        )
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(body))
        done = api.run(tmp_path / "p.yaml", quiet=True)
        asked = {int(NUMBER.findall(prompt_in(one))[-1]) for one in there.asked}
    assert asked == {*splits["train"], *splits["validation"]}
    found = {step.step: step for step in done.record.steps}
    told = found["distill"].facts
    assert told["written"]["model"] == "scripted"
    assert told["shown"] == {"written": told["written"]["by_reason"]["kept"]}
    held_out = json.loads((tmp_path / "cache" / str(found["distill"].artifact) / "held_out.json").read_text())
    assert held_out["conversing"]
    # In the chat form of the model.
    messages = json.loads(held_out["pairs"][0])["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert "beside" in found["distill.control"].facts["held_out"]
    report = tmp_path / "reports" / "tiny-lm"
    text = (report / "report.md").read_text()
    for words in ("Held-out pairs", "above the student", "a copy of what is held out", "Samples"):
        assert words in text
    lines = [json.loads(line) for line in (report / "samples.jsonl").read_text().splitlines()]
    kept = [one for one in lines if one["why"] == "kept"]
    assert len(kept) == min(50, told["written"]["by_reason"]["kept"])
    assert all(one["answer"].split()[1] in one["passage"] for one in kept)
    assert "scripted (apache-2.0)" in next(tmp_path.rglob("bundle/README.md")).read_text()
