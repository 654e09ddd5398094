"""How much of an encoder can go, with recovery?

    python benchmarks/prune_recover.py [--only NAME ...] [--quick]

CLINC150, the teacher of clinc_intents.yaml, FP32 on one thread. Bars: with 60 % of the weights of the encoder's layers
gone at least 0.985 of the teacher's accuracy stays, at twice its speed; with 90 % gone, 0.96. Writes
reports/benchmarks/prune_recover.json and .md; exits 1 where a bar is missed. What choosing layer by layer for a latency
is worth beside cutting all layers alike is measured by prune_latency.py.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choosing import add_only, is_asked, rows_that_stay
from running import missing, run_profile
from writing import write_rows

PROFILE = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class Cut:
    """What share of the layers' weights goes, how the rest recovers, and what must be left."""

    ratio: float
    recovery: dict[str, Any]
    retention: float
    speedup: float | None = None

    @property
    def bar(self) -> str:
        """In words."""
        return f"retention >= {self.retention:g}" + (f", >= {self.speedup:g}x" if self.speedup else "")

    def held_by(self, row: dict[str, Any]) -> bool:
        """Whether a row of a report holds the bar."""
        fast = self.speedup is None or row["speedup"] >= self.speedup
        return bool(row["retention"] >= self.retention and fast)


CUTS = {
    "60 % of the encoder": Cut(0.6, {"epochs": 8, "learning_rate": 2e-4}, 0.985, 2),
    "90 % of the encoder": Cut(0.9, {"epochs": 12, "learning_rate": 4e-4}, 0.96),
}


def overrides(cut: Cut, quick: bool) -> dict[str, Any]:
    """The keys of one row."""
    prune: dict[str, Any] = {"target": {"ratio": cut.ratio}, "recover": cut.recovery}
    if not quick:
        return {"passes.0.prune": prune}
    short = {**prune, "recover": {**cut.recovery, "epochs": 0.1}, "importance_batches": 2}
    return {"passes.0.prune": short, "teacher.finetune.epochs": 0.1}


def row_of(name: str, cut: Cut, last: dict[str, Any]) -> dict[str, Any]:
    """The last row of a report."""
    return {
        "gone": name,
        "accuracy": round(last["score"], 4),
        "retention": round(last["retention"], 4),
        "p50, ms": round(last["latency_p50_ms"], 3),
        "times faster": round(last["speedup"], 2),
        "size, MB": round(last["size_mb"], 2),
        "parameters": last["parameters"],
        "bar": cut.bar,
        "held": cut.held_by(last),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_only(parser)
    parser.add_argument("--quick", action="store_true", help="a tenth of an epoch everywhere, to try it")
    options = parser.parse_args()
    if reason := missing(PROFILE):
        print(f"skipped: {reason}")
        return 0
    name = "prune_recover.quick" if options.quick else "prune_recover"
    rows = rows_that_stay(name, "gone", options.only)
    for gone, cut in CUTS.items():
        if is_asked(gone, options.only):
            rows[gone] = row_of(gone, cut, run_profile(PROFILE, overrides(cut, options.quick))["rows"][-1])
            write_rows(name, [*rows.values()], note="One step each, one seed.", script="prune_recover")
    return 0 if options.quick or all(row["held"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
