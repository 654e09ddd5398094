"""What a step computes on a device stays there, tried on one that is pretended: see tests/elsewhere.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.data.splits import Examples
from compress.passes.finetune import step as finetune
from compress.passes.prune import step as prune
from compress.passes.prune.selection import losses_left
from compress.passes.prune.spec import PruneSpec
from compress.profile.training_spec import FinetuneSpec
from compress.tasks.base import TrainingData
from tests.elsewhere import Elsewhere, card
from tests.jobs import WORDS_OF, tiny_texts
from tests.steps import context, run
from tests.tiny import text_task, tiny_bert, write_torch_artifact

LABELS = tuple(sorted(WORDS_OF))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with card(monkeypatch) as name:
        yield name


def data() -> TrainingData:
    texts = tiny_texts(60, seed=1)
    labels = [LABELS.index(label) for _, label in texts]
    first, rest = (
        Examples(tuple(text for text, _ in texts[part]), np.array(labels[part]))
        for part in (slice(0, 40), slice(40, 60))
    )
    return TrainingData(first, rest, LABELS)


def test_the_pretended_device_refuses_what_a_gpu_refuses(device: str) -> None:
    away, here = torch.arange(6.0).to(device), torch.ones(6)
    assert isinstance(away, Elsewhere)
    assert str(away.device) == "card:0"
    with pytest.raises(RuntimeError, match="same device"):
        away + here
    with pytest.raises(RuntimeError, match="same device"):
        here[away.long()]
    with pytest.raises(TypeError, match="numpy"):
        away.numpy()
    assert (away + here.to(device)).cpu().tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert (away[torch.tensor([1, 2])] * 2 + torch.tensor(1.0)).tolist() == [3.0, 5.0]
    weight = torch.ones(6, requires_grad=True, device=device)
    (weight * away).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == away.tolist()


def test_what_is_lost_is_summed_wherever_scores_lie(device: str) -> None:
    scores = torch.tensor([3.0, 1.0, 2.0])
    assert losses_left(scores.to(device), [3, 2, 1, 0]) == losses_left(scores, [3, 2, 1, 0]) == [0, 1, 3, 6]


@pytest.mark.parametrize(
    ("step", "spec"),
    [
        (finetune, FinetuneSpec(epochs=1, learning_rate=1e-3, batch_size=8, class_weights="balanced")),
        (prune, PruneSpec.model_validate({"remove": {"feed_forward": 0.5}, "recover": {"epochs": 1}})),
        (prune, PruneSpec.model_validate({"target": {"ratio": 0.7}, "recover": None})),
    ],
    ids=["finetune", "prune", "prune to a size"],
)
def test_a_step_keeps_together_what_it_computes(step: Any, spec: Any, device: str, tmp_path: Path) -> None:
    source = write_torch_artifact(tmp_path / "m", tiny_bert(), max_length=16)
    ctx = replace(context(tmp_path / "step", spec, {"model": source}, text_task(16), data()), device=device)
    made, _ = run(step, ctx)
    assert made.size_mb > 0
