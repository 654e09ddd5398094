"""Families that cannot be lowered or taken apart are refused by name, by `validate` where their config tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from transformers import CONFIG_MAPPING

from compress.core.errors import ModelError, ProfileError
from compress.engine.resolve import resolve_job
from compress.models.anatomy.table.families import (
    FAMILIES,
    FAMILY_UNSUPPORTED,
    families_supporting,
    max_tokens_of,
    network_of_kind,
    why_not_lowered,
    why_not_taken_apart,
)
from compress.profile.load import LoadedProfile, load_profile
from compress.profile.model_checks.families import family_faults
from compress.profile.model_checks.files import ModelFiles
from compress.profile.schema import Profile
from tests.profiles import write_profile

EXPORT: dict[str, Any] = {"export": {}}
DISTIL: dict[str, Any] = {"distill": {"student": {"layers": 1}, "epochs": 1}}


def write(
    folder: Path,
    config: dict[str, Any],
    *passes: dict[str, Any],
    task: str = "text-classification",
    **body: Any,
) -> Path:
    (folder / "data.csv").write_text("text,label\na,x\nb,y\n")
    for name in ("a", "b"):
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
    model(folder / "model", config)
    sections = {
        "task": task,
        "data": {"path": "images" if task == "image-classification" else "data.csv"},
        "teacher": {"model": "model"},
        "passes": list(passes),
        **body,
    }
    return write_profile(folder / "p.yaml", **sections)


def model(folder: Path, config: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text("{}")
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\na\n")


def faults(file: Path) -> list[tuple[str, str | None]]:
    with pytest.raises(ProfileError) as caught:
        load_profile(file)
    return [(fault.path, fault.code) for fault in caught.value.faults]


REFUSED = (
    *("albert", "bart", "big_bird", "deberta", "deberta-v2", "eurobert", "fnet", "funnel", "gpt2", "llama"),
    *("longformer", "modernbert", "nystromformer", "qwen2", "qwen3", "t5", "xlnet", "no_such_family"),
)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_family_that_is_not_lowered(tmp_path: Path, kind: str) -> None:
    file = write(tmp_path, {"model_type": kind}, EXPORT)
    assert faults(file) == [("teacher.model", FAMILY_UNSUPPORTED)]


@pytest.mark.parametrize("kind", ["bit", "timm_wrapper", "dinat", "imagegpt"])
def test_of_images_too(tmp_path: Path, kind: str) -> None:
    file = write(tmp_path, {"model_type": kind}, EXPORT, task="image-classification")
    assert faults(file) == [("teacher.model", FAMILY_UNSUPPORTED)]


@pytest.mark.parametrize("key", ["is_decoder", "add_cross_attention"])
def test_an_encoder_that_is_a_decoder(tmp_path: Path, key: str) -> None:
    file = write(tmp_path, {"model_type": "bert", key: True}, EXPORT)
    assert faults(file) == [("teacher.model", FAMILY_UNSUPPORTED)]


def test_a_family_that_needs_its_pooler(tmp_path: Path) -> None:
    file = write(tmp_path, {"model_type": "squeezebert"}, EXPORT, task="sentence-embedding")
    assert faults(file) == [("teacher.model", FAMILY_UNSUPPORTED)]


def test_a_config_without_a_family(tmp_path: Path) -> None:
    file = write(tmp_path, {"hidden_size": 3}, EXPORT)
    assert faults(file) == [("teacher.model", FAMILY_UNSUPPORTED)]


@pytest.mark.parametrize("kind", families_supporting("lower"))
def test_families_that_are_lowered(tmp_path: Path, kind: str) -> None:
    task = "image-classification" if FAMILIES[kind].modality == "images" else "text-classification"
    load_profile(write(tmp_path, {"model_type": kind}, EXPORT, task=task))
    assert kind in CONFIG_MAPPING


def test_what_is_never_lowered_may_be_of_any_family(tmp_path: Path) -> None:
    torch = [{"runtime": "torch"}]
    bits = {"quantize": {"library": "bitsandbytes", "bits": 8}}
    load_profile(write(tmp_path, {"model_type": "deberta-v2"}, bits, targets=torch))


def test_an_export_lowers_whatever_the_targets_run(tmp_path: Path) -> None:
    body = {"targets": [{"runtime": "torch"}]}
    file = write(tmp_path, {"model_type": "deberta-v2"}, {"quantize": {"library": "onnxruntime"}}, **body)
    assert ("teacher.model", FAMILY_UNSUPPORTED) in faults(file)


def test_students_and_assistants_that_stand_ready(tmp_path: Path) -> None:
    model(tmp_path / "albert", {"model_type": "albert"})
    distil = {
        "distill": {"student": {"model": "albert"}, "assistants": [{"model": "albert"}], "epochs": 1},
    }
    found = faults(write(tmp_path, {"model_type": "bert"}, distil, EXPORT))
    assert sorted(found) == [
        ("passes.0.distill.assistants.0.model", FAMILY_UNSUPPORTED),
        ("passes.0.distill.student.model", FAMILY_UNSUPPORTED),
    ]


def test_another_teacher_only_answers(tmp_path: Path) -> None:
    model(tmp_path / "deberta", {"model_type": "deberta-v2"})
    distil = {"distill": {**DISTIL["distill"], "teachers": [{"model": "deberta"}]}}
    load_profile(write(tmp_path, {"model_type": "bert"}, distil, EXPORT))


@pytest.mark.parametrize("kind", ["mpnet", "mobilebert", "squeezebert", "roformer", "convbert"])
def test_a_family_that_cannot_be_taken_apart(tmp_path: Path, kind: str) -> None:
    assert faults(write(tmp_path, {"model_type": kind}, DISTIL)) == [
        ("passes.0.distill.student", FAMILY_UNSUPPORTED)
    ]


@pytest.mark.parametrize(
    ("prune", "key"),
    [
        ({"remove": {"heads": 0.5}}, "remove.heads"),
        ({"remove": {"feed_forward": 0.5}}, "remove.feed_forward"),
        ({"remove": {"layers": 0.5}}, "remove.layers"),
        ({"remove": {"hidden": 0.5}}, "remove.hidden"),
        ({"remove": {"vocabulary": "unused"}}, "remove.vocabulary"),
        ({"target": {"ratio": 0.5}}, "target"),
    ],
)
def test_nor_pruned(tmp_path: Path, prune: dict[str, Any], key: str) -> None:
    file = write(tmp_path, {"model_type": "mpnet"}, {"prune": prune})
    assert faults(file) == [(f"passes.0.prune.{key}", FAMILY_UNSUPPORTED)]


def test_heads_of_images_are_known_of_few(tmp_path: Path) -> None:
    step = {"prune": {"remove": {"heads": 0.5}}}
    file = write(tmp_path, {"model_type": "swin"}, step, task="image-classification")
    assert faults(file) == [("passes.0.prune.remove.heads", FAMILY_UNSUPPORTED)]


@pytest.mark.parametrize(
    ("teacher", "student"), [("mpnet", "bert"), ("albert", "bert"), ("deberta-v2", "bert"), ("bert", "mpnet")]
)
@pytest.mark.parametrize("loss", ["hidden", "embedding", "attention", "relation", "similarity"])
def test_layers_that_cannot_be_compared(tmp_path: Path, teacher: str, student: str, loss: str) -> None:
    model(tmp_path / "small", {"model_type": student})
    distil = {"distill": {"student": {"model": "small"}, "epochs": 1, "losses": [{"logits": {}}, {loss: {}}]}}
    file = write(tmp_path, {"model_type": teacher}, distil, targets=[{"runtime": "torch"}])
    if loss == "similarity":
        load_profile(file)
    else:
        assert [path for path, _ in faults(file)] == ["passes.0.distill.losses.1"]


def test_a_ready_student_decides_what_comes_after_it(tmp_path: Path) -> None:
    model(tmp_path / "small", {"model_type": "bert"})
    distil = {"distill": {"student": {"model": "small"}, "epochs": 1}}
    load_profile(write(tmp_path, {"model_type": "mpnet"}, distil, {"prune": {"remove": {"heads": 0.5}}}))


def test_the_table_and_the_code_know_the_same_families() -> None:
    apart = families_supporting("take apart")
    assert set(apart) <= {kind for kind in FAMILIES if network_of_kind(kind) is not None}
    assert apart == [kind for kind in sorted(FAMILIES) if why_not_taken_apart(kind) is None]
    lowered = [kind for kind in sorted(FAMILIES) if why_not_lowered({"model_type": kind}) is None]
    assert families_supporting("lower") == lowered
    # What can be taken apart can be lowered: students and pruned models are measured as ONNX files.
    assert set(apart) <= set(lowered)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "bert"}, None),
    ],
)
def test_how_long_a_text_may_be(config: dict[str, Any], expected: int | None) -> None:
    assert max_tokens_of(config) == expected


def test_a_model_of_the_hub_is_refused_once_its_config_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, {"model_type": "bert"}, EXPORT, teacher={"model": "owner/name"})
    loaded: LoadedProfile = load_profile(file)
    (tmp_path / "snapshot").mkdir()
    config = {"model_type": "gpt2", "architectures": ["GPT2ForSequenceClassification"]}
    named = {**config, "id2label": {"0": "x", "1": "y"}}
    (tmp_path / "snapshot" / "vocab.txt").write_text("[PAD]\n[UNK]\na\n")
    (tmp_path / "snapshot" / "config.json").write_text(json.dumps(named))
    monkeypatch.setattr("compress.models.teacher.location._cached_folder", lambda *_: tmp_path / "snapshot")
    monkeypatch.setattr("compress.models.teacher.location._completed", lambda _, snapshot: snapshot)
    (tmp_path / "data.csv").write_text("text,label\n" + "".join(f"t{n},{'xy'[n % 2]}\n" for n in range(40)))
    with pytest.raises(ModelError) as caught:
        resolve_job(loaded, allow_code=False)
    assert (caught.value.code, caught.value.where) == (FAMILY_UNSUPPORTED, "teacher.model")


def test_a_language_model_that_writes_no_texts_is_refused_whatever_runs_it(tmp_path: Path):
    def faults(model: str) -> list[str]:
        body = {
            "name": "x",
            "task": "causal-lm",
            "data": {"path": "data"},
            "teacher": {"model": model},
            "passes": [{"quantize": {"library": "bitsandbytes", "bits": 8}}],
            "targets": [{"runtime": "torch"}],
        }
        return found_in(body)

    def of_tokenizer(file: str) -> list[str]:
        fresh = {"model_type": "llama", "layers": 2, "hidden_size": 64, "tokenizer": file}
        body = {
            "name": "x",
            "task": "causal-lm",
            "data": {"path": "data"},
            "teacher": {"config": fresh, "finetune": {}},
            "passes": [{"export": {}}],
        }
        return found_in(body)

    def found_in(body: dict[str, Any]) -> list[str]:
        found = family_faults(Profile.model_validate(body), ModelFiles(tmp_path))
        return [f"{'.'.join(map(str, place))}: {why}" for place, why in found]

    def gguf(architecture: str, pre: str | None = None, joins: str | None = None) -> str:
        writer = GGUFWriter(tmp_path / f"{architecture}.gguf", architecture)
        if joins is not None:
            writer.add_chat_template("long " * 100)
            writer.add_token_list(["a", "b" * 300])
            writer.add_token_types([1, 1])
            writer.add_tokenizer_model(joins)
        if pre is not None:
            writer.add_tokenizer_pre(pre)
        writer.add_tensor("x", np.zeros(1, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return f"{architecture}.gguf"

    for kind in ("t5", "bert", "llama"):
        (tmp_path / kind).mkdir()
        body = {"model_type": kind, "is_encoder_decoder": kind == "t5"}
        (tmp_path / kind / "config.json").write_text(json.dumps(body))
    assert "it is an encoder-decoder" in faults("t5")[0]
    assert "cannot generate text" in faults("bert")[0]
    assert faults("llama") == []
    assert "it is an encoder-decoder" in faults(gguf("t5"))[0]
    assert "'mamba' cannot generate text" in faults(gguf("mamba"))[0]
    assert faults(gguf("llama")) == faults(gguf("gemma3")) == []
    for pre in ("smollm", "gpt-2", "llama-bpe", "llama3", "qwen2", "starcoder"):
        assert faults(gguf("llama", pre, "gpt2")) == []
    assert faults(gguf("llama", "default", "llama")) == []
    assert "splits texts into words by the rules 'tekken'" in faults(gguf("llama", "tekken", "gpt2"))[0]
    assert "does not say how its tokenizer splits texts" in faults(gguf("llama", None, "gpt2"))[0]
    assert "has a tokenizer of the kind 't5'" in faults(gguf("llama", "default", "t5"))[0]
    for pre in ("tekken", None):
        (found,) = of_tokenizer(gguf("llama", pre, "gpt2"))
        assert found.startswith("teacher.config.tokenizer: this GGUF file")
    assert of_tokenizer(gguf("llama", "smollm", "gpt2")) == []
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\0\0\0")
    assert faults("cut.gguf") == []
