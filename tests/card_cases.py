"""What a step computes on a device stays there, tried on one that is pretended: see tests/elsewhere.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.utils import _to_kwargs

from compress.core.terminal.progress import SilentProgress
from compress.data.splits import Examples
from compress.passes.finetune import step as finetune
from compress.passes.prune import step as prune
from compress.passes.prune.choosing.selection import losses_by_size
from compress.passes.prune.spec import PruneSpec
from compress.profile.specs.training import FinetuneSpec, TrainingSpec
from compress.tasks.base import TrainingData
from compress.training.loop import _WithLoss, train
from compress.training.loss_functions.labels import label_cross_entropy
from tests.elsewhere import Elsewhere, card
from tests.jobs import WORDS_OF, tiny_texts
from tests.steps import context, run
from tests.tiny import text_task, tiny_bert, write_torch_artifact
from tests.tiny_vision import LABELS as IMAGE_LABELS
from tests.tiny_vision import image_task, images, tiny_network, write_image_artifact
from tests.unit.test_training_loop import examples

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
    assert (
        losses_by_size(scores.to(device), [3, 2, 1, 0])
        == losses_by_size(scores, [3, 2, 1, 0])
        == [0, 1, 3, 6]
    )


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


def test_channels_that_are_cut_on_a_device_are_found_to_work_there(device: str, tmp_path: Path) -> None:
    task, data = image_task(), TrainingData(images(24), images(12, seed=1), IMAGE_LABELS)
    source = write_image_artifact(tmp_path / "m", tiny_network(tmp_path))
    asked = {"remove": {"channels": 0.5}, "round_to": 4, "importance": "magnitude", "recover": None}
    ctx = context(tmp_path / "step", PruneSpec.model_validate(asked), {"model": source}, task, data)
    _, result = run(prune, replace(ctx, device=device))
    assert result.facts["parameters"] < result.facts["parameters_before"]
    assert "left_whole" not in result.facts


class Moving(_WithLoss):
    """Called as DDP and FSDP call a module on a GPU: all tensors that they are given, they move there."""

    def __call__(self, *given: Any) -> Any:
        ((moved,), _) = _to_kwargs(given, {}, torch.device("card:0"), False)
        return super().__call__(*moved)


def test_the_numbers_of_examples_stay_on_the_cpu_where_processes_are_joined(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.training.loop._WithLoss", Moving)
    inputs, labels = examples(20)
    seen: list[int] = []

    def loss(outputs: torch.Tensor, batch: dict[str, torch.Tensor], indices: torch.Tensor) -> torch.Tensor:
        assert outputs.device.type == batch["input_ids"].device.type == device
        seen.extend(indices.numpy().tolist())
        return label_cross_entropy(outputs, labels[indices].to(outputs.device))

    spec = TrainingSpec(epochs=1, batch_size=8)
    train(
        tiny_bert(), inputs, loss, spec, lambda model: 0.0, work=tmp_path, seed=0, precision="fp32", device=device,
        progress=SilentProgress(), name="t",
    )  # type: ignore[arg-type]  # fmt: skip
    assert sorted(seen) == list(range(20))
