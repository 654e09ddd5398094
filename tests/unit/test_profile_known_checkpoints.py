"""What a model's files say and could not be carried is named by `validate`, and by a run for models of the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from compress.core.errors import ModelError, ProfileError
from compress.models.teacher.location import check_teacher
from compress.profile.load import load_profile
from compress.profile.model_checks.checkpoints import checkpoint_problems
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.tokenizers import (
    TOKENIZER_MISSING,
    TOKENIZER_SETTING,
    TOKENIZER_TOO_LARGE,
    tokenizer_missing_problem,
)
from compress.profile.schema import TeacherSpec
from tests.profiles import write_profile

VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "a": 2}
LABELS = ("x", "y")
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "x", "1": "y"},
    "vocab_size": 3,
}


def model(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    write(folder / "config.json", {**CONFIG, **changes})
    write(folder / "tokenizer.json", {"model": {"vocab": VOCABULARY}, "added_tokens": []})
    return folder


def write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value))


def profile(folder: Path, **changes: Any) -> Path:
    (folder / "data.csv").write_text("text,label\na,x\nb,y\n")
    return write_profile(folder / "p.yaml", **{"teacher": {"model": "model"}, **changes})


def found(folder: Path, **changes: Any) -> tuple[list[tuple[str, str | None]], int]:
    with pytest.raises(ProfileError) as caught:
        load_profile(profile(folder, **changes))
    assert all(fault.line is not None for fault in caught.value.faults)
    return [(fault.path, fault.code) for fault in caught.value.faults], caught.value.exit_code


def test_nothing_is_wrong(tmp_path: Path) -> None:
    folder = model(tmp_path / "model", quantization_config=None, problem_type="single_label_classification")
    save_file({"w": np.zeros(3, np.float32), "ids": np.zeros(3, np.int64)}, folder / "model.safetensors")
    load_profile(profile(tmp_path))
    check_teacher(
        TeacherSpec(model=str(folder)), LABELS, Path(), allow_code=False, task="text-classification"
    )


@pytest.mark.parametrize(
    "said",
    [
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq"},
        {"quant_method": "fp8"},
        {"quant_method": "compressed-tensors"},
        {"bits": 8},
        "int8",
    ],
    ids=str,
)
def test_a_quantized_checkpoint(tmp_path: Path, said: Any) -> None:
    model(tmp_path / "model", quantization_config=said)
    assert found(tmp_path) == ([("teacher.model", "quantized-checkpoint")], 4)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_packed_weights_without_a_word_about_them(tmp_path: Path, kind: Any) -> None:
    folder = model(tmp_path / "model")
    save_file({"a.weight": np.zeros((2, 2), kind)}, folder / "model.safetensors")
    assert found(tmp_path) == ([("teacher.model", "quantized-checkpoint")], 4)
    with pytest.raises(ModelError) as caught:
        check_teacher(
            TeacherSpec(model=str(folder)), LABELS, Path(), allow_code=False, task="text-classification"
        )
    assert (caught.value.code, caught.value.where) == ("quantized-checkpoint", str(folder))


def test_an_adapter_beside_a_model(tmp_path: Path) -> None:
    write(model(tmp_path / "model") / "adapter_config.json", {"peft_type": "LORA"})
    assert found(tmp_path) == ([("teacher.model", "adapter")], 4)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
def test_the_weights_of_an_adapter(tmp_path: Path, name: str) -> None:
    (model(tmp_path / "model") / name).write_bytes(b"")
    assert found(tmp_path) == ([("teacher.model", "adapter")], 4)


def test_an_adapter_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write(
        tmp_path / "model" / "adapter_config.json",
        {"peft_type": "LORA", "base_model_name_or_path": "owner/base"},
    )
    with pytest.raises(ProfileError, match="owner/base") as caught:
        load_profile(profile(tmp_path))
    assert ("teacher.model", "adapter") in [(fault.path, fault.code) for fault in caught.value.faults]


def test_an_adapter_inside_the_weights(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    weights = {"bert.encoder.layer.0.attention.self.query.lora_A.weight": np.zeros((2, 2), np.float32)}
    save_file(weights, folder / "model.safetensors")
    assert found(tmp_path) == ([("teacher.model", "adapter")], 4)


HEADS = [
    {"problem_type": "multi_label_classification"},
    {"problem_type": "regression"},
    {"id2label": {"0": "LABEL_0"}},
    {"id2label": None, "num_labels": 1},
]


@pytest.mark.parametrize("changes", HEADS, ids=str)
def test_a_head_that_does_not_choose_a_label(tmp_path: Path, changes: dict[str, Any]) -> None:
    model(tmp_path / "model", **changes)
    assert found(tmp_path) == ([("teacher.model", "head-unsupported")], 4)


@pytest.mark.parametrize("changes", HEADS, ids=str)
def test_a_head_that_gives_way_may_be_any(tmp_path: Path, changes: dict[str, Any]) -> None:
    model(tmp_path / "model", **changes)
    load_profile(profile(tmp_path, teacher={"model": "model", "finetune": {"epochs": 1}}))
    load_profile(profile(tmp_path, task="sentence-embedding"))


def test_images_too(tmp_path: Path) -> None:
    changes = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
    model(tmp_path / "model", **changes, problem_type="multi_label_classification")
    (tmp_path / "images" / "x").mkdir(parents=True)
    faults, code = found(tmp_path, task="image-classification", data={"path": "images"})
    # Nobody says how it takes images either.
    expected = [("teacher.model", "head-unsupported"), ("teacher.model", "preprocess-undeclared")]
    assert (faults, code) == (expected, 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokenizer.json", {"model": {"vocab": {**VOCABULARY, "b": 3}}}),
        ("tokenizer.json", {"model": {"vocab": [["a", 0.0], ["b", 0.0], ["c", 0.0], ["d", 0.0]]}}),
        ("tokenizer.json", {"model": {"vocab": VOCABULARY}, "added_tokens": [{"id": 3, "content": "b"}]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"3": {"content": "b"}}}),
        ("added_tokens.json", {"b": 3}),
    ],
    ids=str,
)
def test_a_tokenizer_larger_than_the_model(tmp_path: Path, name: str, value: Any) -> None:
    write(model(tmp_path / "model") / name, value)
    with pytest.raises(ProfileError, match="resize_token_embeddings") as caught:
        load_profile(profile(tmp_path))
    assert [(fault.path, fault.code) for fault in caught.value.faults] == [
        ("teacher.model", TOKENIZER_TOO_LARGE)
    ]


def test_no_tokenizer(tmp_path: Path) -> None:
    (model(tmp_path / "model") / "tokenizer.json").unlink()
    assert found(tmp_path) == ([("teacher.model", TOKENIZER_MISSING)], 4)


def test_special_tokens_that_are_read_as_text(tmp_path: Path) -> None:
    write(model(tmp_path / "model") / "tokenizer_config.json", {"split_special_tokens": True})
    assert found(tmp_path) == ([("teacher.model", TOKENIZER_SETTING)], 4)


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "spiece.model", "tokenizer.model"])
def test_a_sentencepiece_model_alone_names_its_package(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "compress.profile.model_checks.tokenizers._is_installed", lambda package: package != "sentencepiece"
    )
    folder = model(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / name).write_bytes(b"\x0a")
    with pytest.raises(ProfileError, match="pip install sentencepiece") as caught:
        load_profile(profile(tmp_path))
    assert [(fault.path, fault.code) for fault in caught.value.faults] == [
        ("teacher.model", "sentencepiece-missing")
    ]
    assert tokenizer_missing_problem({name, "tokenizer.json"}) is None
    monkeypatch.setattr("compress.profile.model_checks.tokenizers._is_installed", lambda _: True)
    assert tokenizer_missing_problem({name}) is None


def test_every_model_of_a_profile_is_looked_at(tmp_path: Path) -> None:
    model(tmp_path / "model")
    model(tmp_path / "other", quantization_config={"quant_method": "awq"})
    distil = {
        "student": {"model": "other"},
        "teachers": [{"model": "model"}, {"model": "other"}],
        "assistants": [{"model": "other"}],
    }
    faults, code = found(tmp_path, passes=[{"distill": {**distil, "epochs": 1}}])
    assert code == 4
    assert sorted(faults) == [
        (f"passes.0.distill.{key}.model", "quantized-checkpoint")
        for key in ("assistants.0", "student", "teachers.1")
    ]


def test_a_fault_of_the_profile_decides_the_exit_code(tmp_path: Path) -> None:
    model(tmp_path / "model", problem_type="regression")
    _, code = found(tmp_path, data={"path": "nowhere.csv"})
    assert code == 2


def test_damaged_files_are_left_to_what_loads_them(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    for name in ("model.safetensors", "tokenizer_config.json", "added_tokens.json"):
        (folder / name).write_bytes(b"\xff" * 40)
    assert list(checkpoint_problems(folder, "text-classification", ModelFiles(folder), uses_head=True)) == []


def test_an_adapter_alone_is_named_by_a_run_too(tmp_path: Path) -> None:
    write(tmp_path / "adapter_config.json", {"peft_type": "LORA"})
    with pytest.raises(ModelError) as caught:
        check_teacher(
            TeacherSpec(model=str(tmp_path)), LABELS, Path(), allow_code=False, task="text-classification"
        )
    assert caught.value.code == "adapter"
