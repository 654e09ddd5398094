"""Rows end to end: what went in comes out, in memory and from a file, and a file is not held in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.store.flat import FileArray, FlatArray, Ragged, RaggedWriter

EXAMPLES = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=6), max_size=12)


@settings(max_examples=60, deadline=None)
@given(EXAMPLES, st.booleans())
def test_examples_come_out_as_they_went_in(examples: list[list[int]], on_disk: bool) -> None:
    writer = RaggedWriter(np.int32, max_memory_bytes=0 if on_disk else 10**6)
    for start in range(0, len(examples), 5):
        writer.add(examples[start : start + 5])
    ragged = writer.finish()
    assert [one.tolist() for one in ragged] == examples
    assert ragged.lengths.tolist() == [len(one) for one in examples]
    assert isinstance(ragged.flat, FileArray) == (on_disk and any(examples))


@settings(max_examples=60, deadline=None)
@given(EXAMPLES.filter(len), st.data())
def test_a_batch_is_padded_to_its_longest(examples: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(examples) - 1), min_size=1, max_size=6))
    values, present = Ragged.of(examples).padded(chosen, fill=-7)
    longest = max(len(examples[i]) for i in chosen)
    assert values.tolist() == [examples[i] + [-7] * (longest - len(examples[i])) for i in chosen]
    assert present.sum(1).tolist() == [len(examples[i]) for i in chosen]


def test_rows_may_have_a_shape() -> None:
    first, second = np.arange(6.0).reshape(2, 3), np.arange(3.0).reshape(1, 3)
    writer = RaggedWriter(np.float16, (3,))
    writer.add([first, second])
    values, present = writer.finish().padded([1, 0])
    np.testing.assert_array_equal(values[0], [second[0], [0, 0, 0]])
    np.testing.assert_array_equal(values[1], first)
    assert present.tolist() == [[True, False], [True, True]]


def test_a_slice_and_the_last_example() -> None:
    ragged = Ragged.of([[1], [2, 3], [4]])
    assert [one.tolist() for one in ragged[1:]] == [[2, 3], [4]]
    assert ragged[-1].tolist() == [4]
    with pytest.raises(IndexError):
        ragged[3]


def test_what_is_put_into_a_file_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "values"
    path.write_bytes(bytes(4 * 4000))
    array = FileArray(path, np.float32, (2000, 2), writable=True)
    rows = np.arange(4000, dtype=np.float32).reshape(2000, 2)
    places = np.random.default_rng(0).permutation(2000)
    array.write_rows(places, rows[places])
    array.flush()
    np.testing.assert_array_equal(np.fromfile(path, np.float32).reshape(2000, 2), rows)
    np.testing.assert_array_equal(FileArray(path, np.float32, (2000, 2)).rows(places), rows[places])
    np.testing.assert_array_equal(np.concatenate(list(FlatArray(rows).blocks())), rows)


def resident() -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) * 1024


def test_reading_all_of_a_large_file_leaves_the_process_no_larger(tmp_path: Path) -> None:
    path = tmp_path / "values"
    size = 1 << 27
    with path.open("wb") as file:
        for _ in range(128):
            file.write(bytes(range(256)) * 4096)
    array = FileArray(path, np.int32, (size // 256, 64))
    before = resident()
    total = sum(int(array.rows(np.arange(start, start + 64)).sum()) for start in range(0, size // 256, 64))
    assert total == int(np.frombuffer(bytes(range(256)), np.int32).sum()) * (size // 256)
    assert resident() - before < size / 8


def test_rows_that_the_file_does_not_hold_are_an_error(tmp_path):
    file = tmp_path / "rows"
    file.write_bytes(np.arange(8, dtype=np.float16).tobytes())
    array = FileArray(file, np.float16, (4, 2))
    with file.open("r+b") as stream:
        stream.truncate(10)
    assert array.rows(np.array([0, 1])).tolist() == [[0, 1], [2, 3]]
    with pytest.raises(OSError, match="the file ends before its rows do"):
        array.rows(np.array([1, 2]))
