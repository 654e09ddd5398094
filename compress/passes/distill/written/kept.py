"""Which of the answers that a teacher wrote to a prompt are learnt, and what of them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from compress.generation.answers import Answer
from compress.generation.reasons import WITHHELD

KEPT, CUT, EMPTY, UNANSWERED, WRONG, REPEATED, SPARE = (
    "kept",
    "cut at the length",
    "empty",
    "without an answer",
    "wrong",
    "repeated",
    "more than are kept",
)
REASONS = (KEPT, CUT, *WITHHELD.values(), EMPTY, UNANSWERED, WRONG, REPEATED, SPARE)


@dataclass(frozen=True)
class Judged:
    """Why an answer is kept or left out, what is learnt of it, what of that is the answer alone, and whether the text
    ends there."""

    reason: str
    lesson: str
    alone: str
    ends: bool = True


def judged(
    answers: Iterable[Answer],
    *,
    unended: bool = False,
    pattern: re.Pattern[str] | None = None,
    right: Callable[[str], bool] = lambda answer: True,
    most: int | None = None,
) -> list[Judged]:
    """The answers to one prompt, in their order.

    Args:
        unended: keep those that were cut at the length, too: of texts that go on, there is no end.
        pattern: finds the answer, its first group; what stands behind it is no part of the lesson.
        right: whether a lesson is right.
        most: so many are kept.
    """
    found, kept = list[Judged](), set[str]()
    for answer in answers:
        match = None if pattern is None else pattern.search(answer.text)
        lesson = answer.text if match is None else answer.text[: match.end()]
        alone = lesson if match is None else match.group()
        # What was cut off matters only where the lesson reaches it.
        cut = answer.ended == "length" and len(lesson) == len(answer.text)
        said = " ".join(lesson.split())
        reason = KEPT
        if not said:
            reason = EMPTY
        elif answer.ended in WITHHELD:
            reason = WITHHELD[answer.ended]
        elif cut and not unended:
            reason = CUT
        elif pattern is not None and (match is None or not (match.group(1) or "").strip()):
            reason = UNANSWERED
        elif not right(lesson):
            reason = WRONG
        elif said in kept:
            reason = REPEATED
        elif most is not None and len(kept) == most:
            reason = SPARE
        else:
            kept.add(said)
        found.append(Judged(reason, lesson, alone, not cut))
    return found
