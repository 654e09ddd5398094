"""Answers in words: what is asked, what is right, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from compress.core.errors import DataError, ModelError, UsageError
from compress.core.records import GeneratedAnswers, Metric, RunRecord, Sample
from compress.data.sources import load
from compress.data.splits import UNLABELLED, Examples, Splits
from compress.engine.excerpts import redact_texts
from compress.generation.validators import validator_of
from compress.passes.distill.sections.written import written as what_was_written
from compress.reporting.render.document import Table
from compress.reporting.render.numbers import MISSING
from compress.reporting.render.terminal import RunTable
from compress.reporting.sections import result_sections
from compress.tasks.causal_lm.asking import generation_prompts
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.kind import RIGHT_ANSWERS
from compress.tasks.causal_lm.sections import answers
from compress.tasks.causal_lm.task import CausalLanguageModel
from compress.tasks.causal_lm.text.documents import messages_item, prompt_item
from tests.records import bert_run, change_step
from tests.terminal import printed
from tests.tiny_language import byte_tokenizer
from tests.unit.test_language_windows import folder_of

PROMPTS = {"path": "x", "prompt_column": "p", "completion_column": "c", "max_length": 24}


def task_of(**keys: object) -> CausalLanguageModel:
    return CausalLanguageModel(LanguageData.model_validate({**PROMPTS, **keys}))


def examples(*items: str) -> Examples:
    return Examples(items, np.full(len(items), UNLABELLED, np.int64))


def test_prompts_that_leave_room_are_asked(tmp_path: Path):
    task = task_of(answers={"validator": "exact", "most": 8, "stop": ["\n", "."], "examples": 3})
    test = examples(*(prompt_item(prompt, f"c{len(prompt)}") for prompt in ("a", "b" * 16, "c" * 17, "dd")))
    model = folder_of(tmp_path, begin_id=258)
    found = generation_prompts(task, test, model, seed=0)
    assert found is not None
    assert set(found.examples) < {0, 1, 3}
    everything = generation_prompts(
        task_of(answers={"validator": "exact", "most": 8}), test, folder_of(tmp_path, begin_id=None), seed=0
    )
    assert everything is not None
    assert everything.examples == (0, 1, 3)
    assert (everything.prompts[2], everything.expected[2]) == ("dd", "c2")
    assert everything.settings == {"most": 8, "ends": [259], "together": 16}
    with pytest.raises(DataError, match="at most 16 tokens"):
        generation_prompts(
            task_of(answers={"validator": "exact", "most": 8}),
            examples(prompt_item("x" * 30, "y"), prompt_item("z" * 30, "y")),
            model,
            seed=0,
        )
    assert generation_prompts(task_of(), test, model, seed=0) is None


def test_an_answer_ends_at_each_end_of_the_model_and_at_special_stops(tmp_path: Path):
    model = folder_of(tmp_path, end_ids=[259, 7], special_tokens={})
    keys = {"answers": {"validator": "exact", "most": 8, "stop": ["<begin>", "."]}}
    found = generation_prompts(task_of(**keys), examples(prompt_item("a", "b")), model, seed=0)
    assert found is not None
    assert found.settings["ends"] == [0, 7, 259]
    said = byte_tokenizer().encode("yes.no", add_special_tokens=False).ids
    assert [found.decode(said), found.decode([*said[:2], 7]), found.decode([*said[:2], 0])] == [
        "yes",
        "ye",
        "ye",
    ]


def test_of_a_conversation_the_last_answer_is_asked_for(tmp_path: Path):
    said = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "sum"},
        {"role": "assistant", "content": "3"},
    ]
    keys = {"path": "x", "messages_column": "m", "max_length": 200, "answers": {"validator": "contains"}}
    task = CausalLanguageModel(LanguageData.model_validate(keys))
    found = generation_prompts(task, examples(messages_item(said)), folder_of(tmp_path, begin_id=258), seed=0)
    assert found is not None
    assert found.expected == ("3",)
    assert found.prompts[0].endswith("sum<|im_end|>\n<|im_start|>assistant\n")
    assert 258 not in found.inputs.batch([0])["input_ids"]


@pytest.mark.parametrize(
    ("said", "expected", "answer", "right"),
    [
        ("exact", " 12\n", "12", True),
        ("exact", "12", "12.", False),
        ("contains", "12", "it is 12.", True),
        ("contains", "12", "it is 21.", False),
        ("contains", " ", "it is 21.", False),
        ("contains", "", " ", True),
        (r"regex:^\{.*\}$", "{}", '{"a": 1}', True),
        (r"regex:^\{.*\}$", "{}", "none", False),
        (r"regex:= (\d+)", "x = 4", "so y = 4 and", True),
        (r"regex:= (\d+)", "x = 4", "so y = 5 and", False),
        (r"regex:= (\d+)", "x = 4", "four", False),
        ("python:judge:longer", "ab", "abc", True),
        ("python:judge:longer", "abc", "abc", False),
    ],
)
def test_what_is_right(said: str, expected: str, answer: str, right: bool, tmp_path: Path):
    (tmp_path / "judge.py").write_text(
        "def longer(prompt, expected, answer):\n    return len(answer) > len(expected)\n"
    )
    assert validator_of(said, tmp_path, allow_code=True, where="here")("prompt", expected, answer) is right


def test_what_cannot_judge_is_told(tmp_path: Path):
    (tmp_path / "judge.py").write_text("def odd(prompt, expected, answer):\n    return {'1': 1}[answer]\n")
    with pytest.raises(UsageError, match="answers are judged by running Python code"):
        validator_of("python:judge:odd", tmp_path, allow_code=False, where="here")
    odd = validator_of("python:judge:odd", tmp_path, allow_code=True, where="here")
    with pytest.raises(ModelError, match="expected true or false"):
        odd("", "", "1")
    with pytest.raises(ModelError, match="KeyError"):
        odd("", "", "2")
    # Whatever is answered to it.
    for answer in ("x", "y"):
        with pytest.raises(DataError, match="does not match an answer of the data"):
            validator_of("regex:(x)", tmp_path, allow_code=False, where="here")("", "y", answer)


def test_a_pattern_that_does_not_fit_the_data_is_told_when_it_is_read(tmp_path: Path):
    rows = [{"p": f"prompt {one}", "c": "no number" if one else "#1"} for one in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"path": "rows.jsonl", "prompt_column": "p", "completion_column": "c"}

    def read(validator: str) -> Splits:
        spec = LanguageData.model_validate({**keys, "answers": {"validator": validator}})
        return load(spec, tmp_path, 0, "causal-lm")

    assert len(read("regex:#|number").test) == 4
    with pytest.raises(DataError, match="does not match an answer of the data: 'no number'"):
        read(r"regex:#(\d)")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"answers": {"validator": "same"}}, "is not a validator"),
        ({"answers": {"validator": "regex:("}}, "not a valid regular expression"),
        ({"answers": {"validator": "exact", "most": 24}}, "below `max_length`"),
        (
            {"prompt_column": None, "completion_column": None, "answers": {"validator": "exact"}},
            "`answers` needs prompts",
        ),
    ],
)
def test_keys_that_make_no_sense_are_refused(keys: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        task_of(**keys)


def test_what_is_asked_decides_what_is_measured_and_not_what_is_trained():
    said = {"validator": "exact", "most": 8}
    plain, asks = (task_of(**keys).data for keys in ({}, {"context": 3, "answers": said}))
    assert plain.scoring_settings() == {}
    assert asks.scoring_settings() == {"context": 3, "answers": said}
    trained = [one.model_dump(mode="json", exclude=set(one.MEASUREMENT_KEYS)) for one in (plain, asks)]
    assert "answers" not in json.dumps(trained)


def written(*right: bool, **changes: object) -> GeneratedAnswers:
    return GeneratedAnswers(
        validator="contains",
        examples=tuple(3 * place for place in range(len(right))),
        right=right,
        prompts=tuple(f"prompt {place}" for place in range(len(right))),
        expected=("yes",) * len(right),
        answers=tuple("yes" if one else f"no {place}" for place, one in enumerate(right)),
    ).model_copy(update=changes)


def asked_run(before: GeneratedAnswers, after: GeneratedAnswers) -> RunRecord:
    run = bert_run()
    steps = []
    for step in run.steps:
        found = {run.steps[0].step: before, run.steps[-1].step: after}.get(step.step)
        measured = tuple(
            one.model_copy(update={"accuracy": one.accuracy.model_copy(update={"written": found})})
            for one in step.measurements
        )
        steps.append(step.model_copy(update={"measurements": measured}))
    return run.model_copy(update={"steps": tuple(steps)})


def texts(table: Table) -> list[tuple[str, ...]]:
    return [tuple(cell.text for cell in line.cells) for line in table.rows]


def test_changed_answers_stand_side_by_side():
    after = written(False, True, True, p_value=1e-12, verdict="worse")
    run = asked_run(written(True, False, True), after)
    share, broken, fixed = answers(run).tables
    assert [line[1:] for line in texts(share)] == [
        ("2", "66.7 %", MISSING, MISSING),
        ("2", "66.7 %", "p < 0.001", "worse"),
    ]
    assert texts(broken) == [("0", "prompt 0", "yes", "yes", "no 0")]
    assert texts(fixed) == [("3", "prompt 1", "yes", "no 1", "yes")]
    measured = run.steps[0].measurements[0]
    assert redact_texts(measured, keep=True) == measured
    bare = redact_texts(measured, keep=False).accuracy.written
    assert bare == written(True, False, True, prompts=(), expected=(), answers=())
    # Where the report shows no texts, the places are named.
    run = asked_run(bare, after.model_copy(update={"prompts": (), "expected": (), "answers": ()}))
    assert texts(answers(run).tables[1]) == [("0",)]
    assert answers(bert_run()).tables == ()


def test_right_answers_stand_beside_the_score_and_those_of_a_control_beside_its_step():
    many = [place % 4 > 0 for place in range(40)]
    run = asked_run(written(*many), written(*many))
    for name, found in (("distill", written(*many)), ("distill (control)", written(*[False] * 40))):
        (measured,) = next(step for step in run.steps if step.step == name).measurements
        share = Metric(name=RIGHT_ANSWERS.name, value=sum(found.right) / 40, low=0.0, high=1.0, n=40)
        metrics = (*measured.accuracy.metrics, share)
        accuracy = measured.accuracy.model_copy(update={"written": found, "metrics": metrics})
        run = change_step(run, name, measurements=(measured.model_copy(update={"accuracy": accuracy}),))
    run = run.model_copy(update={"task": "causal-lm"})
    beside = answers(run).tables[1]
    (line,) = texts(beside)
    assert line[:4] == ("distill", "distill (control)", "75.0 %", "0.0 %")
    assert line[5] == "better"
    (table,) = result_sections.steps(run).tables
    place = table.columns.index("right answers")
    assert [line[place] for line in texts(table)][:3] == [MISSING, "75.0 %", "0.0 %"]
    for width, shown in ((130, True), (80, True), (40, False)):
        lines = printed(RunTable(run), width=width).splitlines()
        assert ("right" in lines[1]) is shown
        assert all(len(line) <= width for line in lines)
    assert "right answers" not in result_sections.steps(bert_run()).tables[0].columns


def test_what_a_control_was_shown_is_told_once():
    told = {"model": "m", "license": "own", "prompts": 2, "answers": 4, "by_reason": {"kept": 3, "wrong": 1}}
    told |= {
        "prompts_left_out": 0,
        "right_by_prompt": {"1": 1, "2": 1},
        "tokens": 9,
        "written_before": 0,
        "seconds": 1.0,
    }
    samples = [
        Sample(why=why, prompt="1+1", answer=answer) for why, answer in (("kept", "=2"), ("wrong", "=3"))
    ]
    run = bert_run()
    step = run.steps[1].model_copy(update={"facts": {"written": told}, "samples": tuple(samples)})
    control = step.model_copy(
        update={"step": "distill.control", "kind": "distill.control", "role": "control"}
    )
    section = what_was_written(run.model_copy(update={"steps": (run.steps[0], control, step)}))
    *counted, shown = section.tables
    assert {line[0] for table in counted for line in texts(table)} == {"distill"}
    assert [line[:2] for line in texts(shown)] == [
        ("distill.control", "kept"),
        ("distill", "kept"),
        ("distill", "wrong"),
    ]
    assert any(words.startswith("distill.control learnt only the answers") for words in section.paragraphs)
