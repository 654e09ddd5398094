"""Publish the report of a run: copy it to reports/published/ and put its table into the README.

    python benchmarks/publish.py bert_to_tiny

Run it in the folder in which the profile was run.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from writing import machine

ROOT = Path(__file__).parents[1]
FILES = ("report.json", "report.md", "report.html", "rows.csv")


def main() -> None:
    name = sys.argv[1]
    target = ROOT / "reports" / "published" / name
    target.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        shutil.copy(Path("reports") / name / file, target / file)
    report = json.loads((target / "report.json").read_text())
    # Paths of the machine that ran it mean nothing elsewhere.
    report["bundle"] = f"runs/{report['run']}/bundle" if report["bundle"] else None
    (target / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (target / "machine.txt").write_text(machine() + "\n")
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(), name, readme_table(target)))


def readme_table(published: Path) -> str:
    """The rows of a published report as the README shows them."""
    rows: list[dict[str, Any]] = json.loads((published / "report.json").read_text())["rows"]
    baseline = rows[0]
    lines = [
        "| after | accuracy | retention | p50, ms | speed-up | memory, MB | size, MB | times smaller | parameters |",
        "| --- |" + " ---: |" * 8,
    ]
    lines += [
        f"| {row['step']} | {row['score']:.4f} | {row['retention']:.4f} | {row['latency_p50_ms']:.2f} "
        f"| {row['speedup']:.1f} | {row['peak_memory_mb']:.1f} | {row['size_mb']:.2f} "
        f"| {baseline['size_mb'] / row['size_mb']:.1f} | {row['parameters']:,} |"
        for row in rows
    ]
    note = f"Published by `benchmarks/publish.py`; measured on {(published / 'machine.txt').read_text().strip()}."
    return "\n".join([*lines, "", note])


def with_table(text: str, name: str, table: str) -> str:
    """The README with the table between its marks replaced."""
    start, end = f"<!-- table: {name} -->", "<!-- end -->"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{table}\n{end}{after}"


if __name__ == "__main__":
    main()
