"""Validation of generated answers by the profile's rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from compress.core.disk.source_uris import CODE
from compress.core.errors import ModelError
from compress.profile.specs.validator import REGEX, unmatched

Validator = Callable[[str, str, str], bool]
"""(prompt, expected answer, answer) -> whether the answer is right."""


def validator_of(said: str, base: Path, *, allow_code: bool, where: str) -> Validator:
    """Return the validator that a profile names; `where`: its place in the profile, for errors.

    Raises:
        UsageError: it is code, and that is not allowed.
        ModelError: it is code, and there is no such function.
    """
    if said.startswith(CODE):
        return _of_code(said, base, allow_code)
    if said.startswith(REGEX):
        return lambda prompt, expected, answer: pattern_agrees(
            said.removeprefix(REGEX), expected, answer, where
        )
    if said == "contains":
        # Every answer contains nothing: where nothing is expected, nothing is right.
        return lambda prompt, expected, answer: (
            expected.strip() in answer if expected.strip() else not answer.strip()
        )
    return lambda prompt, expected, answer: expected.strip() == answer.strip()


def pattern_agrees(pattern: str, expected: str, answer: str, where: str) -> bool:
    """Whether a pattern matches in an answer; with a group, whether it captures the same as in the expected answer.

    Raises:
        DataError: it does not match in the expected answer.
    """
    found, wanted = re.search(pattern, answer), None
    if re.compile(pattern).groups:
        # Of every answer: else what is wrong with the data shows only once a model writes something that matches.
        wanted = re.search(pattern, expected)
        if wanted is None:
            raise unmatched(pattern, expected, where)
    if found is None or wanted is None:
        return found is not None
    return found.group(1) == wanted.group(1)


def _of_code(said: str, base: Path, allow_code: bool) -> Validator:
    from compress.models.teacher.code import function_of

    judge = function_of(said, base, allow_code=allow_code, what="answers are judged")

    def right(prompt: str, expected: str, answer: str) -> bool:
        try:
            found = judge(prompt, expected, answer)
        except Exception as error:  # the user's own code may raise anything
            raise ModelError(f"{type(error).__name__}: {error}", where=said) from error
        if not isinstance(found, bool):
            raise ModelError(
                f"the function returned {found!r} for an answer; expected true or false", where=said
            )
        return found

    return right
