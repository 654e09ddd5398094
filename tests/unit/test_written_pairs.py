"""Which pairs of a question and an answer serve, and what is asked for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from compress.generation.answers import Answer, FinishReason
from compress.generation.grounded import is_supported
from compress.passes.distill.spec import DistillSpec
from compress.passes.distill.written.documents import draw_passages
from compress.passes.distill.written.pairs import parse_pair, render_student_prompt, render_teacher_prompt
from compress.profile.specs.writing import SyntheticSpec

PASSAGE = (
    "Shares in Norwell rose 4.5% on Tuesday after the firm said its sales in Asia had doubled to 1,200 units. "
    "Chief executive Anna Reed called the result a turning point."
)
ONE = {"passage": "The cat sleeps.", "question": "Who is asleep?", "answer": "The cat sleeps."}


@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ("Chief executive Anna Reed called the result a turning point.", True),
        ("The result was called a turning point by Anna Reed.", True),
        ("They doubled to 1200 units.", True),
        ("Sales doubling in Asia.", True),
        ("Yes.", True),
        # Names and numbers that nobody gave.
        ("They rose by 5% on Tuesday.", False),
        ("They rose 4% on Tuesday.", False),
        ("It was called so by Anna Green.", False),
        ("Its sales in Europe had doubled.", False),
        # What nobody denied.
        ("Its sales in Asia had not doubled.", False),
        ("Anna Reed didn't call the result a turning point.", False),
        # Words that nobody said.
        ("Investors celebrated the wonderful dividend.", False),
        ("The result disappointed investors and lenders.", False),
    ],
)
def test_what_a_passage_supports(said: str, holds: bool):
    assert is_supported(said, PASSAGE, 0.8) is holds


def test_what_a_passage_denies_may_be_denied():
    assert is_supported("Nobody was hurt.", "The road was closed. Nobody was hurt.", 0.8)
    assert not is_supported("The road was never closed.", "The road was closed.", 0.8)


def test_what_is_asked_is_no_support():
    said = 'The result was a turning point, Reed said, and "unexpected".'
    assert is_supported(said, PASSAGE, 0.6)
    assert not is_supported(said, PASSAGE, 0.6, "Was the result a turning point?")


def test_how_much_must_stand_there():
    said = "The result made investors happy."
    assert [is_supported(said, PASSAGE, least) for least in (0.0, 0.25, 0.5)] == [True, True, False]


def written(
    text: str, ended: FinishReason = "end", passage: str = PASSAGE, **keys: Any
) -> tuple[str, str, str]:
    answer = Answer("0", "p", 0, text, [1], ended)
    spec = SyntheticSpec.model_validate(keys)
    pair = parse_pair(answer, passage, spec, lambda question, passage, said: "units" not in said)
    return pair.reason, pair.question, pair.answer


def test_a_pair_is_read_in_either_order():
    kept = ("kept", "What did Anna Reed say?", "She called it a turning point.")
    assert written("Answer: She called it a  turning point.\nQuestion: What did Anna Reed say?") == kept
    text = "question: What did Anna Reed say?\n Answer: She called it a turning point.\n\nQuestion: And?"
    assert written(text) == kept


@pytest.mark.parametrize(
    ("text", "ended", "reason"),
    [
        ("Question: What rose?\nAnswer: Shares in Norwell", "length", "cut at the length"),
        ("Question: What rose?\nAnswer: Shares", "filter", "cut by a filter of the server"),
        ("Question: What rose?\nAnswer: *** rose", "key", "holds the key of the server"),
        ("Shares in Norwell rose.", "end", "no question with an answer"),
        ("Answer: \nQuestion: What rose on Tuesday?", "end", "no question with an answer"),
        ("Answer: Shares rose.\nQuestion: Tell me what rose", "end", "no question of three words"),
        ("Answer: Shares rose.\nQuestion: What rose?", "end", "no question of three words"),
        (
            "Question: What did Anna Reed wear?\nAnswer: The text does not mention it.",
            "end",
            "a refusal",
        ),
        ("Question: What did Reed say?\nAnswer: I'm sorry, I cannot tell.", "end", "a refusal"),
        (
            "Question: What did Reed say?\nAnswer: She praised engineers.",
            "end",
            "not supported by the passage",
        ),
        (
            "Question: Where is Paris on a map?\nAnswer: Sales in Asia had doubled.",
            "end",
            "asks what the passage does not name",
        ),
        (
            "Question: Did sales in Asia double?\nAnswer: Sales in Asia doubled.",
            "end",
            "says no more than its question",
        ),
        (
            "Question: How many were sold?\nAnswer: They doubled to 1,200 units.",
            "end",
            "refused by the validator",
        ),
    ],
)
def test_what_does_not_serve(text: str, ended: FinishReason, reason: str):
    assert written(text, ended)[0] == reason


def test_nothing_must_stand_in_the_passage_where_the_profile_says_so():
    text = "Question: Where is Paris on a map?\nAnswer: It lies in France."
    assert written(text, support=0)[0] == "kept"


def test_what_the_teacher_and_the_student_are_asked():
    spec = SyntheticSpec.model_validate({"ask": "{passage} Ask!", "examples": [ONE]})
    said = "Question: Who is asleep?\nAnswer: The cat sleeps."
    assert render_teacher_prompt(spec, "It rains.", uses_chat=True) == [
        {"role": "user", "content": "The cat sleeps. Ask!"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "It rains. Ask!"},
    ]
    assert (
        render_teacher_prompt(spec, "It rains.", uses_chat=False)
        == f"The cat sleeps. Ask!\n{said}\n\nIt rains. Ask!\n"
    )
    assert render_student_prompt(spec, "A {question}?", "Why {passage}?") == "A {question}?\n\nWhy {passage}?"


def test_every_document_gives_a_passage_before_any_gives_a_second():
    documents = ["a b c", "d", "", "e f"]

    def cut(text: str) -> list[str]:
        return text.split()

    found = [(one.document, one.text) for one in draw_passages(documents, cut, 9, seed=1)]
    assert sorted(found[:3])[0][0] == 0
    assert {place for place, _ in found[:3]} == {0, 1, 3}
    assert {place for place, _ in found[3:5]} == {0, 3}
    assert sorted(text for _, text in found) == list("abcdef")
    assert [(one.document, one.text) for one in draw_passages(documents, cut, 2, seed=1)] == found[:2]
    assert spread(documents, cut) > 1


def spread(documents: Sequence[str], cut: Any) -> int:
    return len({draw_passages(documents, cut, 1, seed)[0].text for seed in range(8)})


def test_a_function_that_judges_pairs_is_code_of_the_profile():
    licensed = {"license": "mit", "license_ok": True}
    for validator, code in (("python:mine:right", ("python:mine:right",)), ("regex:x", ())):
        spec = DistillSpec.model_validate({"sequence": licensed, "synthetic": {"validator": validator}})
        assert spec.code() == code
        assert spec.generates_texts


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"ask": "Ask!"}, "`ask` must contain {passage}"),
        ({"prompt": "{passage}"}, "`prompt` must contain {question}"),
        (
            {"passage_tokens": [9, 8]},
            r"give the fewest tokens first, then the most: `passage_tokens: \[8, 9\]`",
        ),
        ({"validator": "exact"}, "`validator: exact` compares with an answer of the data"),
    ],
)
def test_what_cannot_be_asked(keys: dict[str, Any], why: str):
    with pytest.raises(ValueError, match=why):
        SyntheticSpec.model_validate(keys)
