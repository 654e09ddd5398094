"""Files as they are written: separators, encodings, label numbers, and names in any case and Unicode form."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import DataError
from compress.data.names import find_split, printable
from compress.data.reading.encodings import decode, decode_all
from compress.data.reading.separators import detect_separator
from compress.data.sources import load
from compress.data.splits import Splits
from compress.profile.schema import DataSpec

ROWS = [
    (f"{word} {i} of {label}", label)
    for label in ("a", "b")
    for word in ("tulip", "anchor")
    for i in range(5)
]
SAMPLES = {
    "gbk": ["今天天气很好，我们去花园散步", "这部电影非常糟糕，浪费时间", "质量太差，不推荐购买"],
    "gb18030": ["服务态度很好，下次还会再来", "花园 soil"],
    "cp932": ["今日は天気がとても良いです", "この映画はひどかった、時間の無駄"],
    "euc_jp": ["サービスがとても良かった", "品質が悪い、お勧めしません"],
    "cp949": ["오늘 날씨가 정말 좋아요", "이 영화는 정말 별로였다"],
    "big5": ["今天天氣很好，我們去花園散步", "這部電影非常糟糕"],
    "cp1252": ["Die Qualität ist schön und größer", "Überraschend gut – „wirklich“ 5 €"],
    "latin-1": ["Le café était très agréable", "où est l'intérêt ?"],
    "cp1251": ["Сегодня хорошая погода в саду", "Ужасный фильм, потеря времени"],
    "koi8_r": ["Отличное обслуживание, приду ещё", "Сегодня хорошая погода"],
    "utf-16": ["größer", "花园", "plain"],
    "utf-16-le": ["größer, 花园", "plain"],
    "utf-16-be": ["größer, 花园", "plain"],
    "utf-8": ["größer", "花园", "🌱"],
    "utf-8-sig": ["größer", "花园"],
}


def table(rows: list[tuple[str, str]], mark: str = ",", header: tuple[str, str] = ("text", "label")) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=mark).writerows([header, *rows])
    return out.getvalue()


def loaded(base: Path, path: str = "data.csv", **keys: object) -> Splits:
    return load(DataSpec.model_validate({"path": path, **keys}), base, seed=0, task="text-classification")


def texts_of(splits: Splits) -> set[tuple[str, str]]:
    parts = (splits.train, splits.validation, splits.test)
    return {
        (text, splits.labels[label])
        for part in parts
        for text, label in zip(part.texts, part.labels, strict=True)
    }


@pytest.mark.parametrize("encoding", SAMPLES)
@pytest.mark.parametrize("kind", ["table", "lines", "files"])
def test_an_encoding_is_told_from_the_bytes(encoding: str, kind: str, tmp_path: Path):
    rng = random.Random(0)
    rows = [(f"{rng.choice(SAMPLES[encoding])} {i}", label) for i in range(12) for label in ("a", "b")]
    path = {"table": "data.csv", "lines": "data.jsonl", "files": "folder"}[kind]
    if kind == "files":
        for number, (text, label) in enumerate(rows):
            file = tmp_path / path / label / f"{number}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode(encoding))
    else:
        lines = "".join(
            json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, label in rows
        )
        (tmp_path / path).write_bytes((table(rows) if kind == "table" else lines).encode(encoding))

    told = loaded(tmp_path, path)

    assert texts_of(told) == set(rows)
    assert texts_of(loaded(tmp_path, path, encoding=encoding)) == set(rows)
    assert any("data.encoding" in note for note in told.notes) == (not encoding.startswith("utf-8"))
    assert not any("data.encoding" in note for note in loaded(tmp_path, path, encoding=encoding).notes)


def test_files_of_one_folder_are_told_together():
    raws = [
        "日本".encode("cp932"),
        b"plain",
        "この映画はひどかった".encode("cp932"),
        "größer".encode(),
    ]
    decoded = decode_all(raws, [Path(str(number)) for number in range(4)])
    assert decoded == [
        ("日本", "cp932"),
        ("plain", "utf-8"),
        ("この映画はひどかった", "cp932"),
        ("größer", "utf-8"),
    ]


@pytest.mark.parametrize(
    ("raw", "declared", "line", "code"),
    [
        ("größe\nKöln\n".encode() + b"f\xfcr", None, 3, "encoding-mismatch"),
        ("花园很好\n".encode("gbk") * 9 + b"\xff\xff\n", "gbk", 10, "encoding-mismatch"),
        ("a\nb\nä".encode(), "ascii", 3, "encoding-mismatch"),
        ("a\nb".encode("utf-16") + b"\n", None, 2, "encoding-mismatch"),
        (b"price: \xa35\ncontrol \x81 \xe9", None, 1, "encoding-unknown"),
    ],
)
def test_what_cannot_be_decoded_is_refused_with_its_line(
    raw: bytes, declared: str | None, line: int, code: str
):
    with pytest.raises(DataError) as caught:
        decode(raw, Path("file"), declared)
    assert (caught.value.where, caught.value.code) == (f"file:{line}", code)
    assert "data.encoding" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "raw", [b"text,label\na\0bcd,good\n", b"text,label\nab\0cd,good\n", b"a stray \0 zero!!"]
)
def test_a_stray_zero_byte_makes_no_utf_16(raw: bytes):
    assert len(raw) % 2 == 0
    with pytest.raises(DataError) as caught:
        decode(raw, Path("file"))
    assert caught.value.code == "not-text"
    assert decode("a,b\n花园,c\n".encode("utf-16-le"), Path("file"))[1] == "utf-16-le"


def test_zero_bytes_are_no_text():
    with pytest.raises(DataError) as caught:
        decode(b"PK\x03\x04\0\0\0x", Path("file"))
    assert caught.value.code == "not-text"


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_are_text_or_a_fault_of_the_data(raw: bytes):
    try:
        text, encoding = decode(raw, Path("file"))
    except DataError:
        return
    assert (text, encoding) == decode(raw, Path("file"))


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["data.csv", "data.tsv"])
def test_a_separator_is_told_from_the_rows(mark: str, name: str, tmp_path: Path):
    rows = [(f'soil, "seed"; tulip\t{i}|{label}', label) for i in range(9) for label in ("a", "b")]
    (tmp_path / name).write_text(table(rows, mark))
    usual = "\t" if name.endswith("tsv") else ","

    told = loaded(tmp_path, name)

    assert texts_of(told) == set(rows)
    assert any("data.separator" in note for note in told.notes) == (mark != usual)
    assert texts_of(loaded(tmp_path, name, separator=mark)) == set(rows)


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("text;label\nsoil, seed;a\nrake, spade, tulip;b\n", ";"),
        ("a;b,label\nsoil;seed,a\nrake,b\n", ","),
        ("text|id,label\nx|1,a\ny|2,b\n", ","),
        ("sentence\none, two\nthree, four; five\n", ","),
        ("text\tlabel\n", "\t"),
        ("", ","),
    ],
)
def test_the_header_decides_and_then_the_rows(text: str, mark: str):
    assert detect_separator(text, ",") == mark


def test_a_separator_that_is_declared_is_kept(tmp_path: Path):
    (tmp_path / "data.csv").write_text(table(ROWS, "^"))
    assert texts_of(loaded(tmp_path, separator="^")) == set(ROWS)


def test_a_spreadsheet_says_its_separator_before_the_header(tmp_path: Path):
    (tmp_path / "data.csv").write_text("sep=;\n" + table(ROWS, ";"))
    assert texts_of(loaded(tmp_path)) == set(ROWS)
    (tmp_path / "data.csv").write_text("sep=;\r\n" + table([("", "a")], ";"))
    with pytest.raises(DataError) as caught:
        loaded(tmp_path)
    assert caught.value.where == f"{tmp_path}/data.csv:3"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("separator", mark) for mark in ("", "ab", '"', "\n", "a", "7")),
        *(("encoding", name) for name in ("utf8000", "hex", "base64", "zip", "")),
    ],
)
def test_what_is_no_separator_or_encoding_is_refused(key: str, value: str):
    with pytest.raises(ValueError, match=key):
        DataSpec.model_validate({"path": "x", key: value})


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [("d.jsonl", "separator", ";"), ("d.parquet", "separator", ";"), ("d.parquet", "encoding", "gbk")],
)
def test_a_key_that_would_do_nothing_is_refused(path: str, key: str, value: str, tmp_path: Path):
    import pandas as pd

    frame = pd.DataFrame(ROWS, columns=["text", "label"])
    frame.to_parquet(tmp_path / "d.parquet")
    frame.to_json(tmp_path / "d.jsonl", orient="records", lines=True)
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, path, **{key: value})
    assert (caught.value.where, caught.value.code) == (f"data.{key}", f"{key}-unused")


@pytest.mark.parametrize("written", ["{}.0", "{}.00", "{}"])
def test_whole_numbers_with_a_point_are_labels_by_number(written: str, tmp_path: Path):
    rows = [(text, written.format("ab".index(label))) for text, label in ROWS]
    rows[0] = (rows[0][0], "0")
    (tmp_path / "data.csv").write_text(table(rows))
    assert texts_of(loaded(tmp_path, labels=("bad", "good"))) == {
        (text, {"a": "bad", "b": "good"}[label]) for text, label in ROWS
    }
    assert loaded(tmp_path).labels == ("0", "1")


def test_other_numbers_stay_what_they_are(tmp_path: Path):
    (tmp_path / "data.csv").write_text(
        table([(text, {"a": "0.5", "b": "1.0"}[label]) for text, label in ROWS])
    )
    assert loaded(tmp_path).labels == ("0.5", "1.0")


@pytest.mark.parametrize(
    ("train", "test", "held"),
    [("Train", "Test", "VAL"), ("TRAINING", "testing", "Dev"), ("train", "TEST", "Validation")],
)
@pytest.mark.parametrize("kind", ["tables", "folders"])
def test_splits_have_their_names_in_any_case(train: str, test: str, held: str, kind: str, tmp_path: Path):
    for number, split in enumerate((train, test, held)):
        rows = [(f"{text} of {split}", label) for text, label in ROWS[: 20 - number]]
        if kind == "tables":
            (tmp_path / f"{split}.csv").write_text(table(rows))
            continue
        for at, (text, label) in enumerate(rows):
            file = tmp_path / split / label / f"{at}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    splits = loaded(tmp_path, ".")
    assert [len(part) for part in (splits.train, splits.test, splits.validation)] == [20, 19, 18]
    named = loaded(tmp_path, ".", splits={"train": "train", "test": test.upper(), "validation": 0.2})
    assert len(named.test) == 19


def test_two_folders_for_one_split_are_refused_and_the_very_name_is_taken():
    assert find_split("test", ["test", "Test"], "x") == "test"
    with pytest.raises(DataError) as caught:
        find_split("test", ["TEST", "Test"], "x")
    assert caught.value.code == "split-ambiguous"


def test_unicode_forms_of_names_are_one_name(tmp_path: Path):
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for split, name in (("train", nfd), ("test", nfc)):
        for label in (name, "b"):
            for i in range(6):
                file = tmp_path / "folder" / split / label / f"{i}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"{split} {label} {i}")
    splits = loaded(tmp_path, "folder", splits={"validation": 0.3})
    assert splits.labels == ("b", nfc)
    rows = [(text, {"a": nfc, "b": "b"}[label]) for text, label in ROWS]
    rows[0] = (rows[0][0], nfd)
    (tmp_path / "data.csv").write_text(table(rows, header=(f"te{nfd}", "label")))
    assert loaded(tmp_path, text_column=f"te{nfc}", labels=("b", nfd)).labels == ("b", nfc)


def test_a_folder_name_that_is_not_utf8_is_a_label_that_can_be_written(tmp_path: Path):
    for label in (b"caf\xe9", b"b"):
        folder = os.path.join(os.fsencode(tmp_path), b"data", label)
        os.makedirs(folder)
        for i in range(6):
            with open(os.path.join(folder, b"%d.txt" % i), "wb") as file:
                file.write(b"text %d of %b" % (i, label[:1]))
    splits = loaded(tmp_path, "data")
    assert splits.labels == ("b", "caf\\xe9")
    json.dumps(splits.labels).encode()
    os.makedirs(os.path.join(os.fsencode(tmp_path), b"data", b"d\xff"))
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, "data")
    assert caught.value.where == str(tmp_path / "data" / "d\\xff")
    str(caught.value).encode()


def test_what_is_shown_of_a_path_can_be_printed():
    assert printable(Path(os.fsdecode(b"/x/caf\xe9"))) == "/x/caf\\xe9"
    assert printable("/x/café") == "/x/café"
