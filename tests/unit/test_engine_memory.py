"""What a step leaves behind in memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compress.core.forms import TORCH_FLOAT
from compress.data.splits import Examples
from compress.engine import making
from compress.profile.specs.training import FinetuneSpec
from compress.step import StepResult
from compress.tasks.base import TrainingData
from tests.steps import context
from tests.tiny import LABELS, text_task


def test_the_gpu_is_given_back_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch keeps what it had; other processes, which measure, would find the card full."""
    done: list[str] = []

    def step(*_: object) -> StepResult:
        done.append("step")
        return StepResult(TORCH_FLOAT, {"parameters": 0})

    monkeypatch.setattr(making, "call_named", step)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("given back"))
    nothing = Examples((), torch.zeros(0, dtype=torch.int64).numpy())
    data = TrainingData(nothing, nothing, LABELS)
    planned: Any = SimpleNamespace(kind="finetune")
    making.run_pass(planned, context(tmp_path / "step", FinetuneSpec(), {}, text_task(16), data), 1)
    assert done == ["step", "given back"]
