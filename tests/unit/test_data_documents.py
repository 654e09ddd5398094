"""Texts without labels: from their source to splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compress.core.errors import DataError
from compress.data.sources import fingerprint, load
from compress.data.splits import UNLABELLED, Splits
from compress.profile.schema import DataSpec, validate_data

TASK = "sentence-embedding"


def loaded(base: Path, path: str, seed: int = 0, **changes: Any) -> Splits:
    return load(validate_data({"path": path, **changes}, TASK), base, seed, TASK)


def write_table(file: Path, texts: list[str], column: str = "text") -> None:
    file.write_text("\n".join([column, *(f'"{text}"' for text in texts)]) + "\n")


def sentences_of(document: int) -> list[str]:
    return [f"Document {document} says thing number {number}." for number in range(4)]


def test_a_flat_folder_and_one_with_sub_folders_give_the_same_texts(tmp_path: Path) -> None:
    for number in range(40):
        for folder in ("flat", f"deep/{'ab'[number % 2]}"):
            file = tmp_path / folder / f"{number}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"text number {number}")
    flat, deep = (loaded(tmp_path, name) for name in ("flat", "deep"))
    for role in ("train", "validation", "test"):
        assert sorted(getattr(flat, role).texts) == sorted(getattr(deep, role).texts)
    assert [len(part) for part in (flat.train, flat.validation, flat.test)] == [28, 4, 8]
    assert flat.labels == ()
    assert set(flat.train.labels.tolist()) == {UNLABELLED}
    assert fingerprint(DataSpec(path="flat"), tmp_path, TASK) is not None


def test_the_column_of_a_table_is_read_and_no_label_is_asked_for(tmp_path: Path) -> None:
    write_table(tmp_path / "d.csv", [f"text {number}" for number in range(40)], "body")
    splits = loaded(tmp_path, "d.csv", text_column="body")
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 40
    assert len(splits.test) == 8


def test_each_text_stands_once(tmp_path: Path) -> None:
    write_table(tmp_path / "d.csv", [f"text {number % 40}" for number in range(100)])
    splits = loaded(tmp_path, "d.csv")
    every = [text for part in (splits.train, splits.validation, splits.test) for text in part.texts]
    assert len(every) == len(set(every)) == 40
    assert splits.notes == ("60 repeated texts left out: each is kept once in its split",)


def test_sentences_of_one_document_stay_in_one_split(tmp_path: Path) -> None:
    write_table(tmp_path / "d.csv", [" ".join(sentences_of(number)) for number in range(30)])
    splits = loaded(tmp_path, "d.csv", sentences=True)
    homes = [
        {text.split()[1] for text in part.texts} for part in (splits.train, splits.validation, splits.test)
    ]
    assert [len(home) for home in homes] == [21, 3, 6]
    assert len(set.union(*homes)) == 30
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [84, 12, 24]


def test_a_sentence_of_a_held_out_document_is_never_trained_on(tmp_path: Path) -> None:
    common = "All rights are reserved here."
    texts = [f"{sentences_of(number)[0]} {common}" for number in range(30)]
    write_table(tmp_path / "d.csv", texts)
    splits = loaded(tmp_path, "d.csv", sentences=True)
    assert common in splits.test.texts
    assert common not in splits.train.texts
    assert common not in splits.validation.texts
    assert (
        "21 sentences of 42 dropped from 'train': the same sentence is also in a held-out split"
        in splits.notes
    )


def test_named_splits_keep_test_before_train(tmp_path: Path) -> None:
    for name, numbers in (("train", range(10)), ("validation", range(8, 14)), ("test", range(12, 18))):
        write_table(tmp_path / f"{name}.csv", [f"text {number}" for number in numbers])
    splits = loaded(tmp_path, ".")
    assert splits.test.texts == tuple(f"text {number}" for number in range(12, 18))
    assert splits.validation.texts == tuple(f"text {number}" for number in range(8, 12))
    assert splits.train.texts == tuple(f"text {number}" for number in range(8))
    assert splits.notes == (
        "2 texts of 6 dropped from 'validation': the same text is also in the test split",
        "2 texts of 10 dropped from 'train': the same text is also in a held-out split",
    )


def test_the_seed_makes_the_splits(tmp_path: Path) -> None:
    write_table(tmp_path / "d.csv", [f"text {number}" for number in range(50)])
    assert loaded(tmp_path, "d.csv").test.texts == loaded(tmp_path, "d.csv").test.texts
    assert set(loaded(tmp_path, "d.csv").test.texts) != set(loaded(tmp_path, "d.csv", seed=1).test.texts)


def test_further_texts_are_cut_alike_and_never_leak(tmp_path: Path) -> None:
    texts = [" ".join(sentences_of(number)) for number in range(30)]
    write_table(tmp_path / "d.csv", texts)
    write_table(tmp_path / "more.csv", [*texts, " ".join(sentences_of(99))])
    splits = loaded(tmp_path, "d.csv", sentences=True, unlabeled={"path": "more.csv"})
    assert splits.unlabeled is not None
    assert sorted(splits.unlabeled.texts) == sentences_of(99)


@pytest.mark.parametrize(
    ("texts", "changes", "words"),
    [
        (["one text", "two texts"], {}, "too few texts: 2 distinct ones to make 3 splits"),
        (
            [f"text {number}" for number in range(10)],
            {},
            "the test split has 2 texts; comparing similarities needs at least 3",
        ),
        (
            [f"Too short {number}. Yes." for number in range(40)],
            {"sentences": True, "splits": {"validation": 0.01}},
            "the validation split has 1 sentence; comparing similarities needs at least 3",
        ),
        (["a", "b"], {"labels": ["x", "y"]}, "embeddings have no labels: leave `labels` out"),
    ],
)
def test_faults(tmp_path: Path, texts: list[str], changes: dict[str, Any], words: str) -> None:
    write_table(tmp_path / "d.csv", texts)
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, "d.csv", **changes)
    assert caught.value.message == words


def test_a_blank_text_is_found_with_its_line(tmp_path: Path) -> None:
    write_table(tmp_path / "d.csv", ["one text", " ", "two"])
    with pytest.raises(DataError, match="the text is blank") as caught:
        loaded(tmp_path, "d.csv")
    assert caught.value.where == f"{tmp_path / 'd.csv'}:3"


def test_links_that_lead_back_have_an_end(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "texts" / name).mkdir(parents=True)
        for number in range(20):
            (tmp_path / "texts" / name / f"{number}.txt").write_text(f"text {name} {number}")
        (tmp_path / "texts" / name / "back").symlink_to("..")
        (tmp_path / "texts" / name / "itself").symlink_to(".")
    splits = loaded(tmp_path, "texts")
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 40
