"""LoRA: what is trained, what a checkpoint holds, and that merged weights say the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compress.core.errors import ModelError, PassError
from compress.encoding.tokens import TokenInputs
from compress.models.io.outputs import outputs_of
from compress.profile.model_checks.families import family_faults
from compress.profile.model_checks.files import ModelFiles
from compress.profile.schema import Profile
from compress.profile.specs.training import LoraSpec, TrainingSpec
from compress.training.adapters import add_adapters, merge_adapters
from compress.training.checkpointing import copy_weights
from compress.training.optimization import adamw
from tests.tiny import tiny_bert
from tests.tiny_decoders import WORDS, tiny_decoder
from tests.unit.test_training_loop import Setup, Stopped


def inputs(words: int = WORDS) -> TokenInputs:
    random = np.random.default_rng(0)
    ids = [random.integers(3, words, length) for length in (9, 4, 12)]
    return TokenInputs(ids, ("input_ids", "attention_mask"), 0)


def moved(model: torch.nn.Module) -> None:
    """As training moves adapters, which begin with no effect."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))


@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2", "gpt_neox"])
def test_merged_weights_say_what_the_adapted_model_says(name: str):
    model = tiny_decoder(name)
    before, whole = copy.deepcopy(model), sum(p.numel() for p in model.parameters())
    trained = add_adapters(model, LoraSpec(rank=4), seed=1)
    assert 0 < trained < 0.5 * whole
    learning = [name for name, each in model.named_parameters() if each.requires_grad]
    assert all("lora_" in each for each in learning)
    groups = adamw(model, TrainingSpec()).param_groups
    assert sum(each.numel() for group in groups for each in group["params"]) == trained
    assert sum(each.numel() for each in copy_weights(model).values()) == trained
    batch = {key: torch.from_numpy(value) for key, value in inputs().batch(range(3)).items()}
    with torch.no_grad():
        untouched = outputs_of(before(**batch))
        assert torch.equal(outputs_of(model(**batch)), untouched)
        moved(model)
        adapted = outputs_of(model(**batch))
    assert float((adapted - untouched).abs().max()) > 0.1
    facts = merge_adapters(model, trained, inputs(), "cpu")
    assert model.state_dict().keys() == before.state_dict().keys()
    assert facts["trained_parameters"] == trained
    with torch.no_grad():
        assert torch.allclose(outputs_of(model(**batch)), adapted, atol=1e-3)


@pytest.mark.parametrize(("layers", "maps"), [("all", 7), ("attention", 4), ("feed_forward", 3)])
def test_some_maps_may_be_left_alone(layers: str, maps: int):
    model = tiny_decoder("llama")
    add_adapters(model, LoraSpec.model_validate({"layers": layers}), seed=0)
    assert sum(name.endswith("lora_A.default.weight") for name, _ in model.named_parameters()) == 3 * maps


def test_equal_seeds_draw_equal_adapters():
    drawn = []
    for seed in (0, 0, 1):
        model = tiny_decoder("llama")
        add_adapters(model, LoraSpec(rank=2), seed=seed)
        drawn.append(next(each for name, each in model.named_parameters() if "lora_A" in name))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_merge_that_changes_what_is_said_is_a_broken_promise(monkeypatch: pytest.MonkeyPatch):
    from peft.tuners.lora.layer import Linear

    model = tiny_decoder("llama")
    trained = add_adapters(model, LoraSpec(rank=4), seed=1)
    moved(model)
    monkeypatch.setattr(Linear, "merge", lambda self, **_: None)
    with pytest.raises(PassError, match="merged model gives different outputs"):
        merge_adapters(model, trained, inputs(), "cpu")


def test_layers_that_are_not_known_are_refused():
    with pytest.raises(ModelError, match="cannot take adapters"):
        add_adapters(torch.nn.Linear(2, 2), LoraSpec(), seed=0)


class Adapted(Setup):
    """The training of the loop's tests, of adapters and a head."""

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.model = tiny_bert()
        self.trained = add_adapters(self.model, LoraSpec(rank=2, dropout=0.1), seed=3, with_head=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_training_of_adapters_goes_on_bit_for_bit(precision: str, tmp_path: Path):
    straight, killed, resumed = (Adapted(tmp_path / name) for name in ("straight", "killed", "killed"))
    straight.run(precision=precision)
    with pytest.raises(Stopped):
        killed.run(stop_at=11, precision=precision)
    saved = load_file(next((tmp_path / "killed").glob("state-*.safetensors")))
    # Weights that nobody trains are in no checkpoint.
    assert all("lora_" in name or "classifier" in name for name in saved if name.startswith("model/"))
    resumed.run(precision=precision)
    ours, theirs = copy_weights(resumed.model), copy_weights(straight.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert killed.losses + resumed.losses == straight.losses


def test_families_without_known_layers_take_none(tmp_path: Path):
    found = {}
    for kind in ("resnet", "llama", "bert"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": kind}))
        body = {
            "name": "x",
            "task": "image-classification",
            "data": {"path": "data"},
            "teacher": {"model": "model", "finetune": {"lora": {}}},
            "passes": [{"export": {}}],
            "targets": [{"runtime": "torch"}],
        }
        found[kind] = dict(family_faults(Profile.model_validate(body), ModelFiles(tmp_path)))
    place = ("teacher", "finetune", "lora")
    assert "cannot take adapters" in found["resnet"][place]
    assert place not in found["llama"]
    assert place not in found["bert"]
