"""Work on one task leaves the cached steps of the others valid: a file of a copy of the package is edited."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "compress"
TASKS = ("text-classification", "image-classification", "sentence-embedding")
PRINT_KEYS = """
import json, sys
from compress.core.numerics import Numerics
from compress.planning.keys import Fingerprints, all_parts, key_of
from compress.planning.steps import build_plan
from compress.profile.schema import Profile

def keys(task):
    teacher = {"model": "owner/model"}
    losses = [{"output": "cosine"}] if task == "sentence-embedding" else [{"logits": {}}]
    passes = [{"distill": {"losses": losses}}, {"quantize": {"bits": 8}}, {"export": {}}]
    profile = Profile.model_validate(
        {"name": "job", "task": task, "data": {"path": "data.csv"}, "teacher": teacher, "passes": passes}
    )
    known = Fingerprints({("owner/model", None): "m"}, "d")
    parts = all_parts(build_plan(profile), known, Numerics("cpu", 2, bf16=True))
    return {name: key_of(one) for name, one in parts.items()}

print(json.dumps({task: keys(task) for task in sys.argv[1:]}))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, folder / "compress", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def keys(folder: Path) -> dict[str, dict[str, str]]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", PRINT_KEYS, *TASKS]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def before(copy: Path) -> dict[str, dict[str, str]]:
    return keys(copy)


@pytest.mark.parametrize(
    ("file", "tasks"),
    [
        ("tasks/sentence_embedding/similarity.py", {"sentence-embedding"}),
        ("tasks/sentence_embedding/pairs.py", {"sentence-embedding"}),
        ("tasks/image_classification/task.py", {"image-classification"}),
        ("tasks/text_classification/kind.py", {"text-classification"}),
        ("tasks/labels.py", {"text-classification", "image-classification"}),
        # What a record and a report say is no part of what a step makes, and neither is which tasks there are.
        ("tasks/sentence_embedding/record.py", set()),
        ("tasks/table.py", set()),
        # Nor is how texts are written by their labels, where none are.
        ("passes/generate/step.py", set()),
        ("data/splits.py", set(TASKS)),
    ],
)
def test_a_key_holds_the_code_of_its_own_task(
    file: str, tasks: set[str], copy: Path, before: dict[str, dict[str, str]]
):
    path = copy / "compress" / file
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "\n# edited\n", encoding="utf-8")
    try:
        after = keys(copy)
    finally:
        path.write_text(text, encoding="utf-8")
    assert {task for task in TASKS if after[task]["distill"] != before[task]["distill"]} == tasks
    assert {task for task in TASKS if after[task] != before[task]} == tasks
