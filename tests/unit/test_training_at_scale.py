"""A decoder trained in parts of a batch, with layers computed twice, or killed: it learns what it would have."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from transformers import LlamaForCausalLM

from compress.core.artifacts import Artifact, open_artifact
from compress.core.errors import ModelError
from compress.core.task_kind import TaskKind
from compress.data.splits import UNLABELLED, Examples
from compress.losses.logits.spec import LogitsLoss
from compress.models.io.checkpoints import load_model
from compress.profile.specs.recovery import RecoverySpec, ScaleTrainingSpec, recovery_losses
from compress.tasks.base import TrainingData
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.task import CausalLanguageModel
from compress.tasks.table import task_kind
from compress.training import loop, recovery
from compress.training.checkpointing import weights_of
from compress.training.distributed.world import STRATEGY_VARIABLE
from compress.training.recomputation import with_checkpointing
from compress.training.validation import Validation
from tests import steps
from tests.processes import ends_of, start
from tests.tiny_language import WORDS, Taught, taught


class Stopped(Exception):
    """The process dies here."""


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    """A language model, and texts of two to fourteen words: what is learnt of each differs."""
    artifact, task, _ = taught(tmp_path_factory.mktemp("taught"))
    return unlike(artifact, task)


def unlike(artifact: Artifact, task: CausalLanguageModel) -> Taught:
    drawn = np.random.default_rng(1)
    texts = tuple(" ".join(drawn.choice(WORDS, drawn.integers(1, 6))) for _ in range(26))
    examples = Examples(texts, np.full(len(texts), UNLABELLED, np.int64))
    return artifact, task, TrainingData(examples, examples.take(np.arange(4)), ())


def learnt(
    folder: Path,
    language: Taught,
    taught_by: str = "kept",
    precision: str = "fp32",
    stop_at: int | None = None,
    stop: Callable[[], object] | None = None,
    **changed: Any,
) -> dict[str, Tensor]:
    """The weights of a student after some steps; the same whenever it is called."""
    artifact, task, data = language
    # With fewer epochs than one the teacher runs along.
    epochs = {"kept": 1, "live": 0.95, "labels": 1}[taught_by]
    losses = (
        [{"next_token": {}}] if taught_by == "labels" else [{"logits": {"top_k": 16}}, {"next_token": {}}]
    )
    settings = {"epochs": epochs, "batch_size": 6, "learning_rate": 3e-3, "losses": losses, "warmup": 0.3}
    spec = RecoverySpec.model_validate({**settings, **changed})
    if folder.exists():
        ctx = replace(steps.context(folder / "again", spec, {}, task, data), work=folder / "work")
    else:
        ctx = steps.context(folder, spec, {}, task, data)
    ctx = replace(ctx, precision=precision)
    torch.manual_seed(3)
    student = LlamaForCausalLM(load_model(artifact.path).config)
    inputs = task.encode(data.train, artifact.path)
    validation = Validation.of(ctx, artifact.path, artifact)
    made, done = recovery.batch_loss, 0

    def stopping(*words: Any, **named: Any) -> loop.Loss:
        inner = made(*words, **named)

        def loss(*given: Any) -> Tensor:
            nonlocal done
            done += 1
            if done == stop_at:
                (stop or _stopped)()
            return inner(*given)

        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "batch_loss", stopping)
        patch.setitem(loop.train.__kwdefaults__, "checkpoint_seconds", 0.0)
        losses = recovery_losses(spec, task.kind, has_teacher=True)
        recovery.train_with(ctx, student, losses, (artifact.path, inputs), spec, validation, "t", artifact)
    return {name: tensor.clone() for name, tensor in weights_of(student).items()}


def _stopped() -> None:
    raise Stopped


@pytest.fixture(scope="module")
def whole(language: Taught, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return learnt(tmp_path_factory.mktemp("whole") / "one", language)


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=3e-4, rtol=1e-3)


def test_a_batch_in_parts_teaches_what_the_batch_does(
    language: Taught, whole: dict[str, Tensor], tmp_path: Path
):
    """Parts weigh by the tokens that are learnt of them, not by their texts."""
    found = learnt(tmp_path / "parts", language, accumulate=4)
    close(found, whole)
    assert any(not torch.equal(found[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layers_that_are_computed_twice_learn_the_same_bit_for_bit(
    language: Taught, tmp_path: Path, precision: str
):
    expected = learnt(tmp_path / "once", language, precision=precision)
    twice = learnt(tmp_path / "twice", language, precision=precision, gradient_checkpointing=True)
    assert all(torch.equal(twice[name], tensor) for name, tensor in expected.items())


def test_layers_keep_nothing_but_what_they_read(language: Taught):
    model = load_model(language[0].path).train()
    ids, kept = torch.arange(24)[None], []
    for again in (False, True):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, sizes=sizes: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            if again:
                with with_checkpointing(model):
                    model(input_ids=ids, use_cache=False)
            else:
                model(input_ids=ids, use_cache=False)
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_other_models_are_refused():
    with (
        pytest.raises(ModelError, match="does not support gradient checkpointing"),
        with_checkpointing(nn.Conv2d(1, 1, 3)),
    ):
        pass
    with pytest.raises(ValueError, match="gradient_checkpointing"):
        ScaleTrainingSpec.model_validate({"gradient_checkpointing": True})


@pytest.mark.parametrize("taught_by", ["kept", "live", "labels"])
def test_a_killed_training_goes_on_bit_for_bit(language: Taught, tmp_path: Path, taught_by: str):
    settings = {"accumulate": 2, "gradient_checkpointing": True}
    straight = learnt(tmp_path / "straight", language, taught_by, **settings)
    with pytest.raises(Stopped):
        learnt(tmp_path / "killed", language, taught_by, stop_at=6, **settings)
    assert (tmp_path / "killed" / "work" / "t" / "checkpoint.json").exists()
    resumed = learnt(tmp_path / "killed", language, taught_by, **settings)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())


def take_part(rank: int, folder: Path, strategy: str, stop_at: int | None, model: Path) -> None:
    """Learn as one of two processes; only where weights are spread do all of them validate."""
    torch.set_num_threads(1)
    os.environ.update({"GLOO_SOCKET_IFNAME": "lo", STRATEGY_VARIABLE: strategy})
    meeting = f"file://{folder / f'meeting-{stop_at}'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    validate = Validation.score

    def score(self: Validation, student: nn.Module) -> float:
        spread = [module for module in student.modules() if isinstance(module, FSDPModule)]
        assert len(spread) == (2 if strategy == "fsdp" else 0)
        return validate(self, student)

    Validation.score = score  # type: ignore[method-assign]
    task = CausalLanguageModel(LanguageData.model_validate({"path": "x.jsonl", "max_length": 32}))
    language = unlike(open_artifact(model), task)
    settings = {"accumulate": 2, "gradient_checkpointing": True}
    found = learnt(folder / f"rank-{rank}", language, stop_at=stop_at, stop=partial(os._exit, 1), **settings)
    save_file(found, folder / f"rank-{rank}.safetensors")
    distributed.destroy_process_group()


def together(folder: Path, language: Taught, strategy: str, stop_at: int | None = None) -> list[int | None]:
    """Learn in two processes; how each of them ended."""
    folder.mkdir(exist_ok=True)
    running = [start(take_part, rank, folder, strategy, stop_at, language[0].path) for rank in range(2)]
    return ends_of(running)


@pytest.mark.parametrize("strategy", ["fsdp", pytest.param("ddp", marks=pytest.mark.slow)])
def test_two_processes_teach_a_decoder_what_one_does(
    language: Taught, whole: dict[str, Tensor], tmp_path: Path, strategy: str
):
    """Also where each layer's weights are spread over both, and computed twice."""
    assert together(tmp_path, language, strategy) == [0, 0]
    one, other = (load_file(tmp_path / f"rank-{rank}.safetensors") for rank in range(2))
    close(one, whole)
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_that_were_killed_go_on_bit_for_bit(language: Taught, tmp_path: Path, strategy: str):
    assert together(tmp_path / "straight", language, strategy) == [0, 0]
    assert together(tmp_path / "killed", language, strategy, stop_at=6)[0] == 1
    assert (tmp_path / "killed" / "rank-0" / "work" / "t" / "checkpoint.json").exists()
    assert together(tmp_path / "killed", language, strategy) == [0, 0]
    straight, resumed = (load_file(tmp_path / name / "rank-0.safetensors") for name in ("straight", "killed"))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())


def test_recovery_of_a_language_model_softens_nothing_unless_asked() -> None:
    texts, sorts = task_kind("causal-lm"), task_kind("text-classification")

    def softened(kind: TaskKind, **keys: Any) -> float:
        (loss,) = recovery_losses(RecoverySpec.model_validate(keys), kind, has_teacher=True)
        assert isinstance(loss, LogitsLoss)
        return loss.temperature

    assert (softened(texts), softened(texts, temperature=2), softened(sorts)) == (1, 2, 2)
