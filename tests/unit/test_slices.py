"""A task, a pass and a loss are slices: nobody outside the folder of one imports from it or names it, its table
aside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from compress.passes.table import COMMON_STEPS, PASSES
from compress.tasks.table import TASKS

PACKAGE = Path(__file__).parents[2] / "compress"
ROOMS = ("tasks", "passes", "losses")
NAMES = {*TASKS, *PASSES}
"""What profiles call tasks and passes. What losses are called (`labels`, `hidden`) is said of many other things."""
Slice = tuple[str, str]

NAMED = {
    "runtimes/runner.py": "the table of a file that is copied alone",
    "models/io/architectures.py": "what optimum calls the heads of transformers",
    "profile/reference.py": "the profile that the reference shows",
    "cli/verbs/cache.py": "the verb `cache prune`",
}
"""Files that may say a name, with the reason. None may import."""


def slices_of(package: Path) -> set[Slice]:
    """Room and folder of each slice."""
    return {(room, file.parent.name) for room in ROOMS for file in package.glob(f"{room}/*/__init__.py")}


def breaches(package: Path) -> Iterator[tuple[str, str]]:
    """File and what in it belongs to a slice that is not its own."""
    slices = slices_of(package)
    for file in sorted(package.rglob("*.py")):
        place = file.relative_to(package)
        if len(place.parts) == 2 and place.parts[0] in ROOMS and place.name == "table.py":
            continue
        here = place.parts[:2]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for module in modules_in(node):
                there = tuple(module.split(".")[1:3])
                if there in slices and there != here:
                    yield str(place), module
            yield from ((str(place), name) for name in names_in(node) if folder_of(name) not in here)


def folder_of(name: str) -> str:
    """The folder of the slice of that name; of the kind of a step, that of its pass."""
    return name.partition(".")[0].replace("-", "_")


def modules_in(node: ast.AST) -> Iterator[str]:
    """What a node imports of the package, or names as `module:attribute` for others to import."""
    if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("compress."):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.startswith("compress."))
    elif isinstance(node, ast.Constant) and str(node.value).startswith("compress.") and " " not in node.value:
        yield node.value.replace(":", ".")


def names_in(node: ast.AST) -> Iterator[str]:
    """The name of a task anywhere in a text, that of a pass that is the whole of it or the kind of a step, and whatever
    the kind of a step is compared with."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from (task for task in TASKS if task in node.value)
        if node.value.partition(".")[0] in PASSES and " " not in node.value:
            yield node.value
    elif isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        if any(isinstance(side, ast.Attribute) and side.attr == "kind" for side in sides):
            told = {side.value for side in sides if isinstance(side, ast.Constant)}
            yield from sorted(told & COMMON_STEPS.keys())


def test_nobody_outside_a_slice_imports_from_it_or_names_it():
    found = [(file, told) for file, told in breaches(PACKAGE) if file not in NAMED or told not in NAMES]
    assert found == []


def test_each_exception_is_one():
    assert {file for file, told in breaches(PACKAGE) if told in NAMES} == set(NAMED)


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        ("engine/x.py", 'if task == "sentence-embedding":\n    pass\n', "sentence-embedding"),
        ("engine/x.py", 'match kind:\n    case "quantize":\n        pass\n', "quantize"),
        ("engine/x.py", 'WORDS = {"distill": 1}\n', "distill"),
        ("engine/x.py", 'if kind == "quantize.half":\n    pass\n', "quantize.half"),
        (
            "engine/x.py",
            "from compress.passes.prune.spec import PruneSpec\n",
            "compress.passes.prune.spec.PruneSpec",
        ),
        ("engine/x.py", 'if step.kind == "source":\n    pass\n', "source"),
        ("passes/prune/step.py", 'if other.kind == "quantize":\n    pass\n', "quantize"),
        ("engine/x.py", "import compress.losses.logits.term\n", "compress.losses.logits.term"),
        ("engine/x.py", "from compress.passes import prune\n", "compress.passes.prune"),
        ("engine/x.py", 'RUN = "compress.passes.prune.step:run"\n', "compress.passes.prune.step.run"),
        (
            "tasks/base.py",
            "from compress.tasks.labels_only.task import X\n",
            "compress.tasks.labels_only.task.X",
        ),
        (
            "tasks/labels_only/kind.py",
            'X = "compress.passes.prune.step:run"\n',
            "compress.passes.prune.step.run",
        ),
        (
            "passes/prune/step.py",
            "from compress.losses.logits.spec import X\n",
            "compress.losses.logits.spec.X",
        ),
        ("passes/table.py", 'PASSES = {"prune": "compress.passes.prune.kind:PRUNE"}\n', None),
        ("passes/prune/step.py", 'from compress.passes.prune.spec import X\nY = "prune"\n', None),
        (
            "engine/x.py",
            "from compress.losses.table import LOSSES\nfrom compress.tasks.base import Task\n",
            None,
        ),
        ("engine/x.py", 'body["source"] = 1\n', None),
        ("engine/x.py", 'HINT = "prune less, or export it."\n', None),
    ],
)
def test_a_planted_breach_is_found(file: str, text: str, found: str | None, tmp_path: Path):
    package = tmp_path / "compress"
    for folder in ("tasks/labels_only", "passes/prune", "losses/logits", "engine"):
        (package / folder).mkdir(parents=True)
        (package / folder / "__init__.py").touch()
    (package / file).write_text(text)
    assert list(breaches(package)) == ([] if found is None else [(file, found)])
