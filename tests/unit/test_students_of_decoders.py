"""Students cut out of decoders: what says nothing goes first, what is left is a regular model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from compress.core.errors import ModelError
from compress.models.io.checkpoints import count_parameters
from compress.models.students.decoder_cut import cut_decoder
from compress.profile.specs.student import StudentSpec
from tests.tiny_decoders import CONFIGS, WORDS, logits_of, lowered_decoder, parts_of, tiny_decoder

FAST = ("llama", "gemma3", "gpt2", "gpt_neox")
FAMILIES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow, id=name) for name in CONFIGS]
RMS = [one for one in FAMILIES if not {"gpt2", "gpt_neox", "starcoder2"} & set(str(one.id).split(", "))]
IDS = torch.randint(3, WORDS, (4, 12), generator=torch.manual_seed(1))


def batches() -> list[dict[str, Tensor]]:
    mask = torch.ones_like(IDS)
    mask[0, 9:] = 0
    return [{"input_ids": IDS, "attention_mask": mask}]


def student(teacher: PreTrainedModel, **keys: Any) -> PreTrainedModel:
    spec = StudentSpec.model_validate({"layers": 3, **keys})
    return cut_decoder(teacher, spec, 0, batches)[0]


def narrower(teacher: PreTrainedModel) -> dict[str, int]:
    """Half of the heads in half of the stream, which every config can say, and half of the units."""
    sizes = parts_of(teacher).sizes
    return {
        "hidden_size": sizes["hidden"] // 2,
        "heads": sizes["heads"] // 2,
        "intermediate_size": sizes["feed_forward"] // 2,
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_all_that_is_kept_says_what_the_teacher_says(name: str) -> None:
    teacher = tiny_decoder(name)
    torch.testing.assert_close(logits_of(student(teacher), IDS), logits_of(teacher, IDS), rtol=0, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_left_is_a_regular_model_that_is_lowered(name: str, tmp_path: Path) -> None:
    teacher = tiny_decoder(name)
    before = logits_of(teacher, IDS)
    made = student(teacher, layers=2, choose="similarity", **narrower(teacher))
    torch.testing.assert_close(logits_of(teacher, IDS), before, rtol=0, atol=0)
    assert count_parameters(made) < 0.6 * count_parameters(teacher)
    sizes = parts_of(made).sizes
    assert {key: sizes[key] for key in ("layers", "head_size")} == {
        "layers": 2,
        "head_size": parts_of(teacher).sizes["head_size"],
    }
    made.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits_of(again, IDS), logits_of(made, IDS), rtol=1e-3, atol=1e-4)
    session = ort.InferenceSession(lowered_decoder(made, tmp_path))
    cache = {
        one.name: torch.zeros(4, sizes["groups"], 0, sizes["head_size"]).numpy()
        for one in session.get_inputs()
        if one.name.startswith("past")
    }
    feeds = {
        "input_ids": IDS.numpy(),
        "attention_mask": torch.ones_like(IDS).numpy(),
        "logit_positions": torch.arange(12).expand(4, 12).numpy(),
    }
    said = torch.from_numpy(session.run(["logits"], {**feeds, **cache})[0])
    torch.testing.assert_close(said, logits_of(made, IDS), rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_units_and_groups_that_say_nothing_go_first(name: str) -> None:
    teacher = tiny_decoder(name)
    decoder = parts_of(teacher)
    width, groups, heads = (decoder.sizes[size] for size in ("feed_forward", "groups", "heads"))
    grouped = groups > 1 and "head_size" in decoder.network.keys
    with torch.no_grad():
        for layer in range(3):
            for share, lost in (
                (decoder.units(layer)[-1], range(layer, width, 3)),
                (decoder.groups(layer)[-1], [layer % groups]),
            ):
                if share.indices.shape[1] > 1 and not grouped:
                    continue
                weight = share.linear.get_parameter("weight")
                places = share.indices[list(lost)].flatten()
                (weight if decoder.network.transposed else weight.T)[places] = 0
    asked = {"intermediate_size": width - len(range(0, width, 3))}
    if grouped:
        asked["heads"] = heads - heads // groups
    made = student(teacher, **asked)
    torch.testing.assert_close(logits_of(made, IDS), logits_of(teacher, IDS), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", RMS)
def test_dimensions_that_say_nothing_go_first(name: str) -> None:
    teacher = tiny_decoder(name, rms_norm_eps=1e-12)
    decoder = parts_of(teacher)
    # Where the config does not say how large a head is, one group of heads goes with its dimensions.
    every = 4 if "head_size" in decoder.network.keys else 2
    with torch.no_grad():
        for share in decoder.stream_slices():
            if share.side == "out":
                table = isinstance(share.linear, torch.nn.Embedding)
                for parameter in share.linear.parameters():
                    (parameter.T if table else parameter)[1::every] = 0
        if every == 2:
            for layer in range(3):
                share = decoder.groups(layer)[-1]
                share.linear.get_parameter("weight")[:, share.indices[layer % len(share.indices)]] = 0
    made = student(teacher, hidden_size=64 - 64 // every, intermediate_size=96)
    torch.testing.assert_close(logits_of(made, IDS), logits_of(teacher, IDS), rtol=1e-3, atol=1e-3)


def test_a_head_of_a_map_that_lies_head_by_head_is_three_parts_in_a_row() -> None:
    decoder = parts_of(tiny_decoder("gpt_neox"))
    fused = decoder.groups(0)[0]
    assert fused.indices.tolist() == [list(range(96)), list(range(96, 192))]


def test_a_student_from_scratch_has_the_shape_alone() -> None:
    teacher = tiny_decoder("llama")
    made = student(teacher, layers=2, heads=2, **{"from": "scratch"})
    again = student(teacher, layers=2, heads=2, **{"from": "scratch"})
    assert made.config.to_dict() == student(teacher, layers=2, heads=2).config.to_dict()
    torch.testing.assert_close(logits_of(made, IDS), logits_of(again, IDS), rtol=0, atol=0)
    assert not torch.equal(made.lm_head.weight, teacher.lm_head.weight)


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("llama", {"heads": 3}, "not a multiple of 2"),
        ("llama", {"hidden_size": 30}, "do not divide"),
        ("llama", {"intermediate_size": 97}, "more than the 96"),
        ("gpt2", {"heads": 2}, "hidden_size: 32"),
        ("qwen2", {"hidden_size": 40}, "hidden_size: 32"),
        ("llama", {"layers": 4}, "the teacher has 3"),
    ],
)
def test_what_no_config_can_say_is_refused(name: str, asked: dict[str, int], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        student(tiny_decoder(name), **asked)
