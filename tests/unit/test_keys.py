"""Same key if and only if same inputs."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import click
import pydantic
import pytest

import compress
from compress.core.numerics import Numerics
from compress.planning.code import code_digest, imported_files, imports_in
from compress.planning.keys import Fingerprints, all_parts, key_of
from compress.planning.steps import build_plan
from compress.profile.load import load_profile

BODY = """
name: job
task: text-classification
data: {path: data.csv}
teacher: {model: owner/model, finetune: {epochs: 1}}
passes:
  - distill: {epochs: 1}
  - prune: {remove: {heads: 0.5}}
  - quantize: {bits: 8, scheme: dynamic}
  - export: {}
"""
EMBEDDING = (
    "task=sentence-embedding",
    "teacher.finetune=null",
    "passes.0.distill.losses=[{output: cosine}]",
)
NUMERICS = Numerics("cpu", 2, bf16=True)
MODEL = ("owner/model", None)
KNOWN = Fingerprints({MODEL: "m", ("owner/copy", None): "m"}, "d")
FROM = [
    "source",
    "teacher",
    "teacher.onnx",
    "distill",
    "distill.onnx",
    "prune",
    "prune.onnx",
    "quantize",
    "export",
]


def keys(
    folder: Path,
    *assignments: str,
    known: Fingerprints = KNOWN,
    numerics: Numerics = NUMERICS,
    text: str = BODY,
) -> dict[str, str | None]:
    (folder / "data.csv").write_text("text,label\nhello,a\n")
    (folder / "p.yaml").write_text(text)
    plan = build_plan(load_profile(folder / "p.yaml", assignments).profile)
    return {name: key_of(parts) for name, parts in all_parts(plan, known, numerics).items()}


def changed(before: dict[str, str | None], after: dict[str, str | None]) -> list[str]:
    return [name for name in FROM if before[name] != after[name]]


def test_every_step_has_a_key_of_its_own(tmp_path: Path):
    found = keys(tmp_path)
    assert list(found) == FROM
    assert len(set(found.values())) == len(FROM)
    assert found == keys(tmp_path)


@pytest.mark.parametrize(
    ("assignment", "first"),
    [
        ("teacher.finetune.epochs=2", "teacher"),
        ("passes.0.distill.epochs=2", "distill"),
        ("passes.1.prune.importance=magnitude", "prune"),
        ("passes.1.prune.recover.precision=fp32", "prune"),
        ("passes.2.quantize={bits: 4}", "quantize"),
        ("passes.3.export.golden=4", "export"),
    ],
)
def test_a_changed_spec_redoes_its_step_and_what_follows(tmp_path: Path, assignment: str, first: str):
    before = keys(tmp_path)
    after = keys(tmp_path, assignment)
    follows = [name for name in FROM[FROM.index(first) :] if name != "teacher.onnx" or first == "teacher"]
    assert changed(before, after) == follows


@pytest.mark.parametrize(
    "assignment",
    [
        "name=other",
        "budget.size_mb=3",
        "measure.min_seconds=9",
        "targets=[{threads: 2}]",
        "passes.0.distill.control=true",
    ],
)
def test_what_does_not_change_a_model_changes_no_key(tmp_path: Path, assignment: str):
    after = keys(tmp_path, assignment)
    assert changed(keys(tmp_path), after) == []


def test_auto_depends_on_the_threads_it_is_timed_with(tmp_path: Path):
    before = keys(tmp_path, "passes.2.quantize.scheme=auto")
    after = keys(tmp_path, "passes.2.quantize.scheme=auto", "targets=[{threads: 2}]")
    assert changed(before, after) == ["quantize", "export"]


def test_auto_depends_on_the_device_it_is_timed_on(tmp_path: Path):
    auto = "passes.2.quantize.scheme=auto"
    here = keys(tmp_path, auto)
    board = keys(tmp_path, auto, "targets=[{device: ssh://board}]")
    assert changed(here, board) == ["quantize", "export"]
    assert (
        changed(board, keys(tmp_path, auto, "targets=[{device: ssh://board, name: b, batch_sizes: [4]}]"))
        == []
    )
    assert changed(here, keys(tmp_path, auto, "targets=[{}, {device: ssh://board}]")) == []


def test_weights_of_seven_bits_are_other_weights(tmp_path: Path):
    full = keys(tmp_path, "passes.2.quantize.reduce_range=false")
    reduced = keys(tmp_path, "passes.2.quantize.reduce_range=true")
    assert changed(full, reduced) == ["quantize", "export"]


def test_the_seed_and_the_data_change_all_that_reads_them(tmp_path: Path):
    assert changed(keys(tmp_path), keys(tmp_path, "seed=1")) == FROM
    assert changed(keys(tmp_path), keys(tmp_path, known=Fingerprints({MODEL: "m"}, "e"))) == FROM
    assert changed(keys(tmp_path), keys(tmp_path, known=Fingerprints({MODEL: "n"}, "d"))) == FROM


def test_unlabelled_examples_change_only_what_reads_them(tmp_path: Path):
    (tmp_path / "more.csv").write_text("text\nhello\n")
    known = replace(KNOWN, unlabeled="u")
    before, after = keys(tmp_path), keys(tmp_path, "data.unlabeled={path: more.csv}", known=known)
    assert changed(before, after) == FROM[FROM.index("distill") :]
    other = keys(tmp_path, "data.unlabeled={path: more.csv}", known=replace(KNOWN, unlabeled="v"))
    assert changed(after, other) == FROM[FROM.index("distill") :]


def test_where_data_and_model_lie_does_not_matter(tmp_path: Path):
    (tmp_path / "copy.csv").write_text("text,label\nhello,a\n")
    assert changed(keys(tmp_path), keys(tmp_path, "data.path=copy.csv", "teacher.model=owner/copy")) == []


def test_numerics_change_what_was_trained(tmp_path: Path):
    after = keys(tmp_path, numerics=replace(NUMERICS, bf16=False))
    assert changed(keys(tmp_path), after) == FROM[1:]


def test_an_unresolved_source_leaves_every_key_open(tmp_path: Path):
    assert set(keys(tmp_path, known=Fingerprints({MODEL: None}, "d")).values()) == {None}


def test_the_code_of_a_step_is_part_of_its_key():
    assert code_digest("compress.passes.distill.step") != code_digest("compress.passes.prune.step")
    # The loop that trains belongs to distillation, and not to quantization.
    assert "compress/training/loop.py" in imported_files("compress.passes.distill.step")
    assert "compress/training/loop.py" not in imported_files("compress.passes.quantize.step")


def test_no_import_is_overlooked():
    files = [
        file for home in (compress, click, pydantic) for file in Path(home.__file__).parent.rglob("*.py")
    ]
    assert len(files) > 500
    for file in files:
        source = file.read_text(encoding="utf-8")
        imported = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
        assert {name for name in imported if not name.endswith("*")} <= imports_in(source), file


@pytest.mark.parametrize(
    "source",
    [
        "if 1: import a.b",
        "x = 1; from a import b",
        "from a import \\\n    c, b as d",
        "from a import (  # why\n    c,\n    b,\n)",
        "def f():\n\timport c, a.b as d",
    ],
)
def test_an_import_is_found_however_it_is_written(source: str):
    assert "a.b" in imports_in(source)


def test_training_for_integers_has_a_key_of_its_own(tmp_path: Path):
    plain = keys(tmp_path)
    once = keys(tmp_path, "passes.2.quantize.train={epochs: 1}")
    twice = keys(tmp_path, "passes.2.quantize.train={epochs: 2}")
    assert set(once) - set(plain) == {"quantize.train", "quantize.train.onnx"}
    assert [name for name in once if once[name] != twice[name]] == [
        "quantize.train",
        "quantize.train.onnx",
        "quantize",
        "export",
    ]


@pytest.mark.parametrize(
    ("changes", "losses"),
    [
        (("passes.1.prune.recover={}",), {"logits"}),
        (
            ("passes.1.prune.recover.losses=[{hidden: cosine}, {output: mse}]", *EMBEDDING),
            {"hidden", "output"},
        ),
        (("passes.1.prune.recover={}", *EMBEDDING), {"similarity"}),
    ],
)
def test_the_code_of_what_a_model_recovers_by_stands_in_the_key_where_no_loss_is_named(
    changes: tuple[str, ...], losses: set[str], tmp_path: Path
):
    (tmp_path / "data.csv").write_text("text,label\nhello,a\n")
    (tmp_path / "p.yaml").write_text(BODY)
    plan = build_plan(load_profile(tmp_path / "p.yaml", changes).profile)
    found = all_parts(plan, KNOWN, NUMERICS)["prune"]["losses"]
    assert isinstance(found, dict)
    assert found.keys() == losses


def test_a_commit_is_the_same_by_whatever_name_it_was_asked_for(tmp_path: Path):
    by_name = replace(KNOWN, models={**KNOWN.models, ("owner/model", "v1"): "m"})
    assert changed(keys(tmp_path), keys(tmp_path, "teacher.revision=v1", known=by_name)) == []
    other = replace(KNOWN, models={("owner/model", "v1"): "n"})
    assert changed(keys(tmp_path), keys(tmp_path, "teacher.revision=v1", known=other)) == FROM
