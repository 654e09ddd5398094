"""Validators of answers: `exact`, `contains`, `regex:PATTERN` or `python:module:function`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from compress.core.disk.source_uris import CODE_PREFIX
from compress.core.errors import DataError

REGEX = "regex:"
BUILTIN_VALIDATORS = ("exact", "contains")


def _check_validator(validator: str) -> str:
    if validator.startswith(REGEX):
        pattern_of(validator)
    elif validator not in BUILTIN_VALIDATORS and not validator.startswith(CODE_PREFIX):
        raise ValueError(
            f"{validator!r} is not a validator; known: exact, contains, regex:PATTERN, python:module:function"
        )
    return validator


def pattern_of(validator: str) -> re.Pattern[str]:
    """Return the compiled pattern of `regex:PATTERN`.

    Raises:
        ValueError: it is not a valid regular expression.
    """
    try:
        return re.compile(validator.removeprefix(REGEX))
    except re.error as error:
        raise ValueError(f"the pattern is not a valid regular expression: {error}") from error


def unmatched_error(pattern: str, expected: str, where: str) -> DataError:
    """The error of an answer of the data in which a pattern finds nothing to compare with."""
    return DataError(
        f"the pattern {pattern!r} does not match an answer of the data: {expected[:80]!r}",
        where=where,
        code="validator",
    )


ValidatorName = Annotated[str, AfterValidator(_check_validator)]
