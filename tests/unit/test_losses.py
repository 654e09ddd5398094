"""The table of losses: what each says of itself, whose code a step depends on, and losses that distributions add."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import compress
from compress.losses.contract import Lesson
from compress.losses.table import LOSSES, losses_in, name_of
from compress.planning.code import code_digest
from compress.profile.recovery_spec import RecoverySpec

PROFILE = """
name: job
task: text-classification
data: {path: data.csv}
teacher: {model: owner/model, finetune: {epochs: 1}}
passes:
  - distill: {epochs: 1, losses: [{logits: {}}, {hidden: {}}, {margin: {}}]}
  - prune: {remove: {heads: 0.5}, recover: {losses: [{margin: {gap: 2, weight: 3}}]}}
  - low_rank: {ratio: 0.5}
"""
SPEC = '''
from typing import Annotated

from pydantic import Field

from compress.losses.contract import Lesson, LossKind, LossSpec


class MarginLoss(LossSpec):
    """How far the teacher's best class lies above the others in the student's logits."""

    gap: Annotated[float, Field(gt=0)] = 1.0
    """How far is far enough."""

    @property
    def reaches_outputs(self) -> bool:
        return True

    def fault(self, lesson: Lesson) -> str | None:
        return None if lesson.labelled else "without labels there is no margin"


MARGIN = LossKind(MarginLoss, "margins.term:MarginTerm")
'''
TERM = """
import torch

from compress.training.terms import Term


class MarginTerm(Term):
    def __init__(self, spec, models):
        super().__init__({"outputs.teacher"}, {"outputs"})
        self.gap = spec.gap

    def forward(self, seen):
        goal = seen.teacher["outputs"].argmax(-1)
        return torch.nn.functional.multi_margin_loss(seen.student["outputs.teacher"].float(), goal, margin=self.gap)
"""
LIGHT = """
import json, sys
from pathlib import Path
from compress.core.errors import ProfileError
from compress.core.numerics import Numerics
from compress.planning.keys import Fingerprints, all_parts
from compress.planning.steps import build_plan
from compress.profile.json_schema import json_schema
from compress.profile.load import load_profile
from compress.profile.reference import reference_markdown

file = Path("p.yaml")
plan = build_plan(load_profile(file).profile)
known = Fingerprints({("owner/model", None): "m"}, "d")
parts = all_parts(plan, known, Numerics("cpu", 2, bf16=True))
schema = json_schema()
try:
    load_profile(file, ("passes.1.prune.recover.losses.0.margin.gap=0",))
except ProfileError as error:
    wrong = [f"{fault.path}: {fault.message}" for fault in error.faults]
try:
    load_profile(
        file,
        (
            "task=sentence-embedding",
            "teacher.finetune=null",
            "passes=[{distill: {losses: [{output: {}}, {margin: {}}]}}]",
        ),
    )
except ProfileError as error:
    wrong += [f"{fault.path}: {fault.message}" for fault in error.faults]
print(json.dumps({
    "keys": parts,
    "schema": schema["$defs"]["MarginLoss"]["properties"]["gap"]["description"],
    "reference": "How far is far enough." in reference_markdown(),
    "wrong": wrong,
    "heavy": sorted({"torch", "transformers"} & set(sys.modules)),
}))
"""
HEAVY = """
import torch
from compress.profile.recovery_spec import RecoverySpec
from compress.training.objective import build_objective
from compress.training.signals.capture import Anatomy

spec = RecoverySpec.model_validate({"losses": [{"margin": {"gap": 2, "weight": 3}}]})
objective = build_objective([one.body for one in spec.losses], Anatomy(2), Anatomy(2), seed=0)
student, teacher = torch.tensor([[0.5, 0.0]]), torch.tensor([[0.0, 1.0]])
print(float(objective({"outputs.teacher": student}, {"outputs": teacher}, torch.zeros(1), None, {})), objective.parts)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a distribution that adds the loss `margin`, and a profile that uses it."""
    folder = tmp_path_factory.mktemp("installed")
    package, info = folder / "margins", folder / "margins-1.2.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").touch()
    (package / "spec.py").write_text(SPEC)
    (package / "term.py").write_text(TERM)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: margins\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[compress.losses]\nmargin = margins.spec:MARGIN\n")
    (folder / "p.yaml").write_text(PROFILE)
    (folder / "data.csv").write_text("text,label\nhello,a\n")
    return folder


def ran(folder: Path, code: str) -> str:
    path = f"{folder}:{Path(compress.__file__).parents[1]}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PATH": "", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_loss_of_another_distribution_is_treated_like_a_built_in_one(installed: Path) -> None:
    found = json.loads(ran(installed, LIGHT))
    assert found["schema"] == "How far is far enough."
    assert found["reference"]
    assert found["heavy"] == []
    assert found["wrong"] == [
        "passes.1.prune.recover.losses.0.margin.gap: should be greater than 0, not 0",
        "passes.0.distill.losses.1: without labels there is no margin",
    ]
    keys = found["keys"]
    assert set(keys["distill"]["losses"]) == {"logits", "hidden", "margin"}
    assert set(keys["prune"]["losses"]) == {"margin"}
    assert keys["distill"]["libraries"]["margins"] == keys["prune"]["libraries"]["margins"] == "1.2"
    assert "losses" not in keys["low_rank"]
    assert "margins" not in keys["low_rank"]["libraries"]


def test_a_loss_of_another_distribution_is_computed(installed: Path) -> None:
    # (gap - (own logit - other logit)) / classes, times the weight: the teacher's class is the second.
    assert ran(installed, HEAVY).split(maxsplit=1) == [str(3 * (2 + 0.5) / 2), "{'margin': 1.25}\n"]


def test_its_code_is_a_part_of_the_keys_of_the_steps_that_use_it(installed: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(installed, changed)
    (changed / "margins" / "term.py").write_text(TERM.replace("multi_margin_loss", "cross_entropy"))
    before, after = (json.loads(ran(folder, LIGHT))["keys"] for folder in (installed, changed))
    different = {name for name in before if before[name].get("losses") != after[name].get("losses")}
    assert different == {"distill", "prune"}
    assert before["distill"]["losses"]["logits"] == after["distill"]["losses"]["logits"]


def test_the_term_of_a_loss_that_code_imports_is_a_part_of_its_digest(tmp_path: Path) -> None:
    """Recovery falls back on losses that no spec names, so their terms belong to its code."""
    shutil.copytree(Path(compress.__file__).parent, tmp_path / "compress")
    code = "from compress.planning.code import code_digest; print(code_digest('compress.training.recovery'))"

    def digest() -> str:
        return ran(tmp_path, f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}")

    before = digest()
    assert before.strip() == code_digest("compress.training.recovery")
    hidden = tmp_path / "compress/losses/hidden/term.py"
    hidden.write_text(hidden.read_text() + "\n")
    assert digest() == before
    logits = tmp_path / "compress/losses/logits/term.py"
    logits.write_text(logits.read_text() + "\n")
    assert digest() != before


def test_every_loss_of_a_section_is_found() -> None:
    spec = RecoverySpec.model_validate({"losses": [{"logits": {}}, {"hidden": "cosine"}, {"logits": {}}]})
    assert [name_of(loss) for loss in losses_in(spec)] == ["logits", "hidden", "logits"]
    assert list(losses_in(RecoverySpec())) == []


def test_what_a_loss_says_of_itself() -> None:
    made = {name: kind.spec() for name, kind in LOSSES.items()}
    assert {name for name, one in made.items() if not one.compares} == {"labels", "masked_lm"}
    assert {name for name, one in made.items() if one.reaches_outputs} == {"logits", "labels", "output"}
    inside = {"hidden", "embedding", "attention", "relation", "similarity", "contrastive"}
    assert {name for name, one in made.items() if one.looks_inside} == inside
    assert {name for name, one in made.items() if one.learns_labels} == {"labels"}
    several = Lesson(labelled=True, reads="texts", teachers=2)
    assert {name for name, one in made.items() if one.fault(several)} == inside | {"output"}
