"""The architecture as a test: imports go down, and what answers at once imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "compress"

FLOORS: tuple[tuple[str, ...], ...] = (
    (
        "core.errors",
        "core.knapsack",
        "core.pre_tokenization",
        "core.spelling",
        "core.telemetry",
        "core.units",
        "core.versions",
    ),
    (
        "core.disk.files",
        "core.plugins",
        "core.forms",
        "core.records",
        "core.terminal.progress",
        "core.disk.exhaustion",
        "core.disk.safe_paths",
        "core.disk.reading",
        "core.terminal.printing",
    ),
    ("core.artifacts", "core.terminal.console", "core.task_kind", "core.disk.watched"),
    ("core.disk.source_uris", "core.disk.ownership", "core.numerics"),
    ("core.spec",),
    ("core.entries", "models.anatomy.table"),
    ("tasks.*.kind",),
    ("tasks.table",),
    ("losses.specs",),
    ("specs",),
    ("passes.contract",),
    ("slices",),
    ("profile",),
    ("planning",),
    ("store",),
    ("data", "models"),
    ("encoding",),
    ("tasks",),
    ("tasks.*",),
    ("runtimes", "targets"),
    ("measuring", "bundles", "generation"),
    ("tasks.*.record",),
    ("step",),
    ("training", "lowering", "reporting"),
    ("losses", "sources", "tasks.*.source"),
    ("passes",),
    ("engine",),
    ("starter",),
    ("tasks.*.starter",),
    ("api",),
    ("cli",),
    ("__main__",),
)
RECORD, SOURCE, STARTER = "tasks.*.record", "tasks.*.source", "tasks.*.starter"
STOREYS = {
    "kind": "tasks.*.kind",
    **dict.fromkeys(
        ("record", "correlation", "workloads", "bundle", "asking", "harness.model", "harness.scores"), RECORD
    ),
    **dict.fromkeys(("source", "sections"), SOURCE),
    "starter": STARTER,
}
ROOMS_OF_CORE = ("disk", "terminal")
FLOOR_OF = {part: number for number, floor in enumerate(FLOORS) for part in floor}
# The passes are siblings as well: what two of them need lies below.
PASSES = ("source", "finetune", "generate", "distill", "prune", "low_rank", "quantize", "export")


def imports_of(file: Path) -> list[tuple[int, str]]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "compress":
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if alias.name.startswith("compress.")]
    return found


def part_of(name: str) -> str:
    """`data` for `compress.data.sources`; of `core` each file is a part of its own.

    `specs` are the sections of a profile that several slices share, `slices` the light storey of each slice. The table
    of families is the one room of `models` that lies below the profile, which is checked by it. A task's folder has
    five storeys: what it is (`kind`), what reads, encodes and scores, what is measured and bundled, what writes its
    models and its part of the report, and what `init` writes. Of losses
    `losses.specs` is the light storey, `losses` the terms.
    """
    parts = name.split(".")[1:]
    if parts[:3] == ["models", "anatomy", "table"]:
        return "models.anatomy.table"
    if parts[:2] == ["profile", "specs"]:
        return "specs"
    if parts[0] == "losses":
        return "losses" if parts[2:] == ["term"] else "losses.specs"
    if parts[:2] == ["passes", "contract"]:
        return "passes.contract"
    if parts[0] == "passes" and not {"spec", "kind", "table", "products"}.isdisjoint(parts[1:]):
        return "slices"
    if parts[:2] == ["tasks", "table"]:
        return "tasks.table"
    if parts[0] == "tasks" and len(parts) > 1 and (PACKAGE / "tasks" / parts[1]).is_dir():
        return STOREYS.get(".".join(parts[2:4])) or STOREYS.get(".".join(parts[2:3]), "tasks.*")
    if parts[0] == "core":
        return ".".join(parts[: 3 if parts[1] in ROOMS_OF_CORE else 2])
    return parts[0]


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def test_every_part_of_the_package_has_a_floor():
    parts = {part_of(name_of(file)) for file in PACKAGE.rglob("*.py")} - {"__init__"}
    assert {part for part in parts if not part.endswith(".__init__")} == set(FLOOR_OF)


def test_imports_run_down():
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        if file == PACKAGE / "__init__.py":
            continue
        here = part_of(name_of(file))
        for line, name in imports_of(file):
            there = part_of(name)
            if there in FLOOR_OF and there != here and FLOOR_OF[there] >= FLOOR_OF[here]:
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {here} imports {there}")
    assert not wrong, "\n".join(wrong)


def test_passes_do_not_import_each_other():
    wrong = []
    for name in PASSES:
        for file in sorted((PACKAGE / "passes" / name).rglob("*.py")):
            for line, imported in imports_of(file):
                parts = imported.split(".")
                if parts[1] == "passes" and len(parts) > 2 and parts[2] in PASSES and parts[2] != name:
                    wrong.append(f"{file.relative_to(ROOT)}:{line}: {name} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_losses_do_not_import_each_other():
    wrong = []
    for file in sorted((PACKAGE / "losses").glob("*/*.py")):
        for line, imported in imports_of(file):
            parts = imported.split(".")
            if parts[1] == "losses" and parts[2] not in (file.parent.name, "contract"):
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {file.parent.name} imports {imported}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "further"),
    [
        ("cli", ()),
        ("profile.load", ("tokenizers",)),
        ("models.anatomy.table.sizes", ()),
        ("models.teacher.location", ()),
        ("planning.steps", ()),
        ("planning.keys", ()),
        ("store.cache", ()),
        ("store.runs", ()),
        ("engine.explain_plan", ()),
        ("engine.running", ()),
        ("reporting.data.frame", ("matplotlib", "jinja2")),
        ("reporting.render.html", ()),
        ("reporting.render.terminal", ("matplotlib", "pandas")),
        ("reporting.render.write", ("matplotlib",)),
        ("passes.distill.sections.teaching", ()),
        ("passes.prune.choosing.prediction", ()),
        ("passes.prune.sections", ()),
        ("passes.quantize.sections", ()),
        ("passes.export.sections", ()),
        ("data.sources", ("datasets", "pandas", "pyarrow")),
        ("tasks", ("datasets", "pandas", "pyarrow")),
        ("measuring.artifact", ()),
        # `compress --help`.
        ("cli.root", ("pydantic", "pandas", "numpy", "rich")),
        ("core.disk.source_uris", ("numpy",)),
    ],
)
def test_what_is_not_imported(module: str, further: tuple[str, ...]):
    heavy = {"torch", "transformers", "onnxruntime", *further}
    code = f"import sys, compress.{module}; print(*sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


# A device gets the runner as one file, so it cannot have a second room.
LONGEST = {"compress/runtimes/runner.py": 1015}


def test_no_file_wants_a_second_room():
    lines = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for file in PACKAGE.rglob("*.py")
    }
    assert {name: count for name, count in lines.items() if count > LONGEST.get(name, 400)} == {}


def test_no_folder_wants_a_second_room():
    folders = Counter(file.parent for file in PACKAGE.rglob("*.py") if file.name != "__init__.py")
    assert {str(folder.relative_to(ROOT)): files for folder, files in folders.items() if files > 15} == {}
