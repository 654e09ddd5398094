"""What many cases say, word for word, in one file here for each table: the table itself says what is wrong and where.

`REWRITE_GOLDEN=1 pytest tests/unit/test_x.py` writes the file anew; what it changed is then read in the diff.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

REWRITE = "REWRITE_GOLDEN"


def check(name: str, case: str, said: Sequence[str]) -> None:
    """Compare what a case says with the lines that stand below its name in `NAME.txt`."""
    known = cases(name)
    if os.environ.get(REWRITE):
        known[case] = list(said)
        blocks = (f"# {each}\n" + "".join(f"{line}\n" for line in lines) for each, lines in known.items())
        _file(name).write_text("\n".join(blocks))
    assert list(said) == known.get(case), f"{case}; {REWRITE}=1 writes down what is said now"


def cases(name: str) -> dict[str, list[str]]:
    """The lines of each case of `NAME.txt`."""
    found: dict[str, list[str]] = {}
    file = _file(name)
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith("# "):
            found[line[2:]] = lines = []
        elif line:
            lines.append(line)
    return found


def _file(name: str) -> Path:
    return Path(__file__).parent / f"{name}.txt"
