"""Decoders that were pruned or factored learn from what they were before, by any losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compress.core.spec import Spec
from compress.passes.low_rank import step as low_rank
from compress.passes.low_rank.spec import LowRankSpec
from compress.passes.prune import step as prune
from compress.passes.prune.spec import PruneSpec
from tests import tiny_language
from tests.steps import context, run
from tests.tiny_language import Taught

LOSSES: dict[str, list[dict[str, Any]] | None] = {
    "unset": None,
    "next_token": [{"next_token": {}}],
    "inside": [{"logits": {"top_k": 16}}, {"hidden": {"weight": 0.01}}, {"attention": {}}, {"relation": {}}],
}
PASSES: dict[str, tuple[Any, type[Spec], dict[str, Any]]] = {
    "low_rank": (low_rank, LowRankSpec, {"ratio": 0.9}),
    "prune": (
        prune,
        PruneSpec,
        {
            "remove": {"layers": 0.5, "feed_forward": 0.5, "heads": 0.5, "hidden": 0.25},
            "importance_batches": 2,
        },
    ),
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return tiny_language.taught(tmp_path_factory.mktemp("taught"))


@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("name", PASSES)
def test_it_recovers_by_any_loss(taught: Taught, tmp_path: Path, name: str, losses: str) -> None:
    teacher, task, data = taught
    step, kind, asked = PASSES[name]
    recover = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 16}
    recover |= {} if LOSSES[losses] is None else {"losses": LOSSES[losses]}
    spec = kind.model_validate({**asked, "recover": recover})
    _, result = run(step, context(tmp_path / "out", spec, {"model": teacher, "teacher": teacher}, task, data))
    learnt = [point.train_loss for point in result.curves[0].points if point.train_loss is not None]
    assert learnt[-1] < learnt[0]
    lost, left = (-result.facts[f"validation_score{when}"] for when in ("_before_recovery", ""))
    assert left < lost
