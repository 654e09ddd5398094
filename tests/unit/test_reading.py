"""JSON of others: read within limits, or refused with a code; never a crash, never a wait."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.disk.reading import MAX_DEPTH, parse_json, read_json, read_limited, read_mapping
from compress.core.errors import CompressError, ModelError, UsageError

BAD = (
    b"", b"{", b"\xff", b"nul", b"NaN", b"[Infinity]", b"-Infinity", b"1e999", b"9" * 5000, b"1" * 30, b"[" * 100_000,
    b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), b'{"a":' * 150 + b"1" + b"}" * 150, b'"\\ud800"',
    b'{"\\udfff": 1}',
    b"0x_", b"010", b"1_0",
)  # fmt: skip


@pytest.mark.parametrize("raw", BAD, ids=lambda raw: repr(raw[:12]))
def test_what_is_refused(raw: bytes):
    with pytest.raises(UsageError) as raised:
        parse_json(raw, "report.json", error=UsageError)
    assert (raised.value.code, raised.value.where) == ("not-json", "report.json")
    str(raised.value).encode()


def test_what_is_read(tmp_path: Path):
    value = {"a": [1, -(2**63), 2**64 - 1, 0.5, 1e-300, None, True, "é😀"], "b": {}}
    nested = json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for good in (value, nested):
        (tmp_path / "x.json").write_text(json.dumps(good), encoding="utf-8")
        assert read_json(tmp_path / "x.json") == good
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf{}")
    assert read_mapping(tmp_path / "x.json") == {}


def test_files_that_are_none(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "large.json").write_text("[" + " " * 2000 + "]")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "x\0y", Path("/proc/self/mem")):
        with pytest.raises(CompressError):
            read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing.json")
    with pytest.raises(ModelError):
        read_mapping(tmp_path / "list.json")
    with pytest.raises(ModelError) as raised:
        read_limited(tmp_path / "large.json", max_bytes=1000)
    assert raised.value.code == "unreadable"


@given(st.binary(max_size=60))
def test_bytes_are_read_or_refused(raw: bytes):
    with suppress(ModelError):
        json.dumps(parse_json(raw, "x"), ensure_ascii=False, allow_nan=False).encode()
