"""Sentence encoders: pooling by hand, on disk, and from the folders of other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, BertConfig, BertForSequenceClassification, BertModel, DistilBertConfig

from compress.core.artifacts import POOLING, TASK, TOKENIZER
from compress.core.disk.files import write_json, write_text
from compress.core.errors import ModelError
from compress.models.io.checkpoints import count_parameters, load_model, save_model
from compress.models.teacher.location import check_teacher, fingerprint
from compress.models.teacher.materialise import materialise
from compress.models.text.pooling import MEAN, Pooling, read_pooling
from compress.models.text.sentence import SentenceEncoder
from compress.profile.schema import TeacherSpec
from tests.tiny import SPECIAL, WORDS, tiny_tokenizer

IDS = torch.tensor([[2, 5, 9, 3], [2, 7, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
SENTENCE = "sentence-embedding"


def tiny_encoder(seed: int = 0, **changes: Any) -> BertModel:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = BertConfig(vocab_size=len(SPECIAL) + len(WORDS), max_position_embeddings=64, **sizes | changes)
    torch.manual_seed(seed)
    return BertModel(config).eval()


def write_folder(folder: Path, encoder: Any, modules: list[tuple[str, str]] = (), **pooling: bool) -> Path:  # type: ignore[assignment]
    """A folder as transformers and sentence-transformers write it."""
    encoder.save_pretrained(folder)
    write_text(folder / TOKENIZER, tiny_tokenizer().to_str())
    if modules:
        rows = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in modules]
        write_json(folder / "modules.json", rows)
    if pooling:
        (folder / "1_Pooling").mkdir()
        write_json(
            folder / "1_Pooling/config.json", {f"pooling_mode_{name}": on for name, on in pooling.items()}
        )
    return folder


def materialised(model: Path, out: Path, **spec: Any) -> tuple[dict[str, Any], SentenceEncoder]:
    teacher = TeacherSpec(model=str(model), **spec)
    facts = materialise(teacher, (), Path(), out, max_length=32, allow_code=False, task=SENTENCE)
    made = load_model(out)
    assert isinstance(made, SentenceEncoder)
    return facts, made


def test_mean_and_cls_pooling_by_hand() -> None:
    encoder = tiny_encoder()
    hidden = encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state
    mean = torch.stack([hidden[0].mean(0), hidden[1, :3].mean(0)])
    for pooling, expected in (("mean", mean), ("cls", hidden[:, 0])):
        plain = SentenceEncoder(encoder, pooling, normalize=False)(input_ids=IDS, attention_mask=MASK)
        assert torch.allclose(plain, expected, atol=1e-6)
        unit = SentenceEncoder(encoder, pooling, normalize=True)(input_ids=IDS, attention_mask=MASK)
        assert torch.allclose(unit, expected / expected.norm(dim=1, keepdim=True), atol=1e-6)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 10), st.sampled_from(["mean", "cls"]))
def test_padding_changes_no_embedding(padding: int, pooling: Any) -> None:
    model = SentenceEncoder(tiny_encoder(), pooling, normalize=True)
    ids = torch.nn.functional.pad(IDS[:1], (0, padding))
    mask = torch.nn.functional.pad(MASK[:1], (0, padding))
    with torch.inference_mode():
        short, long = (
            model(input_ids=IDS[:1], attention_mask=MASK[:1]),
            model(input_ids=ids, attention_mask=mask),
        )
    assert torch.allclose(short, long, atol=1e-6)


def test_embeddings_stay_float32_under_autocast() -> None:
    model = SentenceEncoder(tiny_encoder(), "mean", normalize=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(input_ids=IDS, attention_mask=MASK).dtype == torch.float32


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("cls", False)])
def test_a_sentence_encoder_comes_back_from_disk(tmp_path: Path, pooling: Any, normalize: bool) -> None:
    model = SentenceEncoder(tiny_encoder(), pooling, normalize)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert isinstance(again, SentenceEncoder)
    assert (again.pooling, again.normalize) == (pooling, normalize)
    assert count_parameters(again) == count_parameters(model)
    assert torch.equal(again(IDS, MASK), model(IDS, MASK))


def test_other_tools_can_load_what_is_written(tmp_path: Path) -> None:
    model = SentenceEncoder(tiny_encoder(), "mean", normalize=True)
    save_model(model, tmp_path)
    bare = AutoModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        expected = model.encoder(IDS, attention_mask=MASK).last_hidden_state
        assert torch.allclose(bare(IDS, attention_mask=MASK).last_hidden_state, expected, atol=1e-6)
    (tmp_path / POOLING).unlink()
    assert read_pooling(tmp_path) == Pooling("mean", normalize=True)


def test_a_pruned_encoder_keeps_its_shapes(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    layer = encoder.encoder.layer[0]
    layer.intermediate.dense = torch.nn.Linear(16, 7)
    layer.output.dense = torch.nn.Linear(7, 16)
    model = SentenceEncoder(encoder, "mean", normalize=False)
    save_model(model, tmp_path)
    assert torch.equal(load_model(tmp_path)(IDS, MASK), model(IDS, MASK))


def test_the_pooling_of_a_folder(tmp_path: Path) -> None:
    whole = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    plain = write_folder(tmp_path / "plain", tiny_encoder())
    mean = write_folder(tmp_path / "mean", tiny_encoder(), whole, mean_tokens=True, cls_token=False)
    cls = write_folder(tmp_path / "cls", tiny_encoder(), whole[:2], mean_tokens=False, cls_token=True)
    assert read_pooling(plain) == MEAN
    assert read_pooling(mean) == Pooling("mean", normalize=True)
    assert read_pooling(cls) == Pooling("cls", normalize=False)
    assert read_pooling(mean, "cls") == Pooling("cls", normalize=True)
    assert len({fingerprint(str(folder), None, Path()) for folder in (plain, mean, cls)}) == 3


@pytest.mark.parametrize(
    ("modules", "pooling", "words"),
    [
        (
            [("Transformer", ""), ("Pooling", "1_Pooling")],
            {"max_tokens": True, "mean_tokens": False},
            "this model pools by max_tokens; supported are mean_tokens and cls_token",
        ),
        (
            [("Transformer", ""), ("Pooling", "1_Pooling")],
            {"cls_token": True, "mean_tokens": True},
            "this model pools by cls_token and mean_tokens; supported are mean_tokens and cls_token",
        ),
        (
            [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")],
            {"mean_tokens": True},
            "the transformer is followed by a Dense, which would be lost; known are Pooling and Normalize",
        ),
        (
            [("Transformer", "0_Transformer")],
            {},
            "the transformer is in the sub-folder '0_Transformer'; name that folder as the model",
        ),
    ],
)
def test_unknown_pooling_is_refused_before_any_work(
    tmp_path: Path, modules: list[tuple[str, str]], pooling: dict[str, bool], words: str
) -> None:
    folder = write_folder(tmp_path / "model", tiny_encoder(), modules, **pooling)
    with pytest.raises(ModelError) as caught:
        check_teacher(TeacherSpec(model=str(folder)), (), Path(), allow_code=False, task=SENTENCE)
    assert caught.value.message == words


def test_damaged_pooling_is_refused(tmp_path: Path) -> None:
    (tmp_path / POOLING).write_text('{"pooling": "max", "normalize": true}')
    with pytest.raises(ModelError, match=r'expected \{"pooling": "mean" or "cls"'):
        read_pooling(tmp_path)
    (tmp_path / POOLING).write_text("{")
    with pytest.raises(ModelError) as raised:
        read_pooling(tmp_path)
    assert (raised.value.code, raised.value.where) == ("not-json", str(tmp_path / POOLING))


def test_fine_tuning_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", tiny_encoder())
    with pytest.raises(ModelError) as caught:
        check_teacher(
            TeacherSpec(model=str(folder), finetune={}), (), Path(), allow_code=False, task=SENTENCE
        )
    assert caught.value.where == "teacher.finetune"
    assert caught.value.message == (
        "a sentence encoder cannot be fine-tuned here: the data has no labels to train it on"
    )


def test_the_source_is_a_bare_encoder_with_its_pooling(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    folder = write_folder(tmp_path / "model", encoder, modules, mean_tokens=True)
    facts, model = materialised(folder, tmp_path / "out")
    assert (facts["pooling"], facts["normalize"], facts["width"], facts["head"]) == ("mean", True, 16, "none")
    expected = SentenceEncoder(encoder, "mean", normalize=True)
    assert facts["parameters"] == count_parameters(expected)
    assert torch.allclose(model(IDS, MASK), expected(IDS, MASK), atol=1e-6)
    task = json.loads((tmp_path / "out" / TASK).read_text())
    assert task == {
        "task": "sentence-embedding",
        "max_length": 32,
        "labels": [],
        "input_names": ["input_ids", "attention_mask", "token_type_ids"],
        "output_names": ["embedding"],
        "width": 16,
        "pad_id": 0,
        "unk_id": 1,
        "mask_id": 4,
    }


def test_a_classifier_gives_its_encoder(tmp_path: Path) -> None:
    torch.manual_seed(3)
    classifier = BertForSequenceClassification(tiny_encoder().config).eval()
    folder = write_folder(tmp_path / "model", classifier)
    _, model = materialised(folder, tmp_path / "out", pooling="cls")
    expected = SentenceEncoder(classifier.bert, "cls", normalize=False)
    assert torch.allclose(model(IDS, MASK), expected(IDS, MASK), atol=1e-6)


def test_a_model_without_token_types_takes_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        dim=16,
        n_layers=1,
        n_heads=2,
        hidden_dim=24,
        max_position_embeddings=64,
    )
    folder = write_folder(tmp_path / "model", AutoModel.from_config(config))
    _, model = materialised(folder, tmp_path / "out")
    assert json.loads((tmp_path / "out" / TASK).read_text())["input_names"] == ["input_ids", "attention_mask"]
    assert model(IDS, MASK).shape == (2, 16)


def test_a_folder_of_our_own_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", tiny_encoder())
    _, first = materialised(folder, tmp_path / "one", pooling="cls")
    _, second = materialised(tmp_path / "one", tmp_path / "two")
    assert second.pooling == "cls"
    assert np.array_equal(first(IDS, MASK).detach().numpy(), second(IDS, MASK).detach().numpy())
