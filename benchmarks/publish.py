"""Publish the report of a run: copy it to reports/published/ and put its table into the README.

    python benchmarks/publish.py bert_to_tiny

Run it in the folder in which the profile was run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from writing import machine

ROOT = Path(__file__).parents[1]
FILES = ("report.json", "report.md", "report.html", "rows.csv")


def main() -> None:
    publish(sys.argv[1], Path("reports"))


def publish(name: str, reports: Path) -> None:
    """Copy the report of that name from a folder of reports, and put its table into the README if it has a place."""
    target = ROOT / "reports" / "published" / name
    target.mkdir(parents=True, exist_ok=True)
    report = json.loads((reports / name / "report.json").read_text())
    for file in FILES:
        text = (reports / name / file).read_text(encoding="utf-8")
        if report["bundle"]:
            # Paths of the machine that ran it mean nothing elsewhere.
            text = text.replace(report["bundle"], f"runs/{report['run']}/bundle")
        (target / file).write_text(text, encoding="utf-8")
    (target / "machine.txt").write_text(machine() + "\n")
    readme = ROOT / "README.md"
    if mark(name) in readme.read_text():
        readme.write_text(with_table(readme.read_text(), name, readme_table(target)))


COLUMNS: dict[str, str] = {
    "accuracy": "score:.4f",
    "perplexity": "score:.3f",
    "retention": "retention:.4f",
    "p50, ms": "latency_p50_ms:.2f",
    "tokens/s": "decode_tokens_per_s:.1f",
    "first token, ms": "first_token_ms:.0f",
    "speed-up": "speedup:.1f",
    "memory, MB": "peak_memory_mb:.1f",
    "size, MB": "size_mb:.2f",
    "times smaller": "smaller:.1f",
    "parameters": "parameters:,",
}
"""What the README shows of a row, and how."""
CLASSIFIER, LANGUAGE_MODEL = (
    [name for name in COLUMNS if name not in left_out]
    for left_out in (("perplexity", "tokens/s", "first token, ms"), ("accuracy", "p50, ms", "parameters"))
)


def readme_table(published: Path) -> str:
    """The rows of a published report as the README shows them."""
    report = json.loads((published / "report.json").read_text())
    rows: list[dict[str, Any]] = report["rows"]
    columns = LANGUAGE_MODEL if report["task"] == "causal-lm" else CLASSIFIER
    shown = " | ".join(f"{{{COLUMNS[name]}}}" for name in columns)
    lines = [f"| after | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for row in rows:
        values = row | {"smaller": rows[0]["size_mb"] / row["size_mb"]}
        lines.append(f"| {row['step']} | {shown.format(**values)} |")
    note = f"Published by `benchmarks/publish.py`; measured on {(published / 'machine.txt').read_text().strip()}."
    return "\n".join([*lines, "", note])


def mark(name: str) -> str:
    """Where the README's table of a report begins."""
    return f"<!-- table: {name} -->"


def with_table(text: str, name: str, table: str) -> str:
    """The README with the table between its marks replaced."""
    start, end = mark(name), "<!-- end -->"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{table}\n{end}{after}"


if __name__ == "__main__":
    main()
