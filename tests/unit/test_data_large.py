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
from compress.data import large
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
    else:
        lines = (json.dumps(row, ensure_ascii=False) for row in table)
        path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("form", ["texts", "prompts", "messages"])
def test_the_splits_are_those_of_the_usual_readers(
    form: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    table, keys = rows(form)
    path = written(tmp_path / f"x.{ending}", table)
    spec = LanguageData.model_validate({"path": str(path), **keys})
    usual = load(spec, tmp_path, 0, "causal-lm")
    monkeypatch.setattr(large, "LARGE", 1)
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
        monkeypatch.setattr(large, "LARGE", size)
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
    monkeypatch.setattr(large, "LARGE", 1)
    splits = load(LanguageData(path=str(path)), tmp_path, 0, "causal-lm")
    assert any("cp1252" in note for note in splits.notes)


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
