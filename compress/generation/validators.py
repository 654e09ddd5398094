"""Validation of generated answers by the profile's rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from compress.core.disk.source_uris import CODE_PREFIX
from compress.core.errors import ModelError
from compress.profile.specs.validator import REGEX, unmatched_error

Validator = Callable[[str, str, str], bool]
"""(prompt, expected answer, answer) -> whether the answer is right."""


def validator_of(rule: str, base: Path, *, allow_code: bool, where: str) -> Validator:
    """Return the validator that a profile names; `where`: its place in the profile, for errors.

    Raises:
        UsageError: it is code, and that is not allowed.
        ModelError: it is code, and there is no such function.
    """
    if rule.startswith(CODE_PREFIX):
        return _code_validator(rule, base, allow_code)
    if rule.startswith(REGEX):
        return lambda prompt, expected, answer: pattern_matches(
            rule.removeprefix(REGEX), expected, answer, where
        )
    if rule == "contains":
        # Every answer contains nothing: where nothing is expected, nothing is right.
        return lambda prompt, expected, answer: (
            expected.strip() in answer if expected.strip() else not answer.strip()
        )
    return lambda prompt, expected, answer: expected.strip() == answer.strip()


def pattern_matches(pattern: str, expected: str, answer: str, where: str) -> bool:
    """Whether a pattern matches in an answer; with a group, whether it captures the same as in the expected answer.

    Raises:
        DataError: it does not match in the expected answer.
    """
    match, expected_match = re.search(pattern, answer), None
    if re.compile(pattern).groups:
        # Of every answer: else what is wrong with the data shows only once a model writes something that matches.
        expected_match = re.search(pattern, expected)
        if expected_match is None:
            raise unmatched_error(pattern, expected, where)
    if match is None or expected_match is None:
        return match is not None
    return match.group(1) == expected_match.group(1)


def _code_validator(rule: str, base: Path, allow_code: bool) -> Validator:
    from compress.models.teacher.code import import_function

    function = import_function(rule, base, allow_code=allow_code, what="answers are judged")

    def right(prompt: str, expected: str, answer: str) -> bool:
        try:
            verdict = function(prompt, expected, answer)
        except Exception as error:  # the user's own code may raise anything
            raise ModelError(f"{type(error).__name__}: {error}", where=rule) from error
        if not isinstance(verdict, bool):
            raise ModelError(
                f"the function returned {verdict!r} for an answer; expected true or false", where=rule
            )
        return verdict

    return right
