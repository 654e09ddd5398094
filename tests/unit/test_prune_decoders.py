"""Decoders lose layers, groups of heads and feed-forward units, and are what transformers makes of their config."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from compress.core.errors import ModelError, PassError
from compress.encoding.inputs import LOSS_MASK
from compress.models.io.checkpoints import count_parameters
from compress.passes.prune.choosing.saliency import ImportanceData, weight_saliency
from compress.passes.prune.removing.decoders import DecoderPruner
from compress.passes.prune.spec import PruneSpec
from tests.tiny_decoders import CONFIGS, WORDS, logits_of, parts_of, silence_dimensions, tiny_decoder

FAST = ("llama", "gemma3", "phi3", "gpt2")
FAMILIES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow, id=name) for name in CONFIGS]
IDS = torch.randint(3, WORDS, (2, 12), generator=torch.manual_seed(1))


class Texts:
    """Eight texts of twelve tokens, all of which are learnt."""

    lengths = np.full(8, 12, np.int64)
    ids = np.random.default_rng(0).integers(3, WORDS, (8, 12))

    def batch(self, indices: Any) -> dict[str, Any]:
        ids = self.ids[np.asarray(indices)]
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), LOSS_MASK: np.ones_like(ids)}


def material(**keys: Any) -> ImportanceData:
    spec = PruneSpec.model_validate({"recover": None, "round_to": 16, **keys})
    return ImportanceData(Texts(), None, spec, 0, "cpu", 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("importance", ["taylor", "activation", "magnitude"])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_left_is_a_regular_model(name: str, importance: str, tmp_path: Path) -> None:
    model = tiny_decoder(name)
    heads = 0.5 if parts_of(model).sizes["groups"] > 1 and "head_size" in parts_of(model).network.keys else 0
    hidden = 0.25 if "head_size" in parts_of(model).network.keys else 0
    remove = {"layers": 0.34, "feed_forward": 0.5, "heads": heads, "hidden": hidden}
    before = count_parameters(model)
    pruner = DecoderPruner(model, material(remove=remove, importance=importance))
    assert pruner.parameters == before
    pruner.advance(1.0)
    assert pruner.parameters == count_parameters(model) < before
    assert pruner.width == parts_of(model).sizes["hidden"] == (48 if hidden else 64)
    described = pruner.describe_layers()
    assert len(described) == len(pruner.layers) == 2
    assert all(one["feed_forward_removed"] > 0 for one in described)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(again.eval(), IDS), logits_of(model, IDS), rtol=1e-3, atol=1e-4)
    # And it still goes on with a cache.
    assert model.generate(input_ids=IDS[:1], max_new_tokens=4, do_sample=False).shape == (1, 16)


@pytest.mark.parametrize("name", FAMILIES)
def test_units_that_say_nothing_go_first_and_nothing_changes(name: str) -> None:
    model = tiny_decoder(name)
    decoder = parts_of(model)
    lost = list(range(1, 96, 3))
    for layer in range(decoder.sizes["layers"]):
        weight = decoder.units(layer)[-1].linear.weight
        with torch.no_grad():
            (weight if decoder.network.transposed else weight.T)[lost] = 0
    expected = logits_of(model, IDS)
    spec = material(remove={"feed_forward": 32 / decoder.sizes["feed_forward"]}, importance="taylor")
    DecoderPruner(model, spec).advance(1.0)
    torch.testing.assert_close(logits_of(model, IDS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_activations_count_whichever_way_a_weight_lies(name: str) -> None:
    model, texts = tiny_decoder(name), Texts()
    share = parts_of(model).units(1)[-1]
    weight = share.linear.get_parameter("weight")
    saliency = weight_saliency(model, material(remove={"layers": 0.34}, importance="activation"))
    reads = []
    with share.linear.register_forward_hook(lambda _, given, __: reads.append(given[0].detach())):
        logits_of(model, torch.from_numpy(texts.ids))
    size = reads[0].flatten(0, -2).square().mean(0).sqrt()
    expected = weight.detach().abs() * (size[:, None] if name == "gpt2" else size)
    torch.testing.assert_close(saliency[weight], expected)


class Padded(Texts):
    """The same, with four pads behind each text."""

    def batch(self, indices: Any) -> dict[str, Any]:
        return {name: np.pad(each, ((0, 0), (0, 4))) for name, each in super().batch(indices).items()}


def test_padding_counts_for_nothing() -> None:
    model = tiny_decoder("llama")
    one = material(remove={"layers": 0.34}, importance="activation")
    alone, beside = (weight_saliency(model, replace(one, inputs=each)) for each in (one.inputs, Padded()))
    for weight in model.parameters():
        torch.testing.assert_close(alone[weight], beside[weight], rtol=1e-4, atol=1e-6)


def test_groups_that_say_nothing_go_first_and_nothing_changes() -> None:
    model = tiny_decoder("qwen3")
    decoder = parts_of(model)
    for layer in range(decoder.sizes["layers"]):
        shares = decoder.groups(layer)
        with torch.no_grad():
            shares[-1].linear.weight[:, shares[-1].indices[0]] = 0
    expected = logits_of(model, IDS)
    pruner = DecoderPruner(model, material(remove={"heads": 0.5}))
    pruner.advance(1.0)
    assert pruner.describe_layers()[0]["heads_removed"] == [0, 1]
    torch.testing.assert_close(logits_of(model, IDS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("importance", ["taylor", "activation", "magnitude"])
@pytest.mark.parametrize("name", ["llama", "gemma", "gemma3"])
def test_dimensions_that_say_nothing_go_first_and_nothing_changes(name: str, importance: str) -> None:
    model = tiny_decoder(name, rms_norm_eps=1e-12)
    silence_dimensions(model)
    expected = logits_of(model, IDS)
    pruner = DecoderPruner(model, material(remove={"hidden": 0.25}, importance=importance))
    pruner.advance(1.0)
    assert pruner.width == 48
    torch.testing.assert_close(logits_of(model, IDS), expected, rtol=1e-3, atol=1e-3)


def test_the_width_that_is_left_is_one_that_heads_divide() -> None:
    model = tiny_decoder("llama", num_attention_heads=12, num_key_value_heads=4, head_dim=16)
    pruner = DecoderPruner(model, material(remove={"hidden": 0.4}, round_to=8))
    pruner.advance(1.0)
    assert pruner.width == 48


def test_the_layer_that_changes_least_goes() -> None:
    model = tiny_decoder("llama")
    decoder = parts_of(model)
    with torch.no_grad():
        for role in ("attention_output", "feed_out"):
            decoder.blocks[1].parts[role].weight.zero_()
    expected = logits_of(model, IDS)
    pruner = DecoderPruner(model, material(remove={"layers": 0.34}, importance="activation"))
    pruner.advance(1.0)
    assert pruner.layers == [0, 2]
    torch.testing.assert_close(logits_of(model, IDS), expected)


@pytest.mark.parametrize(("name", "key"), [("llama", "num_hidden_layers"), ("gpt2", "n_layer")])
def test_by_loss_layers_go_that_are_least_missed(name: str, key: str) -> None:
    asked = material(remove={"layers": 0.5}, layers_by="loss", importance_batches=2)
    model = tiny_decoder(name, **{key: 4})
    whole = copy.deepcopy(model)

    def loss_of(kept: list[int]) -> float:
        smaller = copy.deepcopy(whole).eval()
        parts_of(smaller).keep_layers(kept)
        with torch.no_grad():
            losses = []
            for batch in asked.batches():
                ids = torch.from_numpy(Texts.ids[batch])
                said = smaller(input_ids=ids).logits[:, :-1].flatten(0, 1)
                losses.append(float(torch.nn.functional.cross_entropy(said, ids[:, 1:].flatten())))
        return float(np.mean(losses))

    kept = [0, 1, 2, 3]
    for _ in range(2):
        kept = min(([each for each in kept if each != gone] for gone in kept), key=loss_of)
    pruner = DecoderPruner(model, asked)
    pruner.advance(1.0)
    assert pruner.layers == kept
    assert all(not block.module._forward_hooks for block in parts_of(model).blocks)


def test_windows_go_with_their_layers() -> None:
    model = tiny_decoder("gemma3")
    kinds = list(model.config.layer_types)
    pruner = DecoderPruner(model, material(remove={"layers": 0.34}))
    pruner.advance(1.0)
    assert model.config.layer_types == [kinds[layer] for layer in pruner.layers]


def test_in_steps_it_ends_where_one_step_ends() -> None:
    model = tiny_decoder("llama")
    other = copy.deepcopy(model)
    wanted = material(remove={"layers": 0.34, "feed_forward": 0.5}, importance="magnitude")
    at_once, in_steps = DecoderPruner(model, wanted), DecoderPruner(other, wanted)
    at_once.advance(1.0)
    for share in (0.5, 1.0):
        in_steps.advance(share)
    assert in_steps.parameters == at_once.parameters
    assert other.config.to_dict() == model.config.to_dict()


def test_a_width_that_the_heads_of_a_step_do_not_divide_waits() -> None:
    model = tiny_decoder("llama", num_key_value_heads=4)
    pruner = DecoderPruner(model, material(remove={"heads": 0.5, "hidden": 0.25}, round_to=8))
    widths = []
    for share in (0.5, 1.0):
        pruner.advance(share)
        widths.append((parts_of(model).sizes["heads"], pruner.width))
    assert widths == [(3, 64), (2, 48)]
    assert pruner.parameters == count_parameters(model)


def test_heads_whose_size_hangs_on_their_number_stay() -> None:
    with pytest.raises(ModelError, match="derives the head size from the number of heads"):
        DecoderPruner(tiny_decoder("gpt2"), material(remove={"heads": 0.5}))
    with pytest.raises(ModelError, match="no dimension of this model"):
        DecoderPruner(tiny_decoder("qwen2"), material(remove={"hidden": 0.5}))


def test_a_fraction_that_removes_nothing_is_refused() -> None:
    with pytest.raises(PassError, match="nothing would be removed"):
        DecoderPruner(tiny_decoder("llama"), material(remove={"layers": 0.1}))
