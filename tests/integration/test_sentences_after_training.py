"""Lower, quantize, prune: sentence encoders, through the step functions that the engine calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compress.core.artifacts import Artifact
from compress.core.spec import Spec
from compress.lowering import step as lower
from compress.lowering.parity import compare_outputs, onnx_predictor, real_batches
from compress.models.io.checkpoints import load_model
from compress.models.io.ensemble import Ensemble
from compress.models.text.sentence import SentenceEncoder
from compress.passes.export.spec import ExportSpec
from compress.passes.prune import step as prune
from compress.passes.prune.spec import PruneSpec
from compress.passes.quantize import step as quantize
from compress.passes.quantize.int8.spec import Int8Spec
from compress.profile.schema import DataSpec
from compress.profile.specs.recovery import RecoverySpec
from compress.step import StepResult
from compress.tasks.base import TrainingData
from compress.tasks.sentence_embedding.task import SentenceEmbedding
from tests.bundles import random_texts
from tests.steps import context, run
from tests.tiny_sentences import encoder, write_sentence_artifact


def make(step: Any, folder: Path, spec: Spec, model: Artifact) -> tuple[Artifact, StepResult]:
    task = SentenceEmbedding(DataSpec(path="unused", max_length=16))
    data = TrainingData(random_texts(200), random_texts(60, seed=1), ())
    return run(step, context(folder, spec, {"model": model, "teacher": model}, task, data))


@pytest.fixture(scope="module")
def mean_pooled(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_sentence_artifact(tmp_path_factory.mktemp("torch"), encoder("mean"))


@pytest.fixture(scope="module")
def lowered(mean_pooled: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make(lower, tmp_path_factory.mktemp("lowered"), ExportSpec(), mean_pooled)[0]


def test_pooling_is_a_part_of_the_file(lowered: Artifact) -> None:
    graph = onnx.load(str(lowered.path / "model.onnx")).graph
    assert [value.name for value in graph.output] == ["embedding"]
    assert (lowered.facts["fused_attentions"], lowered.facts["selected_early"]) == (2, False)
    assert {"1x1", "1x16"} < set(lowered.facts["parity"])
    assert any(name.startswith("8x") for name in lowered.facts["parity"])
    ids, mask = np.array([[2, 5, 9, 3, 0, 0]]), np.array([[1, 1, 1, 1, 0, 0]])
    short = {"input_ids": ids[:, :4], "attention_mask": mask[:, :4], "token_type_ids": ids[:, :4] * 0}
    long = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}
    run = onnx_predictor(lowered.path / "model.onnx")
    assert run(long) == pytest.approx(run(short), abs=1e-5)
    assert np.linalg.norm(run(long)) == pytest.approx(1, abs=1e-5)


def test_only_the_first_token_is_selected_early(tmp_path: Path) -> None:
    _, result = make(
        lower, tmp_path / "lower", ExportSpec(), write_sentence_artifact(tmp_path / "torch", encoder("cls"))
    )
    assert (result.facts["fused_attentions"], result.facts["selected_early"]) == (2, True)


@pytest.mark.slow
def test_an_ensemble_of_encoders_is_one_file(tmp_path: Path) -> None:
    source = write_sentence_artifact(tmp_path / "torch", Ensemble([encoder("cls"), encoder("cls", seed=1)]))
    _, result = make(lower, tmp_path / "lower", ExportSpec(), source)
    assert (result.facts["fused_attentions"], result.facts["selected_early"]) == (4, True)


def test_auto_compares_with_the_float_models_own_embeddings(lowered: Artifact, tmp_path: Path) -> None:
    after, result = make(quantize, tmp_path, Int8Spec(), lowered)
    assert (result.facts["integer_matmuls"], result.facts["float_matmuls"]) == (8, 0)
    assert {name: one["score"] > 0.97 for name, one in result.facts["variants"].items()} == {
        "dynamic": True,
        "static": True,
    }
    task = SentenceEmbedding(DataSpec(path="unused", max_length=16))
    shapes = real_batches(task, random_texts(30, seed=2), lowered)
    compare_outputs(after.path / "model.onnx", shapes, onnx_predictor(lowered.path / "model.onnx"), 0.1)


def test_a_pruned_encoder_recovers_its_teachers_similarities(mean_pooled: Artifact, tmp_path: Path) -> None:
    spec = PruneSpec.model_validate(
        {
            "remove": {"heads": 0.5, "feed_forward": 0.5},
            "importance_batches": 2,
            "recover": RecoverySpec(epochs=8, learning_rate=2e-3).model_dump(),
        }
    )
    pruned, result = make(prune, tmp_path / "prune", spec, mean_pooled)
    facts = result.facts
    assert facts["parameters"] == facts["parameters_predicted"] < facts["parameters_before"]
    assert facts["validation_score"] > facts["validation_score_before_recovery"] + 0.02
    assert isinstance(load_model(pruned.path), SentenceEncoder)
    _, result = make(lower, tmp_path / "lower", ExportSpec(), pruned)
    assert result.facts["fused_attentions"] == 2
