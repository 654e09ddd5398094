"""`--only`: run some rows of a benchmark again and leave the others of its report as they are."""

from __future__ import annotations

import argparse
from typing import Any

from writing import read_rows


def add_only(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--only", nargs="*", help="names, or beginnings of names: the other rows stay as they are"
    )


def is_asked(name: str, only: list[str] | None) -> bool:
    """Whether a row is to be run."""
    return not only or any(name.startswith(wanted) for wanted in only)


def rows_that_stay(benchmark: str, key: str, only: list[str] | None) -> dict[str, dict[str, Any]]:
    """The rows of the report by the value of their `key`; none where all are run."""
    return {row[key]: row for row in read_rows(benchmark)} if only else {}
