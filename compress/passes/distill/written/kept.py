"""Selection of the teacher's answers to a prompt, and of the part that is learnt."""

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
    """A judged answer.

    `reason`: why it is accepted or rejected; `lesson`: the text to learn; `alone`: the final answer in it;
    `ends`: the text is complete.
    """

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
    """Judge the answers to one prompt, in order.

    Args:
        unended: accept answers that hit the length limit, for plain texts without an end.
        pattern: finds the final answer, its first group; what follows it is cut off.
        right: whether a text is right.
        most: maximum number of accepted answers.
    """
    found, kept = list[Judged](), set[str]()
    for answer in answers:
        match = None if pattern is None else pattern.search(answer.text)
        lesson = answer.text if match is None else answer.text[: match.end()]
        alone = lesson if match is None else match.group()
        # Hitting the length limit matters only if the lesson extends to the end of the text.
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
