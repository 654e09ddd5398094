"""Validators of answers: `exact`, `contains`, `regex:PATTERN` or `python:module:function`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from compress.core.disk.source_uris import CODE
from compress.core.errors import DataError

REGEX = "regex:"
PLAIN = ("exact", "contains")


def _known(validator: str) -> str:
    if validator.startswith(REGEX):
        pattern_of(validator)
    elif validator not in PLAIN and not validator.startswith(CODE):
        raise ValueError(
            f"{validator!r} is not a validator; known: exact, contains, regex:PATTERN, python:module:function"
        )
    return validator


def pattern_of(said: str) -> re.Pattern[str]:
    """Return the compiled pattern of `regex:PATTERN`.

    Raises:
        ValueError: it is not a valid regular expression.
    """
    try:
        return re.compile(said.removeprefix(REGEX))
    except re.error as error:
        raise ValueError(f"the pattern is not a valid regular expression: {error}") from error


def unmatched(pattern: str, expected: str, where: str) -> DataError:
    """The error of an answer of the data in which a pattern finds nothing to compare with."""
    return DataError(
        f"the pattern {pattern!r} does not match an answer of the data: {expected[:80]!r}",
        where=where,
        code="validator",
    )


ValidatorName = Annotated[str, AfterValidator(_known)]
