"""The main job as a stranger runs it: clone, set up, run; then run it again; then how quickly the command answers.

    python benchmarks/main_job.py [--profile profiles/bert_to_tiny.yaml] [--here] [--publish]

Clones this repository's HEAD into an empty folder, times `make venv` and the first run there, and compares each figure
with its bar. `--here` uses this environment instead of a fresh one, in an empty working folder. `--publish` puts the
report into reports/published/ and its table into the README. Writes reports/benchmarks/main_job.<profile>.json and .md;
exits 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from publish import publish
from writing import write_rows

ROOT = Path(__file__).parents[1]
BARS: dict[str, dict[str, tuple[str, float]]] = {
    "bert_to_tiny": {
        "set-up, s": ("<=", 240),
        "set-up and first run, s": ("<=", 900),
        "retention": (">=", 0.97),
        "times smaller": (">=", 15),
        "times faster (p50, batch 1)": (">=", 8),
        "peak memory / baseline's": ("<=", 1 / 3),
        "test examples": (">=", 400),
    },
    "clinc_intents": {
        "first run, s": ("<=", 1500),
        "teacher's score": (">=", 0.955),
        "score": (">=", 0.93),
        "retention": (">=", 0.97),
        "times smaller": (">=", 40),
        "times faster (p50, batch 1)": (">=", 20),
    },
}
EVERY_JOB: dict[str, tuple[str, float]] = {
    "second run, s": ("<=", 15),
    "second run's report is the same": (">=", 1),
    "--help, s": ("<=", 0.5),
    "validate, s": ("<=", 2),
    "plan, s": ("<=", 2),
    "wall / (training + conversion + measuring)": ("<=", 1.10),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="profiles/bert_to_tiny.yaml")
    parser.add_argument("--here", action="store_true")
    parser.add_argument("--publish", action="store_true")
    options = parser.parse_args()
    name = Path(options.profile).stem
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options.profile, here=options.here)
        if options.publish:
            publish(name, Path(folder, "reports" if options.here else "clone/reports"))
    bars = {**BARS.get(name, {}), **EVERY_JOB}
    rows = [
        {
            "what": what,
            "measured": round(value, 4),
            "bar": f"{bars[what][0]} {bars[what][1]:.4g}" if what in bars else "",
            "held": holds(value, *bars[what]) if what in bars else "",
        }
        for what, value in figures.items()
    ]
    write_rows(f"main_job.{name}", rows, note=f"profile {options.profile}", script="main_job")
    return 0 if all(row["held"] in (True, "") for row in rows) else 1


def measure(folder: Path, profile: str, *, here: bool) -> dict[str, float]:
    """Every figure of one job, run in an empty folder."""
    figures: dict[str, float] = {}
    if here:
        python, work, file = sys.executable, folder, str(ROOT / profile)
    else:
        work = folder / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(work)], check=True)
        figures["set-up, s"] = timed(["make", "venv"], work)
        python, file = str(work / ".venv" / "bin" / "python"), profile
    command = [python, "-m", "compress"]
    first = timed([*command, "run", file], work, allowed=(0, 3))
    figures["first run, s"] = first
    if not here:
        figures["set-up and first run, s"] = figures["set-up, s"] + first
    report = read_report(work)
    run = json.loads((work / "runs" / report["run"] / "run.json").read_text())
    figures |= results(report, run)
    figures["wall / (training + conversion + measuring)"] = first / run["seconds"]
    figures["second run, s"] = timed([*command, "run", file], work, allowed=(0, 3))
    figures["second run's report is the same"] = float(read_report(work) == report)
    for name, words in (("--help", ["--help"]), ("validate", ["validate", file]), ("plan", ["plan", file])):
        figures[f"{name}, s"] = statistics.median(timed([*command, *words], work) for _ in range(5))
    return figures


def results(report: dict[str, Any], run: dict[str, Any]) -> dict[str, float]:
    """The last row against the first."""
    baseline, last = report["rows"][0], report["rows"][-1]
    return {
        "teacher's score": baseline["score"],
        "score": last["score"],
        "retention": last["retention"],
        "times smaller": baseline["size_mb"] / last["size_mb"],
        "size, MB": last["size_mb"],
        "times faster (p50, batch 1)": last["speedup"],
        "p50, ms": last["latency_p50_ms"],
        "peak memory / baseline's": last["peak_memory_mb"] / baseline["peak_memory_mb"],
        "test examples": float(run["splits"]["test"]),
    }


def timed(command: list[str], folder: Path, allowed: tuple[int, ...] = (0,)) -> float:
    """Seconds that a command took."""
    began = time.monotonic()
    result = subprocess.run(command, cwd=folder, check=False, stdout=subprocess.DEVNULL)
    if result.returncode not in allowed:
        raise SystemExit(f"{' '.join(command)} ended with exit code {result.returncode}")
    return time.monotonic() - began


def read_report(folder: Path) -> dict[str, Any]:
    """The report's JSON."""
    (file,) = (folder / "reports").glob("*/report.json")
    report: dict[str, Any] = json.loads(file.read_text())
    return report


def holds(value: float, sense: str, bar: float) -> bool:
    """Whether a figure holds its bar."""
    return value <= bar if sense == "<=" else value >= bar


if __name__ == "__main__":
    sys.exit(main())
