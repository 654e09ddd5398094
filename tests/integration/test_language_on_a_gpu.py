"""Language models on a GPU, one: marked `gpu`. They are tried on a CPU too, marked `slow`, so that the tests themselves
are known to work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.core.artifacts import Artifact
from compress.core.disk.exhaustion import resource_errors
from compress.core.errors import ResourceError
from compress.core.spec import Spec
from compress.generation.answers import read_answers
from compress.generation.writing import GenerationSettings, write_answers
from compress.lowering import step as lower
from compress.models.io.checkpoints import load_model
from compress.passes.distill import step as distill
from compress.passes.distill.spec import DistillSpec
from compress.passes.finetune import step as finetune
from compress.passes.low_rank import step as low_rank
from compress.passes.low_rank.spec import LowRankSpec
from compress.passes.prune import step as prune
from compress.passes.prune.spec import PruneSpec
from compress.passes.quantize import step as quantize
from compress.passes.quantize.bitsandbytes import step as bitsandbytes_step
from compress.passes.quantize.bitsandbytes.spec import BitsandbytesSpec
from compress.passes.quantize.weight_only import train as scales
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.profile.specs.training import FinetuneSpec
from compress.runtimes.runner import LOGIT_POSITIONS
from compress.runtimes.torch_worker import TorchRuntime
from tests import tiny_language
from tests.steps import context, run
from tests.tiny_language import Taught

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), CUDA])
LEARNING = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 8}
REMOVED = {"layers": 0.5, "feed_forward": 0.5, "heads": 0.5, "hidden": 0.25}
STEPS: dict[str, tuple[Any, type[Spec], dict[str, Any]]] = {
    "adapters on packed texts": (finetune, FinetuneSpec, {**LEARNING, "lora": {"dropout": 0.1}, "pack": True}),
    "layers computed twice": (finetune, FinetuneSpec, {**LEARNING, "gradient_checkpointing": True, "accumulate": 2}),
    "kept words of a teacher": (distill, DistillSpec, {**LEARNING, "student": {"hidden_size": 32}, "losses": [
        {"logits": {"temperature": 2, "top_k": 16}}, {"next_token": {}}]}),
    "trusted words": (distill, DistillSpec, {**LEARNING, "student": {"layers": 1}, "select": {"right": True},
                                             "losses": [{"logits": {"temperature": 1, "divergence": "jsd"}}]}),
    "a teacher run along": (distill, DistillSpec, {**LEARNING, "student": {"layers": 1}, "losses": [
        {"logits": {"temperature": 1, "top_k": 260}}, {"hidden": {"weight": 0.01}}, {"attention": {}}]}),
    "what a teacher writes": (distill, DistillSpec, {
        **LEARNING, "student": {"layers": 1}, "losses": [{"next_token": {}}],
        "sequence": {"most": 8, "prompt_tokens": 4, "license": "apache-2.0", "license_ok": True}}),
    "pruned": (prune, PruneSpec, {"remove": REMOVED, "importance_batches": 2, "recover": LEARNING}),
    "pruned by activations": (prune, PruneSpec, {
        "remove": REMOVED, "importance": "activation", "importance_batches": 2, "recover": None}),
    "layers by the loss": (prune, PruneSpec, {
        "remove": {"layers": 0.5}, "layers_by": "loss", "importance_batches": 2, "recover": None}),
    "factored": (low_rank, LowRankSpec, {"ratio": 0.9, "recover": LEARNING}),
}  # fmt: skip
"""What a step does -> the step, and its keys."""


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return tiny_language.taught(tmp_path_factory.mktemp("taught"))


def on(device: Any, folder: Path, spec: Spec, inputs: dict[str, Artifact], taught: Taught) -> Any:
    """What a step on this device may look at; a GPU computes in bf16, as it does for a user."""
    ctx = context(folder, spec, inputs, *taught[1:])
    return replace(ctx, device=device, precision="fp32" if device == "cpu" else "bf16")


@DEVICES
@pytest.mark.parametrize("name", STEPS)
def test_a_step_leaves_a_model_that_says_something(
    taught: Taught, tmp_path: Path, name: str, device: str
) -> None:
    teacher, (step, kind, keys) = taught[0], STEPS[name]
    roles = dict.fromkeys(("model", "teacher", "original"), teacher)
    made, result = run(step, on(device, tmp_path / "step", kind.model_validate(keys), roles, taught))
    assert all(parameter.isfinite().all() for parameter in load_model(made.path).parameters())
    for curve in result.curves:
        assert all(np.isfinite(point.train_loss) for point in curve.points if point.train_loss is not None)


@DEVICES
def test_scales_of_blocks_are_trained(taught: Taught, tmp_path: Path, device: str) -> None:
    teacher = taught[0]
    keys = {"bits": 4, "method": "rtn", "block_size": 16, "train": LEARNING}
    spec = WeightOnlySpec.model_validate(keys)
    lowered, _ = run(lower, context(tmp_path / "lowered", Spec(), {"model": teacher}, *taught[1:]))
    plain = spec.model_copy(update={"train": None})
    blocks, _ = run(quantize, context(tmp_path / "blocks", plain, {"model": lowered}, *taught[1:]))
    roles = {"model": blocks, "float": teacher, "lowered": lowered, "teacher": teacher}
    _, result = run(scales, on(device, tmp_path / "scales", spec, roles, taught))
    assert result.facts["trained_scales"]["scales"] > 0


def packed(taught: Taught, folder: Path, **keys: Any) -> Artifact:
    """The model as bitsandbytes packs it."""
    spec = BitsandbytesSpec.model_validate({"library": "bitsandbytes", **keys})
    return run(bitsandbytes_step, context(folder, spec, {"model": taught[0]}, *taught[1:]))[0]


NUMBERS: dict[str, tuple[dict[str, Any], float]] = {
    "float": ({}, 0.99999),
    "bits 8": ({"bits": 8}, 0.999),
    "bits 4": ({"bits": 4}, 0.97),
}
"""How a model is packed, and how its logits go with those of the floats on the CPU, at least."""


def alike(found: Any, wanted: Any) -> float:
    """The correlation of numbers."""
    return float(np.corrcoef(found.ravel(), wanted.ravel())[0, 1])


@DEVICES
@pytest.mark.parametrize("numbers", NUMBERS)
def test_tokens_are_read_and_written(taught: Taught, tmp_path: Path, numbers: str, device: str) -> None:
    """What is timed, and rows that are written together."""
    keys, least = NUMBERS[numbers]
    artifact = packed(taught, tmp_path / "packed", **keys) if keys else taught[0]
    runtime = TorchRuntime()
    runtime.prepare(1, device)
    runs: Any = runtime.open(str(artifact.path), 1, device)
    ids = np.random.default_rng(0).integers(2, 250, (2, 12))
    with torch.inference_mode():
        wanted = load_model(taught[0].path)(input_ids=torch.from_numpy(ids)).logits.numpy()
    whole = runs({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert alike(whole, wanted) > least
    for past in (0, 11, 11):
        new = {"input_ids": ids[:, past:].copy(), "attention_mask": np.ones_like(ids)}
        found = runs({**new, LOGIT_POSITIONS: np.full((2, 1), 11 - past)})
        assert found.shape == (2, 1, wanted.shape[2])
        # Behind zeros, which take as long, something else is said.
        assert past or alike(found[:, 0], wanted[:, 11]) > least
    rows = runs.decoder(0)
    first = rows.start([ids[0, :5].tolist(), ids[1, :3].tolist()])
    assert alike(first, wanted[[0, 1], [4, 2]]) > least
    rows.keep([1])
    assert alike(rows.read([[int(ids[1, 3])]]), wanted[1, 3]) > least


@pytest.mark.gpu
def test_answers_are_those_of_the_cpu(taught: Taught, tmp_path: Path) -> None:
    prompts = ["red", "the big cat", "a", "tree house runs"]
    found = {}
    for device in ("cpu", "cuda"):
        file = write_answers(
            taught[0], prompts, GenerationSettings(8), tmp_path / device, device=device, batch_size=2
        )
        found[device] = {answer.key: answer.text for answer in read_answers(file)}
    assert len(found["cpu"]) == 4
    same = [found["cuda"][key] == text for key, text in found["cpu"].items()]
    assert sum(same) >= 3


@pytest.mark.gpu
def test_memory_that_runs_out_is_told() -> None:
    """More than any card has: what others hold of it stays theirs."""
    with pytest.raises(ResourceError, match="memory ran out") as caught, resource_errors(list):
        torch.empty(2**50, dtype=torch.uint8, device="cuda")
    assert caught.value.exit_code == 7
    assert float(torch.ones(4, device="cuda").sum()) == 4
