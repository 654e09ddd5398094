"""Question-answer pairs about a passage: the teacher's prompt, parsing, and acceptance."""

from __future__ import annotations

import re
from dataclasses import dataclass

from compress.generation.answers import Answer
from compress.generation.grounded import adds_nothing, is_supported, names_occur
from compress.generation.reasons import WITHHELD
from compress.generation.validators import Validator
from compress.models.text.chat import Prompt
from compress.passes.distill.written.kept import ACCEPTED, TRUNCATED
from compress.profile.specs.writing import PASSAGE, QUESTION, PairSpec, SyntheticSpec

(
    NO_PAIR,
    NO_QUESTION,
    REFUSED,
    UNSUPPORTED,
    UNNAMED_SUBJECT,
    UNINFORMATIVE,
    INVALID,
    TOO_LONG,
    NEAR_DUPLICATE,
    HELD_OUT_COPY,
) = (
    "no question with an answer",
    "no question of three words",
    "a refusal",
    "not supported by the passage",
    "asks what the passage does not name",
    "says no more than its question",
    "refused by the validator",
    "too long",
    "a copy of another",
    "a copy of what is held out",
)
PAIR_REASONS = (
    ACCEPTED,
    TRUNCATED,
    *WITHHELD.values(),
    NO_PAIR,
    NO_QUESTION,
    REFUSED,
    UNSUPPORTED,
    UNNAMED_SUBJECT,
    UNINFORMATIVE,
    INVALID,
    TOO_LONG,
    NEAR_DUPLICATE,
    HELD_OUT_COPY,
)
_PAIR_LABEL = re.compile(r"^[ \t]*(Question|Answer):[ \t]*", re.MULTILINE | re.IGNORECASE)
_EXAMPLE_SEPARATOR = "\n\n"
"""Separates few-shot examples in a text prompt, and stops generation after one."""
_REFUSAL = re.compile(
    r"\b(i(['’]m| am) (sorry|unable|not able)|i (cannot|can['’]?t|do(n['’]t| not) (know|have))"
    r"|as an ai|ai (language )?model"
    r"|(does|do|did|is|are|was|were)(n['’]t| not) (\w+ )?(mention|provide|specif|state|given|clear|contain)\w*"
    r"|no (information|answer))\b",
    re.IGNORECASE,
)
_MIN_QUESTION_WORDS = 3


@dataclass(frozen=True)
class Pair:
    """A question with its answer, and the reason why it is accepted or rejected."""

    reason: str
    question: str
    answer: str


def render_teacher_prompt(spec: SyntheticSpec, passage: str, *, uses_chat: bool) -> Prompt:
    """Return the few-shot prompt about a passage: a conversation, or a text to continue."""

    def render(example: PairSpec) -> str:
        return f"Question: {example.question}\nAnswer: {example.answer}"

    question = spec.ask.replace(PASSAGE, passage)
    shots = [(spec.ask.replace(PASSAGE, example.passage), render(example)) for example in spec.examples]
    if not uses_chat:
        return "".join(f"{one}\n{other}{_EXAMPLE_SEPARATOR}" for one, other in shots) + f"{question}\n"
    turns = [(role, text) for pair in shots for role, text in zip(("user", "assistant"), pair, strict=True)]
    return [{"role": role, "content": text} for role, text in (*turns, ("user", question))]


def stop_strings(*, uses_chat: bool) -> tuple[str, ...]:
    """Return the stop strings; a chat model ends its turn itself."""
    return () if uses_chat else (_EXAMPLE_SEPARATOR,)


def render_student_prompt(spec: SyntheticSpec, passage: str, question: str) -> str:
    """Return the student's prompt."""
    # A passage may contain the placeholder of the question, so it is inserted after splitting.
    parts = (part.replace(PASSAGE, passage) for part in spec.prompt.split(QUESTION))
    return question.join(parts)


def parse_pair(answer: Answer, passage: str, spec: SyntheticSpec, validator: Validator | None) -> Pair:
    """Parse the first question and answer of a generated text, and judge the pair by itself."""
    parts = _PAIR_LABEL.split(answer.text)
    fields: dict[str, str] = {}
    for label, text in zip(parts[1::2], parts[2::2], strict=True):
        fields.setdefault(label.lower(), " ".join(text.strip().partition("\n")[0].split()))
    pair = Pair(ACCEPTED, fields.get("question", ""), fields.get("answer", ""))
    return Pair(_reason(answer, pair, passage, spec, validator), pair.question, pair.answer)


def _reason(
    answer: Answer, pair: Pair, passage: str, spec: SyntheticSpec, validator: Validator | None
) -> str:
    question, answer_text = pair.question, pair.answer
    if answer.ended in WITHHELD:
        return WITHHELD[answer.ended]
    if answer.ended == "length":
        return TRUNCATED
    if not question or not answer_text:
        return NO_PAIR
    if not question.endswith(("?", "？", "؟")) or len(question.split()) < _MIN_QUESTION_WORDS:
        return NO_QUESTION
    if _REFUSAL.search(answer_text) and not _REFUSAL.search(passage):
        return REFUSED
    if spec.support and not is_supported(answer_text, passage, spec.support, question):
        return UNSUPPORTED
    if spec.support and not names_occur(question, passage):
        return UNNAMED_SUBJECT
    if adds_nothing(answer_text, question):
        return UNINFORMATIVE
    if validator is not None and not validator(question, passage, answer_text):
        return INVALID
    return ACCEPTED
