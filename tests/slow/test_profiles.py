"""The quick ones of the shipped profiles run from end to end, trained for less time where that takes minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import compress_alone, report_of

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "profiles"
TEXTS = ("data.max_length=32", "passes.0.distill.epochs=1", "measure.min_seconds=0.3")
STAGED = ("passes.0.distill.stages.0.epochs=1", "passes.0.distill.stages.1.epochs=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that the teachers are trained once."""
    return tmp_path_factory.mktemp("profiles")


def run(name: str, folder: Path, *assignments: str) -> dict[str, Any]:
    """The report of a profile whose bundle verifies."""
    words = [word for assignment in assignments for word in ("--set", assignment)]
    file = FOLDER / f"{name}.yaml"
    allowed = ["--allow-code"] if "python:" in file.read_text(encoding="utf-8") else []
    result = compress_alone("run", file, *allowed, "--quiet", *words, folder=folder)
    assert result.returncode in (0, 3), result.stderr
    report = report_of(folder, name)
    verified = compress_alone("verify", report["bundle"], folder=folder)
    assert verified.returncode == 0, verified.stderr
    return report


def test_a_network_for_digits_is_pruned_and_made_integer(folder: Path):
    report = run("digits_cnn_prune_int8", folder)
    baseline, last = report["rows"][0], report["rows"][-1]
    assert report["status"] == "ok"
    assert baseline["score"] > 0.97
    assert last["retention"] >= 0.99
    assert baseline["parameters"] / last["parameters"] > 3.5
    assert baseline["size_mb"] / last["size_mb"] > 6
    manifest = json.loads((Path(report["bundle"]) / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["image"]["size"] == [8, 8]


def test_a_transformer_learns_digits_through_its_distillation_token(folder: Path):
    report = run("digits_vit_distillation_token", folder, "passes.0.distill.epochs=40")
    rows = {row["step"]: row for row in report["rows"]}
    assert rows["distill"]["score"] > 0.9
    assert rows["distill.control"]["role"] == "control"


def test_blended_images_teach_a_smaller_network(folder: Path):
    report = run("augment_images", folder, "passes.0.distill.epochs=15")
    assert report["rows"][-1]["retention"] > 0.95
    assert report["rows"][0]["parameters"] / report["rows"][-1]["parameters"] > 14


def test_a_network_learns_digits_without_any(folder: Path):
    report = run("data_free_digits", folder, "passes.0.distill.epochs=8")
    rows = {row["step"]: row for row in report["rows"]}
    assert rows["distill"]["score"] > 0.5
    assert rows["distill.control"]["score"] > rows["distill"]["score"]


def test_a_sentence_encoder_shrinks_and_embeds(folder: Path):
    report = run("minilm_sentences", folder, *TEXTS, "passes.0.distill.augment.copies=1")
    baseline, last = report["rows"][0], report["rows"][-1]
    assert baseline["score"] == pytest.approx(1)
    assert baseline["size_mb"] / last["size_mb"] > 10
    assert last["score"] > 0.6


@pytest.mark.parametrize(
    ("name", "assignments"),
    [
        ("stages_tinybert", STAGED),
        ("masked_lm", STAGED),
        ("minilm_relations", STAGED),
        ("selective", ()),
        ("born_again", ()),
        ("assistants", ()),
        ("online", ()),
        ("ema", ()),
        ("several_teachers", ("passes.0.distill.teachers.1.finetune.epochs=1",)),
        ("data_free", ("passes.0.distill.data_free.examples=2000",)),
    ],
)
def test_a_way_of_teaching_runs_on_a_real_model(name: str, assignments: tuple[str, ...], folder: Path):
    report = run(name, folder, *TEXTS, *assignments)
    baseline, last = report["rows"][0], report["rows"][-1]
    assert baseline["score"] > 0.85
    # Five classes: more than chance, after an epoch or two.
    assert last["score"] > 0.3
    assert baseline["size_mb"] / last["size_mb"] > 5
