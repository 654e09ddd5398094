"""Decoders whose maps are products of two: on disk, lowered, in blocks, pruned further, and cut into students."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from transformers import PreTrainedModel

from compress.core.artifacts import Artifact
from compress.core.errors import ModelError
from compress.core.forms import Structure
from compress.core.spec import Spec
from compress.lowering import step as lower
from compress.models.anatomy.factors import Factored, describe_factors, insert_factors, merge_factors
from compress.models.io.checkpoints import count_parameters, load_model, save_model
from compress.models.students.decoder_cut import cut_decoder
from compress.passes.low_rank import step as low_rank
from compress.passes.low_rank.factoring import decompose
from compress.passes.low_rank.places import factor, factor_groups, second_moments
from compress.passes.low_rank.spec import LowRankSpec
from compress.passes.prune import step as prune
from compress.passes.prune.removing.decoders import DecoderPruner
from compress.passes.prune.spec import PruneSpec
from compress.passes.quantize.bitsandbytes import step as bitsandbytes
from compress.passes.quantize.bitsandbytes.spec import BitsandbytesSpec
from compress.passes.quantize.weight_only import matmul_nbits, train
from compress.passes.quantize.weight_only.rotation import rotate
from compress.passes.quantize.weight_only.row_matching import match_rows
from compress.passes.quantize.weight_only.stored import multiply_scales, stored_blocks
from compress.profile.specs.student import StudentSpec
from compress.step import StepResult
from tests import tiny_language
from tests.steps import context, run
from tests.tiny_decoders import (
    CONFIGS,
    WORDS,
    logits_of,
    lowered_decoder,
    parts_of,
    silence_dimensions,
    tiny_decoder,
)
from tests.tiny_language import Taught
from tests.unit.test_decoder_quantization import UNSEEN, dequantized, logits, quantized
from tests.unit.test_prune_decoders import IDS, material

FAST = ("llama", "phi3", "gpt2")
FAMILIES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow, id=name) for name in CONFIGS]
UNSEEN_IDS = torch.from_numpy(UNSEEN["input_ids"])


def factored(model: PreTrainedModel, share: float = 1.0) -> PreTrainedModel:
    """All its maps factored in place, with so much of their full rank."""
    for place in factor_groups(model, ()):
        found = decompose(place.weight)
        factor(model, place, found, max(1, int(share * len(found.energies))))
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_at_full_rank_it_says_what_it_said(name: str, tmp_path: Path) -> None:
    model = tiny_decoder(name)
    expected = logits_of(model, UNSEEN_IDS)
    groups = describe_factors(factored(model))
    assert len(groups) == 4 * 3
    assert len({name for group in groups for name in group["modules"]}) == sum(
        isinstance(module, Factored) for module in model.modules()
    )
    near = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(logits_of(model, UNSEEN_IDS), expected, rtol=1e-3, atol=near)
    save_model(model, tmp_path)
    again = load_model(tmp_path, attention="eager")
    assert torch.equal(logits_of(again, UNSEEN_IDS), logits_of(model, UNSEEN_IDS))
    merge_factors(again)
    assert not describe_factors(again)
    again.load_state_dict(tiny_decoder(name).state_dict())
    assert torch.equal(logits_of(again, UNSEEN_IDS), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_file_says_what_torch_says_in_two_products_a_map(name: str, tmp_path: Path) -> None:
    model = factored(tiny_decoder(name), 0.4)
    expected = logits_of(model, UNSEEN_IDS)[0].numpy()
    path = lowered_decoder(model, tmp_path)
    np.testing.assert_allclose(logits(path), expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))
    products = [node.name for node in onnx.load(str(path)).graph.node if node.op_type == "MatMul"]
    assert len(products) == 2 * 4 * 3
    assert all(name.endswith((".first", ".second")) for name in products)


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
def test_both_factors_are_stored_in_blocks(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul_nbits, "ACCURACY_LEVEL", 0)
    path = lowered_decoder(factored(tiny_decoder("llama"), 0.75), tmp_path)
    file = quantized(path, tmp_path, bits=4, method=method, block_size=16)
    kinds = [node.op_type for node in onnx.load(str(file)).graph.node]
    assert kinds.count("MatMulNBits") == 2 * 4 * 3 + 1
    assert "MatMul" not in kinds
    wanted = logits(dequantized(file))
    assert np.abs(logits(file) - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert np.abs(logits(path) - wanted).max() > 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_scales_of_both_factors_are_trained(name: str, tmp_path: Path) -> None:
    model = factored(tiny_decoder(name), 0.75)
    lowered = lowered_decoder(model, tmp_path)
    file = quantized(lowered, tmp_path, bits=4, method="rtn", block_size=16)
    rows, graph = match_rows(model, ir.load(lowered).graph), ir.load(file)
    student = train.scaled_model(model, rows, stored_blocks(graph.graph))
    factors = {
        id(part.weight) for one in model.modules() if isinstance(one, Factored) for part in one.children()
    }
    trained = [model.get_parameter(weight.name) for weight in student.weights]
    assert factors <= {id(weight) for weight in trained}
    with torch.no_grad():
        for change in student.changes:
            change.uniform_(-0.2, 0.2, generator=torch.manual_seed(1))
        expected = student(input_ids=UNSEEN_IDS).logits[0].numpy()
        assert np.array_equal(student(input_ids=UNSEEN_IDS).logits[0].numpy(), expected)
    multiply_scales(graph.graph, train.trained_factors(student, rows))
    ir.save(graph, file)
    near = 2e-4 * np.abs(expected).max()
    np.testing.assert_allclose(logits(dequantized(file)), expected, rtol=0, atol=near)


def test_a_factored_decoder_is_rotated_and_computes_what_it_did(tmp_path: Path) -> None:
    path = lowered_decoder(factored(tiny_decoder("qwen3"), 0.5), tmp_path)
    rotated = ir.load(path)
    rotate(rotated.graph)
    ir.save(rotated, tmp_path / "rotated.onnx")
    wanted = logits(path)
    assert np.abs(logits(tmp_path / "rotated.onnx") - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_maps_that_read_the_same_share_their_first_factor_or_are_refused(tmp_path: Path) -> None:
    model = tiny_decoder("llama")
    insert_factors(model, ["model.layers.0.self_attn.q_proj"], 4)
    insert_factors(model, ["model.layers.0.self_attn.k_proj"], 4)
    with pytest.raises(ModelError, match="factored separately"):
        lowered_decoder(model, tmp_path)


PRUNED = {"layers": 0.34, "feed_forward": 0.5, "heads": 0.5, "hidden": 0.25}


@pytest.mark.parametrize("importance", ["taylor", "activation"])
@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2"])
def test_what_is_factored_can_be_pruned(name: str, importance: str, tmp_path: Path) -> None:
    remove = PRUNED if name != "gpt2" else {"layers": 0.34, "feed_forward": 0.5}
    model = factored(tiny_decoder(name), 0.5)
    ranks = [group["rank"] for group in describe_factors(model)]
    pruner = DecoderPruner(model, material(remove=remove, importance=importance))
    assert pruner.parameters == count_parameters(model)
    pruner.advance(1.0)
    assert pruner.parameters == count_parameters(model)
    assert parts_of(model).sizes["layers"] == 2
    assert [group["rank"] for group in describe_factors(model)] == ranks[: 4 * 2]
    save_model(model, tmp_path)
    assert torch.equal(logits_of(load_model(tmp_path, attention="eager"), IDS), logits_of(model, IDS))
    expected = logits_of(model, UNSEEN_IDS)[0].numpy()
    found = logits(lowered_decoder(model, tmp_path))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))


def test_dimensions_that_say_nothing_go_first_of_a_factored_model_too() -> None:
    model = tiny_decoder("gemma", rms_norm_eps=1e-12)
    silence_dimensions(model)
    expected = logits_of(model, IDS)
    DecoderPruner(factored(model), material(remove={"hidden": 0.25})).advance(1.0)
    assert parts_of(model).sizes["hidden"] == 48
    torch.testing.assert_close(logits_of(model, IDS), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_student_is_cut_out_of_what_the_factors_multiply_to(name: str) -> None:
    model = factored(tiny_decoder(name))
    layers = StudentSpec(layers=2)
    student, kept = cut_decoder(model, layers, 0, None)
    whole, _ = cut_decoder(tiny_decoder(name), layers, 0, None)
    assert kept == (0, 2)
    assert not describe_factors(student)
    expected = logits_of(whole, IDS)
    near = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(logits_of(student, IDS), expected, rtol=1e-3, atol=near)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return tiny_language.taught(tmp_path_factory.mktemp("taught"))


def made(
    folder: Path, step: Any, spec: Spec, taught: Taught, model: Artifact | None = None
) -> tuple[Artifact, StepResult]:
    teacher, task, data = taught
    inputs: Mapping[str, Artifact] = {"model": model or teacher, "teacher": teacher}
    return run(step, context(folder, spec, inputs, task, data))


def spec(**keys: Any) -> LowRankSpec:
    return LowRankSpec.model_validate({"ratio": 0.4, "recover": None, **keys})


def test_the_step_keeps_its_promise(taught: Taught, tmp_path: Path) -> None:
    artifact, result = made(tmp_path / "low", low_rank, spec(), taught)
    facts = result.facts
    assert result.form.structure is Structure.FACTORED
    assert facts["parameters"] == facts["parameters_predicted"] < facts["parameters_before"]
    # Query, key and value are (128, 64) together: 0.6 * 128 * 64 / 192, the nearest multiple of 8.
    ranks = [(one["maps"], one["rows"], one["columns"], one["rank"]) for one in facts["maps"][:4]]
    assert ranks == [(3, 128, 64, 24), (1, 64, 64, 16), (2, 192, 64, 32), (1, 64, 96, 24)]
    model = load_model(artifact.path)
    assert count_parameters(model) == facts["parameters"]
    assert isinstance(model, PreTrainedModel)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    _, result = made(tmp_path / "lower", lower, Spec(), taught, artifact)
    assert result.form.structure is Structure.FACTORED
    assert result.facts["parameters"] == facts["parameters"]
    remove = {"remove": {"layers": 0.5, "heads": 0.5}, "importance_batches": 2, "recover": None}
    _, result = made(tmp_path / "prune", prune, PruneSpec.model_validate(remove), taught, artifact)
    assert result.form.structure is Structure.FACTORED
    assert result.facts["parameters"] == result.facts["parameters_predicted"] < facts["parameters"]


def test_bitsandbytes_packs_both_factors(taught: Taught, tmp_path: Path) -> None:
    artifact, _ = made(tmp_path / "low", low_rank, spec(), taught)
    packed, result = made(tmp_path / "pack", bitsandbytes, BitsandbytesSpec(), taught, artifact)
    # Two first factors that three and two maps share, and one each of the other two.
    assert result.facts["packed_layers"] == 2 * (4 + 7)
    batch = torch.arange(12)[None] + 60
    with torch.inference_mode():
        found, wanted = (load_model(one.path)(input_ids=batch).logits for one in (packed, artifact))
    assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_moments_held_in_parts_give_the_same_factors(
    taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, _ = made(tmp_path / "one", low_rank, spec(examples=8), taught)
    monkeypatch.setattr(low_rank, "MAX_MOMENT_VALUES", 3 * 64**2)
    in_parts, _ = made(tmp_path / "parts", low_rank, spec(examples=8), taught)
    first, second = (load_model(one.path).state_dict() for one in (at_once, in_parts))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_the_maps_read_counts(taught: Taught, tmp_path: Path) -> None:
    """Of the same size, the factors that look at activations lose less."""
    scores = {
        weighted: made(tmp_path / str(weighted), low_rank, spec(ratio=0.9, weighted=weighted), taught)[
            1
        ].facts
        for weighted in (True, False)
    }
    assert scores[True]["parameters"] == scores[False]["parameters"]
    whole, seen, blind = (
        np.log(-number)
        for number in (
            scores[True]["validation_score_before"],
            scores[True]["validation_score"],
            scores[False]["validation_score"],
        )
    )
    assert whole < seen < blind
    assert seen - whole < 0.8 * (blind - whole)


def test_a_loss_of_score_is_one_of_retention(taught: Taught, tmp_path: Path) -> None:
    _, result = made(tmp_path, low_rank, spec(ratio=None, max_drop=0.05, round_to=1), taught)
    facts = result.facts
    assert 0.95 <= facts["validation_score_before"] / facts["validation_score"] < 1


def test_padding_and_what_stands_behind_the_layers_are_left_out() -> None:
    model = tiny_decoder("gpt2")
    place = factor_groups(model, ())[0]
    ids = torch.randint(3, WORDS, (2, 9), generator=torch.manual_seed(2))
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, 6:] = 0
    (square,) = second_moments(model, [place], lambda: [{"input_ids": ids, "attention_mask": mask}])
    reads = []
    module = model.get_submodule(place.name)
    with module.register_forward_hook(lambda _, given, __: reads.append(given[0])):
        logits_of(model, ids[:1])
        logits_of(model, ids[1:, :6])
    rows = torch.cat([one[0] for one in reads]).double()
    torch.testing.assert_close(square, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)
