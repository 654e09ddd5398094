"""Every profile that the project ships is valid, and together they show every task and every way of teaching."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from compress.core.errors import ProfileError
from compress.losses.contract import LossSpec
from compress.losses.masked_lm.spec import MaskedLmLoss
from compress.losses.relation.spec import RelationLoss
from compress.models.teacher.code import call_function
from compress.passes.distill.spec import DistillSpec, losses_of
from compress.planning.steps import build_plan
from compress.profile.device import is_ssh
from compress.profile.load import LoadedProfile, load_profile
from compress.profile.schema import Profile

FOLDER = Path(__file__).parents[2] / "profiles"
FILES = sorted(FOLDER.glob("*.yaml"))


@cache
def load(file: Path) -> LoadedProfile:
    """A valid profile, read once; the test is skipped where a package that it names is not installed."""
    try:
        return load_profile(file)
    except ProfileError as error:
        if all("no package" in fault.message and "is installed" in fault.message for fault in error.faults):
            pytest.skip(str(error.faults[0]))
        raise


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_profile_is_valid_and_has_a_plan(file: Path):
    loaded = load(file)
    profile = loaded.profile
    assert profile.name == file.stem
    assert [row.name for row in build_plan(profile).rows][-1] == profile.specs[-1].kind
    # Torch runs no ONNX files, so what it is a target of ends with a torch model.
    on_torch = any(target.runtime == "torch" for target in profile.targets)
    assert (profile.specs[-1].kind == "export") is not on_torch
    assert loaded.warnings == ()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_profile_says_what_it_shows_and_how_to_run_it(file: Path):
    profile, text = load(file).profile, file.read_text(encoding="utf-8")
    # A comment of the profile may say "python:" too, and a target names a device's Python by that key.
    code = "--allow-code " if re.search(r"python:\w", text) else ""
    assert text.startswith("# ")
    assert f"#   compress run {code}profiles/{file.name}\n" in text
    assert max(map(len, text.splitlines())) <= 120
    if not profile.teacher.model.startswith(("package:", "python:")) or "fancyzhx" in text:
        assert "Downloads" in text


def distils(shows: Callable[[DistillSpec], object]) -> Callable[[Profile], object]:
    return lambda profile: any(isinstance(spec, DistillSpec) and shows(spec) for spec in profile.specs)


def teaches_with(kind: type[LossSpec]) -> Callable[[Profile], object]:
    return distils(
        lambda spec: any(isinstance(loss, kind) for one in spec.effective_stages for loss in losses_of(one))
    )


WAYS: dict[str, Callable[[Profile], object]] = {
    "text-classification": lambda profile: profile.task == "text-classification",
    "image-classification": lambda profile: profile.task == "image-classification",
    "sentence-embedding": lambda profile: profile.task == "sentence-embedding",
    "stages": distils(lambda spec: len(spec.stages) > 1),
    "several teachers": distils(lambda spec: len(spec.teachers) > 1),
    "selective": distils(lambda spec: spec.select),
    "generations": distils(lambda spec: spec.generations > 1),
    "assistants": distils(lambda spec: spec.assistants),
    "online": distils(lambda spec: spec.online),
    "moving average": distils(lambda spec: spec.ema),
    "unlabelled examples": lambda profile: profile.data.existing_unlabeled,
    "texts that a model writes": lambda profile: profile.data.generate_spec,
    "augmented texts": lambda profile: (
        profile.task == "text-classification" and distils(lambda spec: spec.augment)(profile)
    ),
    "mixup and cutmix": distils(lambda spec: spec.augment and spec.augment.mixup and spec.augment.cutmix),
    "no data, texts": lambda profile: (
        profile.task == "text-classification" and distils(lambda spec: spec.data_free)(profile)
    ),
    "no data, images": lambda profile: (
        profile.task == "image-classification" and distils(lambda spec: spec.data_free)(profile)
    ),
    "distillation token": distils(lambda spec: spec.student.architecture == "deit"),
    "masked language modelling": teaches_with(MaskedLmLoss),
    "relations": teaches_with(RelationLoss),
    "a device over ssh": lambda profile: any(is_ssh(target.device) for target in profile.targets),
    "CUDA with both runtimes": lambda profile: (
        {target.runtime for target in profile.targets if target.device == "cuda"} == {"onnxruntime", "torch"}
    ),
    "a control without the teacher": distils(lambda spec: spec.control),
    "the teacher's texts": distils(lambda spec: spec.sequence),
    "the student's own texts": distils(
        lambda spec: any(spec.stage_spec(one).on_policy for one in spec.effective_stages)
    ),
    "the right ones of them": distils(lambda spec: spec.rejection),
    "pairs of documents": distils(lambda spec: spec.synthetic),
    "traces": distils(lambda spec: spec.reasoning and spec.control == "answers_only"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_task_and_every_way_of_teaching_has_a_profile(way: str):
    assert any(WAYS[way](load(file).profile) for file in FILES)


@pytest.mark.parametrize(("function", "parameters"), [("build", 131_178), ("build_small", 8_610)])
def test_the_networks_of_the_digits_take_pixels_and_give_logits(function: str, parameters: int):
    network = call_function(f"python:digits_cnn:{function}", FOLDER, seed=0, allow_code=True).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    logits = network(torch.zeros(2, 1, 8, 8))
    assert logits.shape == (2, 10)
    assert torch.equal(logits[0], logits[1])
