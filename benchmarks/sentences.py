"""Sentence embeddings: all-MiniLM-L6-v2 to a small INT8 student, on held-out sentences of BBC News.

    python benchmarks/sentences.py [--quick]

Runs profiles/minilm_sentences.yaml to its report: Spearman correlation of the student's cosine similarities with the
teacher's, and how many of the teacher's ten nearest neighbours the student finds (recall@10). Writes
reports/benchmarks/sentences.json and .md; exits 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from running import ROOT, missing, run_profile
from writing import write_rows

PROFILE = ROOT / "profiles" / "minilm_sentences.yaml"
SPEARMAN, TIMES_SMALLER = 0.93, 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of an epoch, to try it")
    options = parser.parse_args()
    if reason := missing(PROFILE):
        print(f"skipped: {reason}")
        return 0
    report = run_profile(PROFILE, {"passes.0.distill.epochs": 0.1} if options.quick else {})
    baseline = report["rows"][0]
    rows = [_row(row, baseline) for row in report["rows"]]
    last = rows[-1]
    held = last["Spearman"] >= SPEARMAN and last["times smaller"] >= TIMES_SMALLER
    note = (
        f"Bars, for the last row: Spearman >= {SPEARMAN} at >= {TIMES_SMALLER:g} times smaller: "
        f"{'held' if held else 'missed'}. {report['splits']['test']} held-out sentences; profile {PROFILE.name}."
    )
    write_rows("sentences.quick" if options.quick else "sentences", rows, note=note, script="sentences")
    return 0 if held or options.quick else 1


def _row(row: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    metrics = {metric["name"]: metric["value"] for metric in row["targets"][0]["metrics"]}
    recall = next((value for name, value in metrics.items() if name.startswith("recall")), None)
    return {
        "step": row["step"],
        "Spearman": round(row["score"], 4),
        "recall@10": None if recall is None else round(recall, 4),
        "size, MB": round(row["size_mb"], 3),
        "times smaller": round(baseline["size_mb"] / row["size_mb"], 2),
        "times faster (p50)": round(row["speedup"], 2),
        "p50, ms": round(row["latency_p50_ms"], 3),
    }


if __name__ == "__main__":
    sys.exit(main())
