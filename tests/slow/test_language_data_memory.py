"""Five times the texts, the same memory: read, told from duplicates, encoded, packed and learnt."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_texts_take_no_more_memory_for_more_of_them(ending: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark: Any = importlib.import_module("llm_data_memory")
    # Both beyond the size from which files are read row by row.
    few, many = (benchmark.row_of(tokens, ending) for tokens in (5_000_000, 25_000_000))
    assert many["texts"] > 4.9 * few["texts"]
    assert few["steps"] == many["steps"] == 40
    for part in ("read_mb", "encoded_mb", "packed_mb", "trained_mb"):
        # What stays of a text are its key, its place, its length, and where its windows stand.
        assert many[part] - few[part] < 400 * (many["texts"] - few["texts"]) / 1e6, part
    sys.modules.pop("llm_data_memory")
