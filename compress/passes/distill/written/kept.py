"""Selection of the teacher's answers to a prompt, and of the part that is learnt."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from compress.generation.answers import Answer
from compress.generation.reasons import WITHHELD

ACCEPTED, TRUNCATED, EMPTY, UNANSWERED, WRONG, DUPLICATE, SURPLUS = (
    "kept",
    "cut at the length",
    "empty",
    "without an answer",
    "wrong",
    "repeated",
    "more than are kept",
)
REASONS = (ACCEPTED, TRUNCATED, *WITHHELD.values(), EMPTY, UNANSWERED, WRONG, DUPLICATE, SURPLUS)


@dataclass(frozen=True)
class JudgedAnswer:
    """A judged answer.

    `reason`: why it is accepted or rejected; `text`: the text to learn; `final_answer`: the final answer in it;
    `is_complete`: the text is complete.
    """

    reason: str
    text: str
    final_answer: str
    is_complete: bool = True


def judge_answers(
    answers: Iterable[Answer],
    *,
    unended: bool = False,
    pattern: re.Pattern[str] | None = None,
    right: Callable[[str], bool] = lambda answer: True,
    most: int | None = None,
) -> list[JudgedAnswer]:
    """Judge the answers to one prompt, in order.

    Args:
        unended: accept answers that hit the length limit, for plain texts without an end.
        pattern: finds the final answer, its first group; what follows it is cut off.
        right: whether a text is right.
        most: maximum number of accepted answers.
    """
    results, accepted = list[JudgedAnswer](), set[str]()
    for answer in answers:
        match = None if pattern is None else pattern.search(answer.text)
        text = answer.text if match is None else answer.text[: match.end()]
        final_answer = text if match is None else match.group()
        # Hitting the length limit matters only if the lesson extends to the end of the text.
        truncated = answer.ended == "length" and len(text) == len(answer.text)
        normalized = " ".join(text.split())
        reason = ACCEPTED
        if not normalized:
            reason = EMPTY
        elif answer.ended in WITHHELD:
            reason = WITHHELD[answer.ended]
        elif truncated and not unended:
            reason = TRUNCATED
        elif pattern is not None and (match is None or not (match.group(1) or "").strip()):
            reason = UNANSWERED
        elif not right(text):
            reason = WRONG
        elif normalized in accepted:
            reason = DUPLICATE
        elif most is not None and len(accepted) == most:
            reason = SURPLUS
        else:
            accepted.add(normalized)
        results.append(JudgedAnswer(reason, text, final_answer, not truncated))
    return results
