"""Question-answer pairs about a passage: the teacher's prompt, parsing, and acceptance."""

from __future__ import annotations

import re
from dataclasses import dataclass

from compress.generation.answers import Answer
from compress.generation.grounded import adds_nothing, names_occur, supported
from compress.generation.reasons import WITHHELD
from compress.generation.validators import Validator
from compress.models.text.chat import Prompt
from compress.passes.distill.written.kept import CUT, KEPT
from compress.profile.specs.writing import PASSAGE, QUESTION, PairSpec, SyntheticSpec

NO_PAIR, NO_QUESTION, REFUSED, UNSUPPORTED, FOREIGN, HOLLOW, INVALID, LONG, ALIKE, COPIED = (
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
    KEPT,
    CUT,
    *WITHHELD.values(),
    NO_PAIR,
    NO_QUESTION,
    REFUSED,
    UNSUPPORTED,
    FOREIGN,
    HOLLOW,
    INVALID,
    LONG,
    ALIKE,
    COPIED,
)
_LABELS = re.compile(r"^[ \t]*(Question|Answer):[ \t]*", re.MULTILINE | re.IGNORECASE)
_BETWEEN = "\n\n"
"""Separates few-shot examples in a text prompt, and stops generation after one."""
_REFUSAL = re.compile(
    r"\b(i(['’]m| am) (sorry|unable|not able)|i (cannot|can['’]?t|do(n['’]t| not) (know|have))"
    r"|as an ai|ai (language )?model"
    r"|(does|do|did|is|are|was|were)(n['’]t| not) (\w+ )?(mention|provide|specif|state|given|clear|contain)\w*"
    r"|no (information|answer))\b",
    re.IGNORECASE,
)
_FEWEST_WORDS = 3


@dataclass(frozen=True)
class Pair:
    """A question with its answer, and the reason why it is accepted or rejected."""

    reason: str
    question: str
    answer: str


def asked_of(spec: SyntheticSpec, passage: str, *, converses: bool) -> Prompt:
    """Return the few-shot prompt about a passage: a conversation, or a text to continue."""

    def said(example: PairSpec) -> str:
        return f"Question: {example.question}\nAnswer: {example.answer}"

    asked = spec.ask.replace(PASSAGE, passage)
    before = [(spec.ask.replace(PASSAGE, example.passage), said(example)) for example in spec.examples]
    if not converses:
        return "".join(f"{one}\n{other}{_BETWEEN}" for one, other in before) + f"{asked}\n"
    turns = [(role, text) for pair in before for role, text in zip(("user", "assistant"), pair, strict=True)]
    return [{"role": role, "content": text} for role, text in (*turns, ("user", asked))]


def stops_of(*, converses: bool) -> tuple[str, ...]:
    """Return the stop strings; a chat model ends its turn itself."""
    return () if converses else (_BETWEEN,)


def prompt_of(spec: SyntheticSpec, passage: str, question: str) -> str:
    """Return the student's prompt."""
    # A passage may contain the placeholder of the question, so it is inserted after splitting.
    parts = (part.replace(PASSAGE, passage) for part in spec.prompt.split(QUESTION))
    return question.join(parts)


def pair_of(answer: Answer, passage: str, spec: SyntheticSpec, validator: Validator | None) -> Pair:
    """Parse the first question and answer of a generated text, and judge the pair by itself."""
    parts = _LABELS.split(answer.text)
    found: dict[str, str] = {}
    for label, said in zip(parts[1::2], parts[2::2], strict=True):
        found.setdefault(label.lower(), " ".join(said.strip().partition("\n")[0].split()))
    pair = Pair(KEPT, found.get("question", ""), found.get("answer", ""))
    return Pair(_reason(answer, pair, passage, spec, validator), pair.question, pair.answer)


def _reason(
    answer: Answer, pair: Pair, passage: str, spec: SyntheticSpec, validator: Validator | None
) -> str:
    question, said = pair.question, pair.answer
    if answer.ended in WITHHELD:
        return WITHHELD[answer.ended]
    if answer.ended == "length":
        return CUT
    if not question or not said:
        return NO_PAIR
    if not question.endswith(("?", "？", "؟")) or len(question.split()) < _FEWEST_WORDS:
        return NO_QUESTION
    if _REFUSAL.search(said) and not _REFUSAL.search(passage):
        return REFUSED
    if spec.support and not supported(said, passage, spec.support, question):
        return UNSUPPORTED
    if spec.support and not names_occur(question, passage):
        return FOREIGN
    if adds_nothing(said, question):
        return HOLLOW
    if validator is not None and not validator(question, passage, said):
        return INVALID
    return KEPT
