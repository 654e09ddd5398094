"""`compress init` tells the task from the files of the model and the data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from compress.cli.root import main
from compress.profile.load import load_profile
from compress.starter.detection import detect
from compress.starter.writing import starter_profile


def write_model(folder: Path, beside: tuple[str, ...] = (), **config: object) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for name in beside:
        (folder / name).write_text("{}")
    return str(folder)


def write_picture(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(file)


def write(file: Path, content: str) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return str(file)


@pytest.fixture
def bert(tmp_path: Path) -> str:
    return write_model(tmp_path / "bert", architectures=["BertForMaskedLM"], model_type="bert", vocab_size=9)


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    beside = ("modules.json", "config_sentence_transformers.json", "tokenizer.json")
    return write_model(
        tmp_path / "sbert", beside, architectures=["BertModel"], model_type="bert", vocab_size=9
    )


@pytest.mark.parametrize("below", ["cat", "train/cat", ""])
def test_a_folder_of_images_calls_for_their_classification(below: str, tmp_path: Path, bert: str):
    write_picture(tmp_path / "data" / below / "1.PNG")
    (tmp_path / "data" / ".DS_Store").write_text("")
    assert detect("hub/model", str(tmp_path / "data")).task == "image-classification"
    assert detect("python:nets:small", "sklearn://digits").task == "image-classification"


def test_a_few_images_among_texts_do_not(tmp_path: Path, bert: str):
    write_picture(tmp_path / "data" / "logo.png")
    for name in ("a", "b"):
        write(tmp_path / "data" / "sport" / f"{name}.txt", "a text")
    assert detect(bert, str(tmp_path / "data")).task == "text-classification"


def test_a_column_of_images_does(tmp_path: Path, bert: str):
    pd.DataFrame({"image": [b""], "label": [0]}).to_parquet(tmp_path / "d.parquet")
    assert detect(bert, str(tmp_path / "d.parquet")).task == "image-classification"


@pytest.mark.parametrize(
    ("config", "beside", "layered"),
    [
        ({"architectures": ["ViTForImageClassification"], "model_type": "vit"}, (), True),
        ({"architectures": ["DeiTModel"], "model_type": "deit", "image_size": 224}, (), True),
        ({"architectures": ["ResNetModel"], "model_type": "resnet"}, ("preprocessor_config.json",), False),
    ],
)
def test_a_model_of_images_calls_for_their_classification(config, beside, layered: bool, tmp_path: Path):
    found = detect(write_model(tmp_path / "m", beside, **config), "hub/data")
    assert (found.task, found.model.may_be_convolutional) == ("image-classification", not layered)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.csv", "sentence\na text\n"),
        ("d.jsonl", '{"sentence": "a text"}\n'),
        ("d.json", '[{"sentence": "a text"}]'),
        ("folder/train.tsv", "sentence\na text\n"),
    ],
)
def test_texts_without_labels_and_a_sentence_encoder_call_for_embedding(
    name: str, content: str, tmp_path: Path, encoder: str, bert: str
):
    write(tmp_path / name, content)
    data = str(tmp_path / name.split("/")[0])
    found = detect(encoder, data)
    assert (found.task, found.columns.text) == ("sentence-embedding", "sentence")
    assert detect(bert, data).task == "text-classification"


def test_loose_text_files_have_no_labels(tmp_path: Path, encoder: str):
    write(tmp_path / "notes" / "1.txt", "a text")
    assert detect(encoder, str(tmp_path / "notes")).task == "sentence-embedding"
    write(tmp_path / "classes" / "sport" / "1.txt", "a text")
    assert detect(encoder, str(tmp_path / "classes")).task == "text-classification"


def test_labels_call_for_classification_whatever_the_model(tmp_path: Path, encoder: str):
    data = write(tmp_path / "d.csv", "text,intent\na text,greet\n")
    assert detect(encoder, data).task == "text-classification"


def test_pairs_with_scores_call_for_embedding_whatever_the_model(tmp_path: Path):
    data = write(tmp_path / "d.csv", "score,first,second\n0.5,a text,another\n")
    found = detect("hub/model", data)
    assert (found.task, found.columns.pair) == ("sentence-embedding", ("first", "second"))


def test_what_is_not_here_or_not_readable_is_taken_for_texts_with_labels(tmp_path: Path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    for content in (b"", b"\xff\xfe\x00", b"[]", b"3"):
        for name in ("d.json", "d.csv", "d.parquet"):
            (tmp_path / name).write_bytes(content)
            assert detect(str(tmp_path / "broken"), str(tmp_path / name)).task == "text-classification"
    assert detect("hub/model", "hub/data").task == "text-classification"
    assert detect("package://no_such/model", "package://no_such/data").task == "text-classification"


def test_the_task_that_is_given_is_taken(tmp_path: Path):
    assert detect("hub/vit", "hub/data", "image-classification").task == "image-classification"


def starters(tmp_path: Path, encoder: str) -> dict[str, tuple[str, str]]:
    write_picture(tmp_path / "pictures" / "cat" / "1.png")
    return {
        "convolutions": ("python:nets:small", str(tmp_path / "pictures")),
        "layers": (
            write_model(tmp_path / "vit", model_type="vit", image_size=32),
            str(tmp_path / "pictures"),
        ),
        "sentences": (encoder, write(tmp_path / "s.csv", "body\na text\n")),
        "pairs": (encoder, write(tmp_path / "p.csv", "one,two,score\na,b,0.5\n")),
    }


COMMENTED = {
    "convolutions": ("image_size", "image_column", "label_column", "labels", "splits", "size_mb", "speedup"),
    "layers": ("image_size", "image_column", "label_column", "labels", "splits", "control"),
    "sentences": ("sentences", "splits", "pooling", "size_mb"),
    "pairs": ("splits", "pooling"),
}


@pytest.mark.parametrize("kind", COMMENTED)
def test_the_profile_of_every_kind_is_valid_with_and_without_its_comments(
    kind: str, tmp_path: Path, encoder: str
):
    text = starter_profile(*starters(tmp_path, encoder)[kind])
    (tmp_path / "plain.yaml").write_text(text)
    data = load_profile(tmp_path / "plain.yaml").profile.data
    assert getattr(data, "pair_columns", None) == (("one", "two") if kind == "pairs" else None)
    assert data.text_column == ("body" if kind == "sentences" else "text")
    for key in COMMENTED[kind]:
        assert f"# {key}:" in text
        text = text.replace(f"# {key}:", f"{key}:")
    (tmp_path / "opened.yaml").write_text(text)
    load_profile(tmp_path / "opened.yaml")


def test_the_commented_distillation_of_a_convolutional_teacher_is_valid(tmp_path: Path, encoder: str):
    text = starter_profile(*starters(tmp_path, encoder)["convolutions"])
    for line in ("- distill:", "    student:", "    losses:", "    epochs: 50"):
        assert f"  # {line}" in text
        text = text.replace(f"  # {line}", f"  {line}")
    (tmp_path / "opened.yaml").write_text(text)
    profile = load_profile(tmp_path / "opened.yaml").profile
    assert [spec.kind for spec in profile.specs] == ["distill", "prune", "quantize", "export"]


def test_the_verb_takes_a_task(tmp_path: Path):
    out = tmp_path / "mine.yaml"
    done = CliRunner().invoke(
        main, ["init", "hub/vit", "hub/data", "--out", str(out), "--task", "image-classification"]
    )
    assert done.exit_code == 0, done.output
    assert load_profile(out).profile.task == "image-classification"
