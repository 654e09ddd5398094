"""Nobody outside a task's folder names it or imports from it, the table aside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from compress.tasks.table import TASKS

PACKAGE = Path(__file__).parents[2] / "compress"
FOLDERS = {name.replace("-", "_") for name in TASKS}
NAMED = {
    "compress/tasks/table.py": "the table",
    "compress/runtimes/runner.py": "the table of a file that is copied alone",
    "compress/models/io/architectures.py": "what optimum calls the heads of transformers",
    "compress/profile/reference.py": "the profile that the reference shows",
}
"""Files that may name a task, with the reason."""


def breaches(text: str) -> Iterator[str]:
    """The names of tasks among the words of a file, and what it imports from their folders."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (name for name in TASKS if name in node.value)
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[:2] == ["compress", "tasks"] and len(parts) > 2 and parts[2] in FOLDERS:
                yield node.module


def outside() -> list[Path]:
    slices = [PACKAGE / "tasks" / folder for folder in FOLDERS]
    return [
        file
        for file in sorted(PACKAGE.rglob("*.py"))
        if not any(file.is_relative_to(folder) for folder in slices)
    ]


def test_no_file_outside_a_task_names_it_or_imports_from_it():
    found = {
        name: told
        for file in outside()
        if (name := str(file.relative_to(PACKAGE.parent))) not in NAMED
        and (told := sorted(set(breaches(file.read_text(encoding="utf-8")))))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('if task == "sentence-embedding":\n    pass\n', ["sentence-embedding"]),
        (
            "from compress.tasks.image_classification.task import X\n",
            ["compress.tasks.image_classification.task"],
        ),
        ("from compress.tasks.base import Task\n", []),
    ],
)
def test_a_planted_breach_is_found(text: str, found: list[str]):
    assert list(breaches(text)) == found


def test_each_exception_is_one():
    for name in NAMED:
        assert list(breaches((PACKAGE.parent / name).read_text(encoding="utf-8")))


def test_a_task_imports_from_no_other():
    for folder in FOLDERS:
        for file in (PACKAGE / "tasks" / folder).rglob("*.py"):
            told = set(breaches(file.read_text(encoding="utf-8")))
            assert all(folder in one.replace("-", "_") for one in told), (file, told)
