"""Data that cannot be used: each case gives one clear error, with the place and exit code 4, before any training."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from compress.core.errors import DataError, DataErrors
from compress.data.reading.files import read_head
from compress.data.sources import fingerprint, load
from compress.profile.schema import DataSpec

GOOD = "text,label\n" + "".join(f"text {name} {i},{name}\n" for name in ("a", "b") for i in range(5))


def first_of(error: DataError) -> DataError:
    return error.faults[0] if isinstance(error, DataErrors) else error


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@dataclass(frozen=True)
class Case:
    """Files to write, keys of `data` beside `path`, and the error: `where` is relative to the folder."""

    name: str
    files: dict[str, str | bytes]
    message: str
    where: str
    path: str = "data.csv"
    keys: dict[str, Any] = field(default_factory=dict)
    hint: str | None = None


CASES = [
    Case("empty csv", {"data.csv": ""}, "the file is empty", "data.csv"),
    Case("csv without rows", {"data.csv": "text,label\n"}, "the train split is empty", "data.csv"),
    Case(
        "csv row with a field too many",
        {"data.csv": "text,label\nfine,a\nhello, world,b\n"},
        "3 fields where the header has 2",
        "data.csv:3",
        hint="A text that contains the separator or a line break must be in double quotes.",
    ),
    Case(
        "csv row with a field too few, after a text of two lines",
        {"data.csv": 'text,label\n"two\nlines",a\n\nalone\n'},
        "1 fields where the header has 2",
        "data.csv:5",
    ),
    Case(
        "csv quote never closed",
        {"data.csv": 'text,label\nfine,a\n"open,b\nmore,c\n'},
        "a double quote is opened and never closed",
        "data.csv:3",
        hint='A double quote inside a quoted text is written twice: "".',
    ),
    Case(
        "csv quote closed too early",
        {"data.csv": 'text,label\n"an "odd" text",b\n'},
        "malformed: ',' expected after '\"'",
        "data.csv:2",
    ),
    Case(
        "csv with a separator that is not known",
        {"data.csv": "text~label\nx~a\n"},
        "no column 'text'; did you mean 'text~label'?",
        "data.csv",
        hint="Set `data.text_column`; the columns are: 'text~label'. If that is one column where there should be "
        "several, set `data.separator`.",
    ),
    Case(
        "csv that is an archive",
        {"data.csv": b"PK\x03\x04\0\0\0"},
        "contains null bytes: not a text file",
        "data.csv",
    ),
    Case(
        "text column misspelt",
        {"data.csv": GOOD.replace("text,", "txt,", 1)},
        "no column 'text'; did you mean 'txt'?",
        "data.csv",
        hint="Set `data.text_column`; the columns are: 'txt', 'label'.",
    ),
    Case(
        "label column elsewhere",
        {"data.csv": GOOD.replace("label", "category", 1)},
        "no column 'label'",
        "data.csv",
        hint="Set `data.label_column`; the columns are: 'text', 'category'.",
    ),
    Case(
        "column twice", {"data.csv": "text,label,text\nx,a,y\n"}, "two columns are called 'text'", "data.csv"
    ),
    Case("blank text", {"data.csv": GOOD + '"  ",a\n'}, "the text is blank", "data.csv:12"),
    Case("blank label", {"data.csv": GOOD + "something,\n"}, "the label is blank", "data.csv:12"),
    Case(
        "one class only",
        {"data.csv": "text,label\nx,a\ny,a\n"},
        "only one class: every training example has the label 'a'",
        "data.csv",
    ),
    Case(
        "labels that differ in case only",
        {"data.csv": GOOD + "one,B\n"},
        "labels must differ: 'B' and 'b' differ in case only",
        "data.csv",
    ),
    Case(
        "negative label",
        {"data.csv": "text,label\nx,0\ny,1\nz,-1\n"},
        "the label is negative: -1",
        "data.csv:4",
        hint="-1 often marks examples whose label is withheld: name another split for this role.",
    ),
    Case(
        "number without a name",
        {"data.csv": "text,label\nx,0\ny,1\nz,2\n"},
        "the label 2 has no name: `data.labels` names 2, 0 to 1",
        "data.csv:4",
        keys={"labels": ("no", "yes")},
    ),
    Case(
        "text label not declared",
        {"data.csv": GOOD + "one,sprots\n"},
        "the label 'sprots' is not among `data.labels`; did you mean 'sports'?",
        "data.csv:12",
        keys={"labels": ("a", "b", "sports")},
    ),
    Case(
        "declared label twice",
        {"data.csv": GOOD},
        "labels must differ: 'a' is given twice",
        "data.labels",
        keys={"labels": ("a", "b", "a")},
    ),
    Case(
        "declared label blank",
        {"data.csv": GOOD},
        "a label's name is blank",
        "data.labels",
        keys={"labels": ("a", " ")},
    ),
    Case(
        "one declared label",
        {"data.csv": GOOD},
        "1 label named; a classifier needs at least two",
        "data.labels",
        keys={"labels": ("a",)},
    ),
    Case(
        "same column twice",
        {"data.csv": GOOD},
        "text and label are the same column, 'text'",
        "data.label_column",
        keys={"label_column": "text"},
    ),
    Case(
        "too few examples of a class",
        {"data.csv": GOOD + "one,c\ntwo,c\nTWO ,c\n"},
        "too few examples: each class needs 3 distinct texts to make 3 splits; 'c' has 2",
        "data.csv",
        hint="Add examples, drop the class, or name splits that exist under `data.splits`.",
    ),
    Case(
        "fractions that leave nothing",
        {"data.csv": GOOD},
        "test and validation take 1.1 of the data: nothing is left to train on",
        "data.splits",
        keys={"splits": {"validation": 0.5, "test": 0.6}},
    ),
    Case(
        "unknown named split",
        {"data.csv": GOOD},
        "no split 'trian'; did you mean 'train'?",
        "data.csv",
        keys={"splits": {"train": "trian"}},
        hint="Set `data.splits.train`; the splits are: 'train'.",
    ),
    Case(
        "one split in two roles",
        {"train.csv": GOOD, "test.csv": GOOD},
        "test and validation are the same split, 'test'",
        "data.splits",
        path=".",
        keys={"splits": {"validation": "test"}},
    ),
    Case(
        "no such file",
        {},
        "there is no {base}/data.csv",
        "data.csv",
        hint="Paths are relative to the profile's folder.",
    ),
    Case(
        "unknown ending",
        {"data.xlsx": b"PK"},
        "files ending in '.xlsx' are not supported; known endings: .csv, .tsv, .json, .jsonl, .parquet",
        "data.xlsx",
        path="data.xlsx",
    ),
    Case(
        "malformed json line",
        {"data.jsonl": '{"text": "x", "label": "a"}\n{"text": "y", "label": }\n'},
        "malformed JSON: Expecting value",
        "data.jsonl:2",
        path="data.jsonl",
        hint="Expected one JSON object per line, or one array of objects.",
    ),
    Case(
        "json line that is no object",
        {"data.jsonl": '{"text": "x", "label": "a"}\n\n["y", "b"]\n'},
        "expected an object with the columns as keys",
        "data.jsonl:3",
        path="data.jsonl",
    ),
    Case("empty json", {"data.json": " \n"}, "the file is empty", "data.json", path="data.json"),
    Case(
        "malformed json array",
        {"data.json": '[{"text": "x", "label": "a"},\n {"text": "y"]\n'},
        "malformed JSON: Expecting ',' delimiter",
        "data.json:2",
        path="data.json",
    ),
    Case(
        "json that is nested too deeply",
        {"deep.jsonl": '{"a":' * 200_000},
        "malformed JSON: maximum recursion depth exceeded while decoding a JSON object from a unicode string",
        "deep.jsonl:1",
        path="deep.jsonl",
    ),
    Case(
        "json that is UTF-8 but for one line",
        {
            "data.jsonl": '{"text": "naïve", "label": "a"}\n{"text": "él", "label": "a"}\n'.encode()
            + '{"text": "café", "label": "b"}\n'.encode("latin-1")
        },
        "not utf-8, as the rest of it is: invalid continuation byte, byte 0xe9",
        "data.jsonl:3",
        path="data.jsonl",
    ),
    Case(
        "json text is a number",
        {"data.jsonl": lines({"text": "x", "label": "a"}, {"text": 7, "label": "b"})},
        "the text is a number: 7",
        "data.jsonl:2",
        path="data.jsonl",
        hint="Is `data.text_column` the right column?",
    ),
    Case(
        "json row without the key",
        {"data.jsonl": lines({"text": "x", "label": "a"}, {"label": "b"})},
        "the text is missing",
        "data.jsonl:2",
        path="data.jsonl",
    ),
    Case(
        "json label is null",
        {"data.json": '[{"text": "x", "label": "a"}, {"text": "y", "label": null}]'},
        "the label is missing",
        "data.json: entry 1",
        path="data.json",
    ),
    Case(
        "json label is a list",
        {"data.jsonl": lines({"text": "x", "label": ["a", "b"]})},
        "the label is a list: ['a', 'b']; expected a text or a whole number",
        "data.jsonl:1",
        path="data.jsonl",
        hint="Is `data.label_column` the right column? Several labels per example are not supported.",
    ),
    Case(
        "json label is a fraction",
        {"data.jsonl": lines({"text": "x", "label": 0.5})},
        "the label is a number: 0.5; expected a text or a whole number",
        "data.jsonl:1",
        path="data.jsonl",
    ),
    Case(
        "labels of two types",
        {"data.jsonl": lines({"text": "x", "label": "a"}, {"text": "y", "label": 1})},
        "labels of two types: a text at {base}/data.jsonl:1, but a number here",
        "data.jsonl:2",
        path="data.jsonl",
    ),
    Case(
        "half a surrogate pair",
        {"data.jsonl": '{"text": "x \\ud83d", "label": "a"}\n'},
        "the text contains half a surrogate pair: not valid Unicode",
        "data.jsonl:1",
        path="data.jsonl",
    ),
    Case(
        "test label that training never saw",
        {"train.csv": GOOD, "test.csv": "text,label\nnew,a\nnewer,bb\n"},
        "the test split has the label 'bb', which no training example has; did you mean 'b'?",
        "test.csv:3",
        path=".",
    ),
    Case(
        "empty validation file",
        {"train.csv": GOOD, "dev.csv": "text,label\n", "test.csv": GOOD},
        "the validation split is empty",
        "dev.csv",
        path=".",
    ),
    Case(
        "two files for a split",
        {"train.csv": GOOD, "train.jsonl": lines({"text": "x", "label": "a"})},
        "train.csv and train.jsonl are both the split 'train'",
        ".",
        path=".",
        hint="Keep one of them, or name one file as `data.path`.",
    ),
    Case(
        "two files for validation",
        {"train.csv": GOOD, "dev.csv": GOOD, "val.csv": GOOD},
        "'dev' and 'val' could both be the validation split",
        ".",
        path=".",
        hint="Name one as `data.splits.validation`.",
    ),
    Case(
        "folder of files without train",
        {"test.csv": GOOD},
        "no split 'train'",
        ".",
        path=".",
        hint="Set `data.splits.train`; the splits are: 'test'.",
    ),
    Case(
        "training split wholly in test",
        {
            "train.csv": GOOD,
            "test.csv": GOOD.upper()
            .replace("TEXT,LABEL", "text,label")
            .replace(",A", ",a")
            .replace(",B", ",b"),
        },
        "every text of the train split is also in a held-out split",
        ".",
        path=".",
    ),
    Case(
        "class wholly in test",
        {"train.csv": GOOD + "rare,c\n", "test.csv": "text,label\nRARE,c\nother,a\n"},
        "no training example of 'c' is left: all of its texts are also in a held-out split",
        ".",
        path=".",
    ),
    Case(
        "folder without data",
        {"README.md": "nothing"},
        "the folder has no data",
        ".",
        path=".",
        hint="Expected train.csv (or .jsonl, .parquet, ...), or one sub-folder per class with .txt files.",
    ),
    Case(
        "class folder without texts",
        {"good/1.txt": "fine", "bad/1.md": "poor"},
        "the class folder has no .txt file",
        "bad",
        path=".",
        hint="Each sub-folder is a class, and each .txt file directly in it an example.",
    ),
    Case(
        "blank text file",
        {"good/1.txt": "fine", "bad/1.txt": "\n"},
        "the text is blank",
        "bad/1.txt",
        path=".",
    ),
    Case(
        "text folder of one class",
        {"good/1.txt": "fine", "good/2.txt": "better"},
        "only one class: every training example has the label 'good'",
        ".",
        path=".",
    ),
    Case(
        "package path that leaves the package",
        {},
        "expected `package://name/folder`, with a folder inside the package",
        "package://pip/../secrets",
        path="package://pip/../secrets",
    ),
    Case(
        "package that is not installed",
        {},
        "no package 'no_such_package' is installed in this Python",
        "package://no_such_package/data",
        path="package://no_such_package/data",
        hint="Install it here: `pip install no-such-package`.",
    ),
    Case(
        "package without the folder",
        {},
        "the package 'numpy' has no 'no/such/data'",
        "package://numpy/no/such/data",
        path="package://numpy/no/such/data",
    ),
    Case(
        "bad parquet",
        {"data.parquet": b"PAR1 no"},
        "not a readable parquet file: ",
        "data.parquet",
        path="data.parquet",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_malformed_data_is_one_clear_error(case: Case, tmp_path: Path) -> None:
    for name, content in case.files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    spec = DataSpec.model_validate({"path": case.path, **case.keys})

    with pytest.raises(DataError) as caught:
        load(spec, tmp_path, seed=0, task="text-classification")

    error = first_of(caught.value)
    expected = case.message.format(base=tmp_path) if "{base}" in case.message else case.message
    if expected.endswith(": "):
        assert error.message.startswith(expected)
    else:
        assert error.message == expected
    assert error.where is not None
    assert error.where in (case.where, str(tmp_path / case.where), str(tmp_path.resolve() / case.where))
    assert error.exit_code == 4
    if case.hint is not None:
        assert error.hint == case.hint


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("text", ["x", None], "the text is missing"),
        ("text", [1.5, 2.5], "the text is a number: 1.5"),
        ("label", ["a", None], "the label is missing"),
        ("label", [0.0, float("nan")], "the label is missing"),
    ],
)
def test_parquet_values_of_the_wrong_kind(
    column: str, values: list[Any], message: str, tmp_path: Path
) -> None:
    table = {"text": ["x", "y"], "label": ["a", "b"], column: values}
    pq.write_table(pa.table(table), tmp_path / "data.parquet")
    row = next((i for i, value in enumerate(values) if value is None or value != value), 0)

    with pytest.raises(DataError) as caught:
        load(DataSpec(path="data.parquet"), tmp_path, seed=0, task="text-classification")

    assert first_of(caught.value).message == message
    assert first_of(caught.value).where == f"{tmp_path.resolve() / 'data.parquet'}: row {row}"


def _not_utf8(values: list[str]) -> pa.Array:
    """The strings with a byte that begins no character in place of each `#`."""
    whole = pa.array(values)
    content = whole.buffers()[2].to_pybytes().replace(b"#", b"\xbf")
    return pa.Array.from_buffers(pa.string(), len(values), [None, whole.buffers()[1], pa.py_buffer(content)])


@pytest.mark.parametrize("damaged", ["text", "label"])
def test_parquet_bytes_that_are_no_utf8(damaged: str, tmp_path: Path) -> None:
    columns = {"text": pa.array(["one", "two"]), "label": pa.array(["a", "b"])}
    pq.write_table(pa.table({**columns, damaged: _not_utf8(["fine", "a#b"])}), tmp_path / "data.parquet")

    for read in (
        lambda: load(DataSpec(path="data.parquet"), tmp_path, seed=0, task="text-classification"),
        lambda: read_head(tmp_path / "data.parquet"),
    ):
        with pytest.raises(DataError, match=r"not a readable parquet file: .*UTF8") as caught:
            read()
        assert first_of(caught.value).where == str(tmp_path / "data.parquet")


def test_parquet_images_beside_labels_that_are_no_utf8(tmp_path: Path) -> None:
    pixels = io.BytesIO()
    Image.new("L", (2, 2)).save(pixels, "png")
    images = [{"bytes": pixels.getvalue(), "path": None}] * 2
    table = pa.table({"image": images, "label": _not_utf8(["fine", "a#b"])})
    pq.write_table(table, tmp_path / "data.parquet")

    with pytest.raises(DataError, match=r"not a readable parquet file: .*UTF8"):
        load(DataSpec(path="data.parquet"), tmp_path, 0, "image-classification")


def test_parquet_without_the_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sentence": ["x"], "label": [0]}), tmp_path / "data.parquet")
    with pytest.raises(DataError, match="no column 'text'") as caught:
        load(DataSpec(path="data.parquet"), tmp_path, seed=0, task="text-classification")
    assert caught.value.hint == "Set `data.text_column`; the columns are: 'sentence', 'label'."


def test_fingerprint_of_missing_data_is_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        fingerprint(DataSpec(path="./missing.csv"), tmp_path, "text-classification")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.csv").write_text(GOOD)

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        load(DataSpec(path="data.csv"), tmp_path, seed=0, task="text-classification")
