"""What `compress init` decides of what it sees: columns, labels, lengths, students, passes; and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

from compress.cli.root import main
from compress.core.errors import UsageError
from compress.data.checks import is_imbalanced
from compress.starter.choices import (
    StudentShape,
    choose_labels,
    choose_max_length,
    choose_student,
)
from compress.starter.columns import LanguageColumns, TextColumns, choose_columns, choose_language_columns
from compress.starter.models import inspect_model
from compress.starter.writing import starter_profile
from tests.model_folders import write_model_folder

LONG = [f"a longer text of several words, number {i}" for i in range(20)]
SHORT = [f"title {i}" for i in range(20)]
FEW = ["a", "b"] * 10
NUMBERS = list(range(20))


@pytest.mark.parametrize(
    ("table", "chosen"),
    [
        ({"text": LONG, "label": FEW}, TextColumns("text", "label")),
        ({"id": NUMBERS, "review": LONG, "sentiment": [0, 1] * 10}, TextColumns("review", "sentiment")),
        ({"x": LONG, "y": FEW}, TextColumns("x", "y")),
        ({"Kategorie": FEW, "Titel": SHORT, "Kommentar": LONG}, TextColumns("Kommentar", "Kategorie")),
        ({"TEXT": LONG, "LABEL": FEW}, TextColumns("TEXT", "LABEL")),
        ({"text": SHORT, "other": [one * 9 for one in LONG], "label": FEW}, TextColumns("other", "label")),
        ({"lang": FEW, "body": LONG, "n": ["1.0", "2.0"] * 10}, TextColumns("body", "n")),
        ({"body": LONG, "price": [f"{i}.5" for i in range(20)]}, TextColumns("body", None)),
        ({"body": LONG, "split": FEW}, TextColumns("body", None)),
        ({"label_text": FEW, "label": [0, 1] * 10, "text": LONG}, TextColumns("text", "label")),
        ({"sentence": LONG}, TextColumns("sentence", None)),
        ({"score": [0.5] * 20, "one": LONG, "two": SHORT}, TextColumns(pair=("one", "two"), score="score")),
        ({"id": NUMBERS}, TextColumns(None, None)),
        ({"text": [None, ""], "label": [None, ""]}, TextColumns(None, "label")),
        ({}, TextColumns()),
    ],
)
def test_columns_are_told_by_names_and_contents(table: dict[str, list[Any]], chosen: TextColumns):
    assert choose_columns(table) == chosen


@pytest.mark.parametrize(
    ("layers", "hidden", "usual", "student"),
    [
        (12, 768, StudentShape(2, 128), StudentShape(2, 128)),
        (2, 768, StudentShape(2, 128), StudentShape(1, 128)),
        (1, 128, StudentShape(2, 128), StudentShape(1, None)),
        (6, 64, StudentShape(2, 128), StudentShape(2, None)),
        (6, 384, StudentShape(2, 192), StudentShape(2, 192)),
        (12, 192, StudentShape(4, None), StudentShape(4, None)),
        (3, 192, StudentShape(4, None), StudentShape(2, None)),
    ],
)
def test_a_student_is_no_wider_and_shallower(
    layers: int, hidden: int, usual: StudentShape, student: StudentShape, tmp_path: Path
):
    write_model_folder(tmp_path / "m", num_hidden_layers=layers, hidden_size=hidden)
    assert choose_student(inspect_model(str(tmp_path / "m")), usual) == student


def test_a_model_that_is_not_here_gets_the_usual_student():
    assert choose_student(inspect_model("owner/model"), StudentShape(2, 128)) == StudentShape(2, 128)


@pytest.mark.parametrize(
    ("words", "positions", "length"),
    [
        (10, 512, 16),
        (30, 512, 32),
        (33, 512, 40),
        (300, 130, 130),
        (300, 0, 304),
        (9000, 0, 8192),
        (9000, 8500, 8192),
    ],
)
def test_texts_keep_what_19_of_20_of_them_have(words: int, positions: int, length: int, tmp_path: Path):
    # One word is one token here; one text of a hundred is far longer.
    folder = write_model_folder(tmp_path / "m", max_position_embeddings=positions or None)
    tokenizer = Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    texts = [" ".join("a" * words)] * 99 + [" ".join("a" * 5000)]
    assert choose_max_length(texts, inspect_model(str(folder)))[0] == length


def test_without_texts_the_positions_bound_the_usual_length(tmp_path: Path):
    write_model_folder(tmp_path / "m", "roberta", max_position_embeddings=66, pad_token_id=1)
    assert choose_max_length((), inspect_model(str(tmp_path / "m")))[0] == 64
    assert choose_max_length((), inspect_model("owner/model"))[0] == 128


@pytest.mark.parametrize(
    ("head", "labels", "names", "finetune"),
    [
        (("bad", "good"), ("Good", "Bad"), None, False),
        (("bad", "good"), ("0", "1"), ("bad", "good"), False),
        (("bad", "good"), ("1", "2"), None, True),
        (("bad", "good"), ("0", "1", "2"), None, True),
        (("LABEL_0", "LABEL_1"), ("0", "1"), None, True),
        (("bad", "good"), ("x", "y"), None, True),
        (None, ("x", "y"), None, True),
    ],
)
def test_a_head_is_kept_where_it_is_one_for_the_labels(head, labels, names, finetune: bool, tmp_path: Path):
    architecture = "BertForSequenceClassification" if head else "BertModel"
    folder = write_model_folder(
        tmp_path / "m", architectures=[architecture], id2label=dict(enumerate(head or ()))
    )
    found = choose_labels(inspect_model(str(folder)), labels)
    assert (found.names, found.finetune) == (names, finetune)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (("vocab.txt",), "WordPiece"),
        (("vocab.json", "merges.txt"), "BPE"),
        (("vocab.txt", "bpe.codes"), "BPE"),
        (("sentencepiece.bpe.model",), "Unigram"),
        ((), None),
    ],
)
def test_the_kind_of_an_old_tokenizer_is_told_by_its_files(
    files: tuple[str, ...], kind: str | None, tmp_path: Path
):
    folder = write_model_folder(tmp_path / "m", tokenizer=None)
    for name in files:
        (folder / name).write_text("{}")
    assert inspect_model(str(folder)).tokenizer == kind


@pytest.mark.parametrize(
    "header", [",text,label", '"",Review Text: #1 (EN),"Class, final"', "\ufeffté xt,  LABEL "]
)
def test_odd_headers_are_written_so_that_they_are_found(header: str, tmp_path: Path):
    model = write_model_folder(tmp_path / "m")
    columns = header.count(",") - header.count("Class, ") + 1
    lines = [
        f"text number {i},{'ab'[i % 2]}" if columns == 2 else f"{i},text {i},{'ab'[i % 2]}" for i in range(20)
    ]
    (tmp_path / "d.csv").write_text("\n".join([header, *lines]))
    out = tmp_path / "p.yaml"
    done = CliRunner().invoke(main, ["init", str(model), str(tmp_path / "d.csv"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(main, ["validate", str(out)]).exit_code == 0


def test_a_path_that_is_not_utf8_is_refused(tmp_path: Path):
    model = write_model_folder(tmp_path / "m")
    data = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.csv")
    Path(data).write_text("text,label\n")
    with pytest.raises(UsageError) as caught:
        starter_profile(str(model), data, tmp_path)
    assert (caught.value.code, caught.value.where) == ("path-encoding", f"{tmp_path}/caf\\xe9.csv")


def test_one_class_of_twenty_times_another_is_told():
    assert is_imbalanced([40, 2])
    assert not is_imbalanced([39, 2])
    assert not is_imbalanced([40])


def passes_of(folder: Path, model: Path, data: Path) -> list[tuple[str, Any]]:
    text = starter_profile(str(model), str(data), folder)
    return [next(iter(entry.items())) for entry in yaml.safe_load(text)["passes"]]


@pytest.mark.parametrize(
    ("kind", "tokenizer", "passes", "trims"),
    [
        ("bert", "WordPiece", ["distill", "prune", "quantize", "export"], True),
        ("roberta", "BPE", ["distill", "prune", "quantize", "export"], False),
        ("xlm-roberta", "Unigram", ["distill", "prune", "quantize", "export"], False),
        ("mpnet", "WordPiece", ["quantize", "export"], False),
    ],
)
def test_passes_are_those_that_the_family_can_take(
    kind: str, tokenizer: str, passes: list[str], trims: bool, tmp_path: Path
):
    data = tmp_path / "d.csv"
    data.write_text("text,label\n" + "".join(f"text number {i},{'ab'[i % 2]}\n" for i in range(20)))
    found = passes_of(tmp_path, write_model_folder(tmp_path / "m", kind, tokenizer), data)
    assert [name for name, _ in found] == passes
    assert any(body.get("vocabulary") == "trim" for _, body in found) == trims


def test_what_was_found_stands_in_comments(tmp_path: Path):
    model = write_model_folder(tmp_path / "m")
    data = tmp_path / "d.csv"
    data.write_text("text;label\n" + "".join(f"text number {i};{'ab'[i % 2]}\n" for i in range(20)))
    comments = [
        line
        for line in starter_profile(str(model), str(data), tmp_path).splitlines()
        if line.startswith("# Found")
    ]
    assert len(comments) == 3
    assert "WordPiece" in comments[0]
    assert "20 rows" in comments[1]
    assert "semicolon" in comments[2]


def test_a_name_of_several_lines_stays_in_its_comment(tmp_path: Path):
    model = write_model_folder(tmp_path / "m", architectures=["BertForSequenceClassification"])
    config = json.loads((model / "config.json").read_text())
    config["model_type"] = "bert\npasses: []"
    (model / "config.json").write_text(json.dumps(config))
    text = starter_profile(str(model), "owner/data", tmp_path)
    assert yaml.safe_load(text)["passes"]


@pytest.mark.parametrize(
    ("model", "data", "code"),
    [
        ({"kind": "modernbert"}, "text,label\n{rows}", "family-unsupported"),
        ({"tokenizer": None}, "text,label\n{rows}", "tokenizer-missing"),
        ({}, "id,price\n1,2.5\n2,3.5\n3,4.5\n", "column-missing"),
        ({}, "text,label\n{rows}lonely text,c\n", "class-small"),
        ({}, "text,label\n{rows} ,a\n", "text-blank"),
        ({}, "{rows}", "header-missing"),
    ],
)
def test_where_nothing_would_run_init_refuses_and_writes_nothing(
    model: dict[str, Any], data: str, code: str, tmp_path: Path
):
    write_model_folder(tmp_path / "m", **model)
    rows = "".join(f"text number {i},{'ab'[i % 2]}\n" for i in range(20))
    (tmp_path / "d.csv").write_text(data.replace("{rows}", rows))
    out = tmp_path / "p.yaml"
    done = CliRunner().invoke(main, ["init", str(tmp_path / "m"), str(tmp_path / "d.csv"), "--out", str(out)])
    assert done.exit_code == 4, done.output
    assert f"[{code}]" in done.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("nowhere/p.yaml", "nowhere: there is no such folder"),
        ("folder", "folder: the profile cannot be written: this is a folder"),
        ("file/p.yaml", "file: there is no such folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(where: str, told: str, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    words = ["init", "owner/model", "owner/data", "--force", "--out", str(tmp_path / where)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2, done.output
    assert done.output.startswith(f"{tmp_path}/{told}\n")


@pytest.mark.parametrize(
    ("table", "chosen"),
    [
        (
            {"id": NUMBERS, "talk": [[{"role": "user", "content": "x"}]] * 20},
            LanguageColumns(messages="talk"),
        ),
        (
            {"conversations": ['[{"from": "human", "value": "x"}]'] * 20},
            LanguageColumns(messages="conversations"),
        ),
        (
            {"instruction": SHORT, "Output": LONG, "topic": FEW},
            LanguageColumns(prompted=("instruction", "Output")),
        ),
        ({"question": LONG, "topic": FEW}, LanguageColumns(text="question")),
        ({"messages": ["hello", "[not json"] * 10}, LanguageColumns(text="messages")),
        ({}, LanguageColumns()),
    ],
)
def test_what_is_to_be_written_is_told_by_names_and_contents(table, chosen):
    assert choose_language_columns(table) == chosen
