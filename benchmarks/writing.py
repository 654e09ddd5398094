"""How a benchmark leaves its result: reports/benchmarks/<script>.json with `rows`, and a Markdown table beside it."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

FOLDER = Path(__file__).parents[1] / "reports" / "benchmarks"


def write_rows(name: str, rows: list[dict[str, Any]], *, note: str = "", script: str | None = None) -> None:
    """Write and print the rows of the benchmark `name`; `script` where the file is called otherwise."""
    source = f"benchmarks/{script or name}.py"
    FOLDER.mkdir(parents=True, exist_ok=True)
    body = {"script": source, "machine": machine(), "note": note, "rows": rows}
    (FOLDER / f"{name}.json").write_text(json.dumps(body, indent=2) + "\n")
    table = markdown(rows)
    text = f"# {name}\n\nWritten by `{source}`, {machine()}.\n\n{note}\n\n{table}\n"
    (FOLDER / f"{name}.md").write_text(text)
    print(text)


def read_rows(name: str) -> list[dict[str, Any]]:
    """The rows that the benchmark `name` left; none where it was not run."""
    file = FOLDER / f"{name}.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"] if file.exists() else []
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    frame = pd.DataFrame(rows, dtype=object)  # whole numbers stay whole beside empty cells
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + " --- |" * len(frame.columns)]
    lines += [
        "| " + " | ".join("" if pd.isna(v) else str(v) for v in row) + " |"
        for row in frame.itertuples(index=False)
    ]
    return "\n".join(lines)


def machine() -> str:
    """The processor, its cores and the day, for beside a figure."""
    name = platform.processor() or "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return f"{name}, {os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}"
