"""Adapters of peft beside a teacher: refused by name, or added to its weights and proved to say the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file

from compress import api
from compress.core.errors import ModelError
from compress.data.splits import UNLABELLED, Examples
from compress.engine.resolve import fingerprints
from compress.models.io.adapter import merge_adapter
from compress.models.io.checkpoints import load_model
from compress.planning.steps import build_plan
from compress.profile.load import load_profile
from compress.profile.schema import TeacherSpec
from compress.tasks.base import TrainingData
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.source import write_model as write_source
from compress.tasks.causal_lm.task import CausalLanguageModel
from tests.steps import context
from tests.tiny_decoders import logits_of, tiny_decoder
from tests.tiny_language import profile, write_model, write_texts

IDS = torch.arange(3, 43).reshape(4, 10)


def write_adapter(model: transformers.PreTrainedModel, folder: Path, **said: Any) -> torch.Tensor:
    """An adapter that changes what a model says; what the adapted model says."""
    from peft import LoraConfig, get_peft_model

    keys = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **said}
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(**keys)).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if any(part in name for part in ("lora_B", "lora_embedding", "modules_to_save")):
                parameter.add_(0.1 * torch.randn_like(parameter))
        found: torch.Tensor = adapted(input_ids=IDS).logits
    adapted.save_pretrained(folder)
    return found


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"use_dora": True, "use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "target_modules": ["q_proj", "down_proj"]},
        {"modules_to_save": ["norm"]},
    ],
)
def test_the_model_that_follows_is_the_adapted_one(said: dict[str, Any], tmp_path: Path):
    write_model(tmp_path / "model")
    base = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "model").eval()
    before = logits_of(base, IDS)
    wanted = write_adapter(base, tmp_path / "adapter", **said)
    texts = Examples(("the red cat",), np.array([UNLABELLED]))
    task = CausalLanguageModel(LanguageData.model_validate({"path": "x", "max_length": 32}))
    spec = TeacherSpec(model="model", adapter="adapter")
    ctx = context(tmp_path / "step", spec, {}, task, TrainingData(texts, texts, ()), tmp_path)
    facts = write_source(ctx, spec)
    found = logits_of(load_model(ctx.out), IDS)
    assert facts["adapter"] == "adapter"
    assert float((before - wanted).abs().max()) > 0.05
    assert float((found - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())


def test_maps_that_are_turned_are_corrected_too(tmp_path: Path):
    wanted = write_adapter(tiny_decoder("gpt2"), tmp_path, target_modules=["c_attn"], fan_in_fan_out=True)
    found, facts = merge_adapter(tiny_decoder("gpt2"), tmp_path)
    assert float((logits_of(found, IDS) - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())
    assert facts["merged_difference"] < 1e-2


def test_adapters_of_other_models_are_refused(tmp_path: Path):
    write_adapter(tiny_decoder("llama"), tmp_path / "whole")

    def refused(words: str, folder: Path, **changed: Any) -> None:
        with pytest.raises(ModelError, match=words):
            merge_adapter(tiny_decoder("llama", **changed), folder)

    refused("does not fit the model", tmp_path / "whole", intermediate_size=80)
    refused("which the model does not have", tmp_path / "whole", num_hidden_layers=2)
    refused("this adapter lacks", tmp_path / "whole", num_hidden_layers=4)
    weights = load_file(tmp_path / "whole" / "adapter_model.safetensors")
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    save_file(dict(list(weights.items())[2:]), tmp_path / "part" / "adapter_model.safetensors")
    refused("this adapter lacks", tmp_path / "part")
    # A table of words that is the head too says something else once a correction of it is added.
    write_adapter(
        tiny_decoder("llama, tied with biases"), tmp_path / "words", target_modules=["embed_tokens"]
    )
    with pytest.raises(ModelError, match="gives different outputs"):
        merge_adapter(tiny_decoder("llama, tied with biases"), tmp_path / "words")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("adapters")
    write_model(place / "model")
    write_texts(place / "data")
    base = transformers.LlamaForCausalLM.from_pretrained(place / "model")
    write_adapter(base, place / "adapter")
    return place


def faults(folder: Path, **teacher: Any) -> list[str]:
    body = profile(teacher={"model": "model", "adapter": "adapter", **teacher})
    (folder / "p.yaml").write_text(yaml.safe_dump(body))
    return [f"{fault.path}: {fault.message}" for fault in api.validate(folder / "p.yaml").faults]


def test_a_valid_one_is_a_part_of_the_key(folder: Path):
    assert faults(folder) == []

    def known() -> dict[Any, str | None]:
        loaded = load_profile(folder / "p.yaml")
        return dict(fingerprints(loaded, build_plan(loaded.profile)).models)

    before = known()
    file = folder / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name: 2 * values for name, values in weights.items()}, file)
    after = known()
    save_file(weights, file)
    assert before["model", None] == after["model", None]
    assert before["adapter", None] != after["adapter", None]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"peft_type": "IA3"}, "adapters of the type IA3 cannot be merged here"),
        ({"task_type": "SEQ_CLS"}, "is for SEQ_CLS"),
        ({"init_lora_weights": "pissa"}, "`init_lora_weights: pissa` cannot be merged"),
        ({"layer_replication": [[0, 1]]}, "`layer_replication: "),
        ({"alora_invocation_tokens": [1]}, "`alora_invocation_tokens: "),
        ({"something_new": True}, "`something_new: True`"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    said: dict[str, Any], words: str, folder: Path, tmp_path: Path
):
    shutil.copytree(folder / "adapter", tmp_path / "other")
    file = tmp_path / "other" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
    found = faults(folder, adapter=str(tmp_path / "other"))
    assert any(words in fault and fault.startswith("teacher.adapter") for fault in found), found


def test_nothing_but_a_folder_with_safe_weights_is_an_adapter(folder: Path, tmp_path: Path):
    for source in ("owner/adapter", "model", "nowhere/at/all"):
        (found,) = faults(folder, adapter=source)
        assert "expected a folder on this machine with an adapter_config.json" in found
    shutil.copytree(folder / "adapter", tmp_path / "pickled")
    (tmp_path / "pickled" / "adapter_model.safetensors").rename(tmp_path / "pickled" / "adapter_model.bin")
    (found,) = faults(folder, adapter=str(tmp_path / "pickled"))
    assert "adapter_model.bin is a pickle" in found
    assert any("as `teacher.adapter`" in fault for fault in faults(folder, model="adapter"))
