"""Large files of texts are read into a file: the same splits, the same faults, and lists of nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import DataError
from compress.data.reading import large
from compress.data.sources import load
from compress.data.splits import UNLABELLED, Examples
from compress.store.texts import StoredTexts
from compress.tasks.causal_lm.keys import LanguageData
from tests.tiny_language import WORDS


def said(drawn: random.Random) -> str:
    return " ".join(drawn.choice(WORDS) for _ in range(drawn.randint(3, 9))) + drawn.choice(
        ["", "é", "\u2028x"]
    )


def rows(form: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    drawn = random.Random(0)
    if form == "texts":
        return [{"id": i, "text": said(drawn)} for i in range(200)] * 2, {}
    if form == "prompts":
        keys = {"prompt_column": "p", "completion_column": "c"}
        return [{"p": said(drawn), "c": said(drawn)} for _ in range(200)], keys
    talks = [
        [{"role": "user", "content": said(drawn)}, {"role": "assistant", "content": said(drawn)}]
        for _ in range(200)
    ]
    return [{"m": talk} for talk in talks], {"messages_column": "m"}


def written(path: Path, table: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pd.DataFrame(table).to_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        mark = {".csv": ",", ".tsv": "\t"}[path.suffix]
        cells = [
            {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
            for row in table
        ]
        pd.DataFrame(cells).to_csv(path, index=False, sep=mark)
    else:
        lines = (json.dumps(row, ensure_ascii=False) for row in table)
        path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv", "tsv"])
@pytest.mark.parametrize("form", ["texts", "prompts", "messages"])
def test_the_splits_are_those_of_the_usual_readers(
    form: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    table, keys = rows(form)
    path = written(tmp_path / f"x.{ending}", table)
    spec = LanguageData.model_validate({"path": str(path), **keys})
    usual = load(spec, tmp_path, 0, "causal-lm")
    monkeypatch.setattr(large, "LARGE_BYTES", 1)
    stored = load(spec, tmp_path, 0, "causal-lm")
    assert stored.notes == usual.notes
    for name in ("train", "validation", "test"):
        ours, theirs = getattr(stored, name), getattr(usual, name)
        assert isinstance(ours.items, StoredTexts)
        assert list(ours.texts) == list(theirs.texts)
        assert isinstance(ours.take([2, 0]).items, StoredTexts)
        assert list(ours.take([2, 0]).texts) == list(theirs.take([2, 0]).texts)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ({"text": 3}, "text-type"),
        ({"text": "  "}, "text-blank"),
        ({"id": 1}, "text-missing"),
        ({"text": "\ud800"}, "text-unicode"),
        ({"text": [{"role": "user"}]}, "text-type"),
    ],
)
def test_what_is_wrong_is_said_as_ever(
    bad: dict[str, Any], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    table, _ = rows("texts")
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*table, bad]))
    found = []
    for size in (2**40, 1):
        monkeypatch.setattr(large, "LARGE_BYTES", size)
        with pytest.raises(DataError) as caught:
            load(LanguageData(path=str(path)), tmp_path, 0, "causal-lm")
        found.append(str(caught.value))
        assert caught.value.code == code
    assert found[0] == found[1]
    assert f"{path}:401" in found[0]


def test_a_file_in_another_encoding_is_left_to_the_usual_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    table, _ = rows("texts")
    path = tmp_path / "x.jsonl"
    text = "".join(
        json.dumps({"text": row["text"].replace("\u2028", " ")}, ensure_ascii=False) + "\n" for row in table
    )
    path.write_bytes(text.encode("cp1252"))
    monkeypatch.setattr(large, "LARGE_BYTES", 1)
    splits = load(LanguageData(path=str(path)), tmp_path, 0, "causal-lm")
    assert any("cp1252" in note for note in splits.notes)


def both_ways(spec: LanguageData, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The splits of the usual readers and of those of large files, or what they say is wrong."""
    found: list[Any] = []
    for size in (2**40, 1):
        monkeypatch.setattr(large, "LARGE_BYTES", size)
        try:
            found.append(load(spec, folder, 0, "causal-lm"))
        except DataError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("stored", [True, False])
def test_texts_of_a_folder_are_those_of_the_usual_reader(
    stored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, row in enumerate(rows("texts")[0][:100]):
        (folder / f"{i}.txt").write_bytes((f"{i}\r\n" + row["text"] + "\n").encode())
    if not stored:
        (folder / "marked.txt").write_bytes(b"\xef\xbb\xbfwith a mark before it")
    usual, ours = both_ways(LanguageData(path=str(folder)), tmp_path, monkeypatch)
    assert ours.notes == usual.notes
    assert isinstance(ours.train.items, StoredTexts) == stored
    for name in ("train", "validation", "test"):
        assert list(getattr(ours, name).texts) == list(getattr(usual, name).texts)


@pytest.mark.parametrize(
    "content",
    [
        'id;text\n1;one, "two"\n2;"a ""b""\n\nc"\n\n3;x\n4;y\n5;z\n6;w\n7;v\n8;u\n',
        "sep=;\nid;text\n1;a\n2;b\n3;c\n4;d\n5;e\n6;f\n7;g\n8;h\n",
        "\ufeffid,text\n1,a\n2,b\n3,c\n4,d\n5,e\n6,f\n7,g\n8,h\n",
        "id,text\n1,a\n2,b,c\n3,d\n",
        'id,text\n1,a\n2,"b\n3,d\n',
        "id,text\n1,a\n2, \n3,d\n",
        "id,text,text\n1,a,b\n2,c,d\n",
        "id,words\n1,a\n",
        "id,text\n",
        "",
        f"id,text\n1,{'long ' * 30000}\n2,b\n3,c\n4,d\n5,e\n6,f\n7,g\n8,h\n",
    ],
)
def test_tables_read_row_by_row_say_what_the_usual_reader_says(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "x.csv"
    path.write_text(content, encoding="utf-8")
    usual, ours = both_ways(LanguageData(path=str(path)), tmp_path, monkeypatch)
    if isinstance(usual, str):
        assert ours == usual
    else:
        assert ours.notes == usual.notes
        assert list(ours.train.texts) == list(usual.train.texts)


@given(texts=st.lists(st.text(st.characters(), max_size=20), max_size=30))
def test_stored_texts_are_a_sequence_of_strings(texts: list[str]):
    stored = StoredTexts.of(texts)
    assert list(stored) == texts == stored[:]
    assert len(stored) == len(texts)
    assert stored[::2] == texts[::2]
    if texts:
        assert stored[-1] == texts[-1]
        examples = Examples(stored, np.full(len(texts), UNLABELLED, np.int64))
        assert examples.texts is stored
