"""Every path of this repository that the documents name is there: modules move, and sentences stay."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
FOLDERS = ("compress", "tests", "benchmarks", "docs", "profiles", "reports", "requirements")
THERE = [
    "/" + path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in (ROOT / folder, *(ROOT / folder).rglob("*"))
    if "__pycache__" not in path.parts
]
MADE = ("predict.py", "README.md", "report.md", "compress/bin/pip")
"""What a run writes, or a user makes."""


def named(text: str) -> set[str]:
    """The paths in a document: between back quotes, Python files, and what begins with a folder of ours."""
    words = {word for span in re.findall(r"`([^`\n]+)`", text) for word in span.split()}
    paths = {word.strip(",;:()").rstrip("/") for word in words if re.fullmatch(r"[\w./<>*-]+", word)}
    return {
        path
        for path in paths
        if path.endswith((".py", ".md")) or ("/" in path and path.split("/")[0] in FOLDERS)
    } - set(MADE)


def is_there(path: str) -> bool:
    """Whether a file or folder is called that, or ends so; `<pass>` stands for any name."""
    pattern = "*/" + re.sub(r"<\w+>", "*", path)
    return any(fnmatch(one, pattern) for one in THERE) or (ROOT / path).exists()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_what_a_document_names_is_there(document: Path):
    text = document.read_text(encoding="utf-8")
    assert sorted(path for path in named(text) if not is_there(path)) == []
    links = re.findall(r"\]\(([^)#:\s]+)[^)]*\)", text)
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_paths_are_found_and_missed():
    found = named("`compress/cli/` and `gap.py`, `passes/<pass>/kind.py`; `a/b` is none, nor `x.onnx`")
    assert found == {"compress/cli", "gap.py", "passes/<pass>/kind.py"}
    assert is_there("passes/<pass>/kind.py")
    assert is_there("half/conversion.py")
    assert not is_there("passes/<pass>/kinds.py")
