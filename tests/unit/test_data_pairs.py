"""Pairs of texts with scores: from their source to splits."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from compress.core.errors import DataError
from compress.data.sources import load
from compress.data.splits import Splits
from compress.profile.schema import validate_data
from compress.tasks.sentence_embedding.pairs import linked_groups

Row = tuple[Any, Any, Any]


def write_rows(file: Path, rows: list[Row]) -> None:
    lines = [json.dumps({"one": one, "two": two, "score": score}) for one, two, score in rows]
    file.write_text("\n".join(lines) + "\n")


def loaded(base: Path, path: str, **changes: Any) -> Splits:
    columns = {"pair_columns": ("one", "two"), **changes}
    return load(validate_data({"path": path, **columns}, "sentence-embedding"), base, 0, "sentence-embedding")


def own_rows(count: int, start: int = 0) -> list[Row]:
    return [(f"left {number}", f"right {number}", number % 6) for number in range(start, start + count)]


def test_pairs_stand_one_behind_the_other_with_their_scores(tmp_path: Path) -> None:
    for name, start, count in (("train", 0, 5), ("validation", 5, 4), ("test", 9, 3)):
        write_rows(tmp_path / f"{name}.jsonl", own_rows(count, start))
    splits = loaded(tmp_path, ".")
    assert splits.test.texts == ("left 9", "right 9", "left 10", "right 10", "left 11", "right 11")
    assert splits.test.scores is not None
    assert splits.test.scores.dtype == np.float32
    assert splits.test.scores.tolist() == [3, 4, 5]
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [10, 8, 6]
    assert splits.labels == ()


def test_a_text_of_a_test_pair_is_never_trained_on(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", [*own_rows(5), ("Right  20", "new", 1), ("new", "left 11", 2)])
    write_rows(tmp_path / "validation.jsonl", [*own_rows(4, 10), ("left 21", "fresh", 1)])
    write_rows(tmp_path / "test.jsonl", own_rows(4, 20))
    splits = loaded(tmp_path, ".")
    assert len(splits.train) == 10
    assert len(splits.validation) == 8
    assert splits.notes == (
        "1 pair of 5 dropped from 'validation': a text of each is also in the test split",
        "2 pairs of 7 dropped from 'train': a text of each is also in a held-out split",
    )


def test_made_splits_keep_pairs_together_that_share_a_text(tmp_path: Path) -> None:
    rows = [
        (f"{group} {number}", f"{group} {number + 1}", number) for group in range(40) for number in range(3)
    ]
    write_rows(tmp_path / "d.jsonl", rows)
    splits = loaded(tmp_path, "d.jsonl")
    groups = [
        {text.split()[0] for text in part.texts} for part in (splits.train, splits.validation, splits.test)
    ]
    assert [len(each) for each in groups] == [28, 4, 8]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_scores_may_be_texts_of_numbers(tmp_path: Path) -> None:
    lines = ["one,two,score", *(f"l {number},r {number},{number / 4}" for number in range(40))]
    (tmp_path / "d.csv").write_text("\n".join(lines) + "\n")
    scores = loaded(tmp_path, "d.csv").train.scores
    assert scores is not None
    assert set(scores.tolist()) <= {number / 4 for number in range(40)}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("a", "b", None), "the score is missing"),
        (("a", "b", " "), "the score is missing"),
        (("a", "b", "high"), "the score is str: 'high'; expected a number"),
        (("a", "b", True), "the score is true or false: True; expected a number"),
        (("a", "b", [1]), "the score is a list: [1]; expected a number"),
        (("a", "b", "inf"), "the score is inf; expected a finite number"),
        (("a", "b", "nan"), "the score is nan; expected a finite number"),
        (("a", None, 1), "the text is missing"),
        ((" ", "b", 1), "the text is blank"),
    ],
)
def test_a_fault_is_found_with_its_line(tmp_path: Path, row: Row, words: str) -> None:
    write_rows(tmp_path / "d.jsonl", [*own_rows(6), row])
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, "d.jsonl")
    assert caught.value.message == words
    assert caught.value.where == f"{tmp_path / 'd.jsonl'}:7"


def test_faults_of_whole_splits(tmp_path: Path) -> None:
    write_rows(tmp_path / "few.jsonl", own_rows(6))
    with pytest.raises(DataError, match="the test split has 1 pair; comparing their order needs at least 3"):
        loaded(tmp_path, "few.jsonl")
    write_rows(tmp_path / "same.jsonl", [(f"l {number}", f"r {number}", 2.5) for number in range(60)])
    with pytest.raises(
        DataError, match=r"every pair of the test split has the score 2\.5: there is no order"
    ):
        loaded(tmp_path, "same.jsonl")
    chain = [(f"text {one}", f"text {two}", one) for one, two in pairwise(range(50))]
    write_rows(tmp_path / "chain.jsonl", chain)
    with pytest.raises(DataError, match="the test split has 0 pairs"):
        loaded(tmp_path, "chain.jsonl")


def test_faults_of_the_profile(tmp_path: Path) -> None:
    write_rows(tmp_path / "d.jsonl", own_rows(60))
    with pytest.raises(DataError, match="no column 'mark'") as caught:
        loaded(tmp_path, "d.jsonl", score_column="mark")
    assert caught.value.hint == "Set `data.score_column`; the columns are: 'one', 'two', 'score'."
    with pytest.raises(DataError, match="no column 'three'") as caught:
        loaded(tmp_path, "d.jsonl", pair_columns=("one", "three"))
    assert caught.value.hint == "Set `data.pair_columns`; the columns are: 'one', 'two', 'score'."
    with pytest.raises(DataError, match="need three columns, not 'one', 'one' and 'score'"):
        loaded(tmp_path, "d.jsonl", pair_columns=("one", "one"))
    with pytest.raises(ValidationError, match="their texts cannot be split into sentences"):
        loaded(tmp_path, "d.jsonl", sentences=True)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60))
def test_groups_share_no_text_and_cannot_be_parted(rows: list[tuple[int, int]]) -> None:
    pairs = [(bytes([one]), bytes([two])) for one, two in rows]
    groups = linked_groups(pairs)
    assert sorted(index for group in groups for index in group) == list(range(len(pairs)))
    texts = [{key for index in group for key in pairs[index]} for group in groups]
    assert sum(map(len, texts)) == len(set().union(*texts))
    for group in groups:
        reached, left = set(pairs[group[0]]), group[1:]
        while near := [index for index in left if reached & set(pairs[index])]:
            reached.update(key for index in near for key in pairs[index])
            left = [index for index in left if index not in near]
        assert not left
