"""What a step cannot do with an architecture is found out before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.core.errors import ModelError
from compress.core.terminal.progress import SilentProgress
from compress.data.splits import Examples
from compress.engine.running import run_job
from compress.passes.prune.spec import PruneSpec
from compress.passes.prune.step import try_untrained
from compress.planning.steps import architecture_source, build_plan
from compress.profile.schema import Profile
from compress.store.cache import Cache
from compress.tasks.base import TrainingData
from tests.made_jobs import made_job
from tests.steps import context
from tests.tiny import text_task, tiny_bert, write_torch_artifact
from tests.tiny_vision import LABELS, images, tiny_network, write_image_artifact

PRUNE = {"prune": {"remove": {"channels": 0.5}, "round_to": 4, "importance_batches": 1}}


def profile(*passes: dict[str, Any]) -> Profile:
    return Profile.model_validate(
        {
            "name": "tried",
            "task": "image-classification",
            "data": {"path": "data"},
            "teacher": {"model": "python:tiny_network:fixed", "finetune": {"epochs": 1}},
            "passes": list(passes),
        }
    )


def test_a_network_that_can_lose_nothing_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    examples = images(30)
    for number, (pixels, label) in enumerate(zip(examples.items, examples.labels, strict=True)):
        folder = tmp_path / "data" / LABELS[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    cache = Cache(tmp_path / "cache")
    network = tiny_network(tmp_path / "code", "fixed")
    job = made_job(
        tmp_path, cache, profile(PRUNE), {"source": lambda out: write_image_artifact(out, network)}
    )
    job = replace(job, allow_code=True)
    with pytest.raises(ModelError) as caught:
        run_job(job, cache, tmp_path, SilentProgress(), lambda run, record: None)
    assert (caught.value.code, caught.value.where) == ("nothing-to-prune", "prune.remove.channels")
    assert cache.find("teacher") is None


@pytest.mark.parametrize(
    ("passes", "step", "source"),
    [
        ([PRUNE], "prune", "source"),
        ([{"distill": {"student": {"model": "python:s:small"}}}, PRUNE], "prune", "distill.student"),
        ([{"distill": {"student": {"layers": 2}}}, PRUNE], "prune", None),
        ([PRUNE, PRUNE], "prune.2", None),
    ],
)
def test_the_architecture_that_a_step_starts_from(
    passes: list[dict[str, Any]], step: str, source: str | None
) -> None:
    plan = build_plan(profile(*passes))
    assert architecture_source(plan, plan.step(step).inputs["model"]) == source


@pytest.mark.parametrize("asked", [{"remove": {"heads": 0.5}}, {"target": {"ratio": 0.3}}])
def test_an_encoder_that_gets_its_head_by_training_is_pruned_after_it(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    bare = write_torch_artifact(tmp_path / "bare", tiny_bert().base_model)
    texts = Examples(("red cat", "the dog runs"), np.array([0, 1]))
    data = TrainingData(texts, texts, ("colour", "animal"))
    spec = PruneSpec.model_validate(asked)
    try_untrained(context(tmp_path / "step", spec, {"model": bare}, text_task(16), data))
    convolutions = PruneSpec.model_validate({"remove": {"channels": 0.5}})
    with pytest.raises(ModelError, match="no convolutions"):
        try_untrained(context(tmp_path / "other", convolutions, {"model": bare}, text_task(16), data))
