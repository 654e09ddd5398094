"""The table of losses: what each says of itself, whose code a step depends on, and losses that distributions add."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from compress.losses.contract import LossContext
from compress.losses.table import LOSSES, losses_in, name_of
from compress.profile.specs.recovery import RecoverySpec
from compress.tasks.table import task_kind
from tests.plugins import install, python

PROFILE = """
name: job
task: text-classification
data: {path: data.csv}
teacher: {model: owner/model, finetune: {epochs: 1}}
passes:
  - distill: {epochs: 1, losses: [{logits: {}}, {hidden: {}}, {reverse: {}}]}
  - prune: {remove: {heads: 0.5}, recover: {losses: [{reverse: {temperature: 2, weight: 3}}]}}
  - low_rank: {ratio: 0.5}
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
    load_profile(file, ("passes.1.prune.recover.losses.0.reverse.temperature=0",))
except ProfileError as error:
    wrong = [f"{fault.path}: {fault.message}" for fault in error.faults]
try:
    load_profile(
        file,
        (
            "task=sentence-embedding",
            "teacher.finetune=null",
            "passes=[{distill: {losses: [{output: {}}, {reverse: {}}]}}]",
        ),
    )
except ProfileError as error:
    wrong += [f"{fault.path}: {fault.message}" for fault in error.faults]
print(json.dumps({
    "keys": parts,
    "schema": schema["$defs"]["ReverseLoss"]["properties"]["temperature"]["description"],
    "reference": "reverse" in reference_markdown(),
    "wrong": wrong,
    "heavy": sorted({"torch", "transformers"} & set(sys.modules)),
}))
"""
HEAVY = """
import torch
from compress.profile.specs.recovery import RecoverySpec
from compress.training.objective.weighted_losses import build_objective
from compress.training.signals.capture import Anatomy

spec = RecoverySpec.model_validate({"losses": [{"reverse": {"temperature": 2, "weight": 3}}]})
objective = build_objective([one.body for one in spec.losses], Anatomy(2), Anatomy(2), seed=0)
student, teacher = torch.tensor([[0.5, 0.0]]), torch.tensor([[0.0, 1.0]])
loss = objective({"outputs.teacher": student}, {"outputs": teacher}, torch.zeros(1), None, {})
print(float(loss), objective.last_losses)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a distribution that adds the loss `reverse`, and a profile that uses it."""
    folder = tmp_path_factory.mktemp("installed")
    install(folder, "reverse_divergence")
    (folder / "p.yaml").write_text(PROFILE)
    (folder / "data.csv").write_text("text,label\nhello,a\n")
    return folder


def ran(folder: Path, code: str) -> str:
    return python(folder, "-c", code)


def test_a_loss_of_another_distribution_is_treated_like_a_built_in_one(installed: Path) -> None:
    found = json.loads(ran(installed, LIGHT))
    assert found["schema"] == "Divides the logits of both models before the softmax."
    assert found["reference"]
    assert found["heavy"] == []
    assert found["wrong"] == [
        "passes.1.prune.recover.losses.0.reverse.temperature: should be greater than 0, not 0",
        "passes.0.distill.losses.1: only logits have a divergence",
    ]
    keys = found["keys"]
    assert set(keys["distill"]["losses"]) == {"logits", "hidden", "reverse"}
    assert set(keys["prune"]["losses"]) == {"reverse"}
    assert {keys[name]["libraries"]["reverse-divergence"] for name in ("distill", "prune")} == {"1.1"}
    assert set(keys["low_rank"]["losses"]) == {"logits"}
    assert "reverse-divergence" not in keys["low_rank"]["libraries"]


def test_a_loss_of_another_distribution_is_computed(installed: Path) -> None:
    value, parts = ran(installed, HEAVY).split(maxsplit=1)
    student, teacher = (np.exp(one) / np.exp(one).sum() for one in (np.array([0.25, 0]), np.array([0, 0.5])))
    apart = float((student * np.log(student / teacher)).sum())
    assert float(value) == pytest.approx(3 * apart, rel=1e-5)
    assert parts.startswith("{'reverse': ")


def test_its_code_is_a_part_of_the_keys_of_the_steps_that_use_it(installed: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(installed, changed)
    term = changed / "reverse_divergence" / "term.py"
    term.write_text(term.read_text().replace(".mean()", ".sum()"))
    before, after = (json.loads(ran(folder, LIGHT))["keys"] for folder in (installed, changed))
    different = {name for name in before if before[name].get("losses") != after[name].get("losses")}
    assert different == {"distill", "prune"}
    assert before["distill"]["losses"]["logits"] == after["distill"]["losses"]["logits"]


def test_every_loss_of_a_section_is_found() -> None:
    spec = RecoverySpec.model_validate({"losses": [{"logits": {}}, {"hidden": "cosine"}, {"logits": {}}]})
    assert [name_of(loss) for loss in losses_in(spec)] == ["logits", "hidden", "logits"]
    assert list(losses_in(RecoverySpec())) == []


def test_what_a_loss_says_of_itself() -> None:
    made = {name: kind.spec() for name, kind in LOSSES.items()}
    assert {name for name, one in made.items() if not one.needs_teacher} == {
        "labels",
        "masked_lm",
        "next_token",
    }
    assert {name for name, one in made.items() if one.reaches_outputs} == {
        *("logits", "labels", "output", "next_token")
    }
    inside = {"hidden", "embedding", "attention", "relation", "similarity", "contrastive"}
    assert {name for name, one in made.items() if one.compares_internals} == inside
    assert {name for name, one in made.items() if one.uses_labels} == {"labels", "next_token"}
    several = LossContext(task_kind("text-classification"), teachers=2)
    assert {name for name, one in made.items() if one.fault(several)} == inside | {"output", "next_token"}
