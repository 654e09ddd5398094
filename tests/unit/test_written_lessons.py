"""What of a teacher's texts is learnt, whose texts may be, and how an answer becomes an example."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from compress.generation.answers import Answer, FinishReason
from compress.passes.distill.spec import DistillSpec
from compress.passes.distill.written.kept import judge_answers
from compress.passes.distill.written.lessons import fill_ask
from compress.profile.specs.license import forbidding_terms
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.task import CausalLanguageModel
from compress.tasks.causal_lm.text.documents import Piece, answered_item, pieces_of

PATTERN = re.compile(r"#(\d*)")


def answer(text: str, ended: FinishReason = "end", sample: int = 0) -> Answer:
    return Answer("0", "p", sample, text, [1] * len(text), ended)


@pytest.mark.parametrize(
    ("written", "ways", "expected"),
    [
        ([("a", "end"), ("a  ", "stop"), ("b", "end")], {}, ["kept", "repeated", "kept"]),
        ([(" \n", "end"), ("a", "length")], {}, ["empty", "cut at the length"]),
        ([("a", "filter"), ("a", "end")], {}, ["cut by a filter of the server", "kept"]),
        ([("***", "key"), ("***", "key")], {}, ["holds the key of the server"] * 2),
        # What is left out does not stand in the way of an answer like it.
        ([("6\n\n", "length"), ("6", "end"), ("6 ", "end")], {}, ["cut at the length", "kept", "repeated"]),
        ([("a", "length"), ("", "length")], {"unended": True}, ["kept", "empty"]),
        (
            [("x #1 y", "end"), ("x", "end"), ("#", "end")],
            {"pattern": PATTERN},
            ["kept", *["without an answer"] * 2],
        ),
        # What is cut behind the answer is no loss; an answer at the cut may go on.
        ([("x #1 y", "length"), ("x #1", "length")], {"pattern": PATTERN}, ["kept", "cut at the length"]),
        ([("b", "end"), ("a", "end")], {"right": "a".__eq__}, ["wrong", "kept"]),
        (
            [(text, "end") for text in "abab"],
            {"most": 1},
            ["kept", "more than are kept", "repeated", "more than are kept"],
        ),
    ],
)
def test_what_is_kept(written: list[tuple[str, FinishReason]], ways: dict[str, Any], expected: list[str]):
    assert [one.reason for one in judge_answers((answer(*each) for each in written), **ways)] == expected


def test_a_trace_ends_with_its_answer():
    (found,) = judge_answers([answer("one and one #2, so", "length")], pattern=PATTERN)
    assert (found.text, found.final_answer, found.is_complete) == ("one and one #2", "#2", True)
    (found,) = judge_answers([answer("on and on", "length")], unended=True)
    assert (found.text, found.is_complete) == ("on and on", False)


def render(messages: Sequence[Mapping[str, str]], asks: bool) -> str:
    said = "".join(f"{one['role'][0]}:{one['content']};" for one in messages)
    return said + "a:" if asks else said


def test_the_answer_alone_is_learnt():
    asked = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "so"},
    ]
    item = answered_item(asked, "yes", ends=True)
    assert pieces_of(item, "messages", render) == [
        Piece("u:hi;a:ho;u:so;a:", is_target=False),
        Piece("yes;", is_target=True),
    ]
    for ends in (True, False):
        found = pieces_of(answered_item("two", "three", ends=ends), "prompts", None)
        assert found == [Piece("two", is_target=False), Piece("three", is_target=True, has_end_token=ends)]


def test_a_question_is_what_stands_before_the_answer():
    plain = CausalLanguageModel(LanguageData.model_validate({"path": "x.jsonl"}))
    assert plain.split_prompt("one two", lambda text: text[:3]) == ("one", " two")
    assert plain.answered_task.data.example_format == "prompts"
    keys = {"path": "x.jsonl", "prompt_column": "p", "completion_column": "c"}
    prompts = CausalLanguageModel(LanguageData.model_validate(keys))
    assert prompts.split_prompt('{"prompt": "one", "completion": "two"}', str.upper) == ("one", "two")
    assert prompts.answered_task is prompts


def test_the_teacher_may_be_asked_otherwise():
    ask = "Think. {prompt} Now!"
    assert fill_ask(ask, "2+2?") == "Think. 2+2? Now!"
    said = [{"role": "system", "content": "s"}, {"role": "user", "content": "2+2?"}]
    assert fill_ask(ask, said) == [said[0], {"role": "user", "content": "Think. 2+2? Now!"}]


@pytest.mark.parametrize(
    ("license_name", "model", "who"),
    [
        ("openai", "anything", "OpenAI"),
        ("other", "gpt-4o-mini", "OpenAI"),
        ("other", "openai/o3-mini", "OpenAI"),
        ("mit", "openai-community/gpt2", None),
        ("apache-2.0", "openai/gpt-oss-20b", None),
        ("other", "claude-sonnet-4", "Anthropic"),
        ("other", "anthropic/claude-3-haiku", "Anthropic"),
        ("other", "models/gemini-2.0-flash", "Google"),
        ("gemma", "google/gemma-2-2b", None),
        ("other", "x-ai/grok-3", "xAI"),
        ("apache-2.0", "xai-org/grok-1", None),
        ("Llama 2", "mine", "Meta"),
        ("llama3", "mine", "Meta"),
        ("other", "meta-llama/Meta-Llama-3-8B", "Meta"),
        ("llama3.1", "meta-llama/Llama-3.1-8B", None),
        ("llama3.2", "meta-llama/Llama-3.2-1B", None),
        ("apache-2.0", "HuggingFaceTB/SmolLM2-135M-Instruct", None),
        ("tencent-hunyuan-community", "mine", "Tencent"),
    ],
)
def test_terms_that_forbid_it_are_known(license_name: str, model: str, who: str | None):
    found = forbidding_terms(license_name, model)
    assert (None if found is None else found.vendor) == who


def test_the_next_token_is_learnt_unless_losses_say_otherwise():
    sequence = {"license": "mit", "license_ok": True}
    assert [one.key for one in DistillSpec.model_validate({"sequence": sequence}).losses] == ["next_token"]
    named = DistillSpec.model_validate({"sequence": sequence, "losses": [{"logits": {}}]})
    assert [one.key for one in named.losses] == ["logits"]
