"""How much of an encoder can go, and does it pay to choose by measured latency?

    python benchmarks/prune_recover.py [--only NAME ...] [--quick]

CLINC150, the teacher of clinc_intents.yaml, FP32 on one thread. 60 % and 90 % of the weights of the encoder's layers
go, with recovery: at least 0.985 and 0.96 of the teacher's accuracy should stay, and 60 % should make it twice as fast.
Then half of the heads and of the feed-forward width of every layer, against the heads and widths that the knapsack
chooses for the latency that this was measured to have. Writes reports/benchmarks/prune_recover.json and .md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from choosing import add_only, is_asked, rows_that_stay
from running import missing, run_profile, train_profile
from writing import write_rows

PROFILE = Path(__file__).with_suffix(".yaml")
RECOVERY = {"epochs": 8, "learning_rate": 2e-4}
LONG_RECOVERY = {"epochs": 12, "learning_rate": 4e-4}
AWAY: dict[str, dict[str, Any]] = {
    "60 % of the encoder": {"target": {"ratio": 0.6}, "recover": RECOVERY},
    "90 % of the encoder": {"target": {"ratio": 0.9}, "recover": LONG_RECOVERY},
}
UNIFORM, BY_LATENCY = "uniform: half of each layer", "by measured latency, as fast"
HALF: dict[str, Any] = {"remove": {"heads": 0.5, "feed_forward": 0.5}, "recover": RECOVERY}
NOTE = (
    "`predicted_ms` was foretold from the table of timed parts, `measured_ms` is the pruned model's own, timed in the "
    "pass; `latency_p50_ms` was measured by the run."
)


def overrides(prune: dict[str, Any], quick: bool) -> dict[str, Any]:
    """The keys of one row."""
    if not quick:
        return {"passes.0.prune": prune}
    short = {**prune, "recover": {**prune["recover"], "epochs": 0.1}, "importance_batches": 2}
    return {"passes.0.prune": short, "teacher.finetune.epochs": 0.1}


def row_of(name: str, keys: dict[str, Any]) -> dict[str, Any]:
    """Run the profile and tell of its last row and of what was foretold of it."""
    last = run_profile(PROFILE, keys)["rows"][-1]
    facts = train_profile(PROFILE, keys).facts("prune")
    target = facts.get("target", {})
    predicted, measured = target.get("predicted_ms"), target.get("measured_ms")
    return {
        "what": name,
        "accuracy": last["score"],
        "retention": last["retention"],
        "latency_p50_ms": last["latency_p50_ms"],
        "speedup": last["speedup"],
        "size_mb": last["size_mb"],
        "parameters": last["parameters"],
        "predicted_ms": predicted,
        "measured_ms": measured,
        "measured / predicted": measured / predicted if measured and predicted else None,
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
    rows = rows_that_stay(name, "what", options.only)
    for what, prune in {**AWAY, UNIFORM: HALF, BY_LATENCY: None}.items():
        if not is_asked(what, options.only):
            continue
        if prune is None:
            if UNIFORM not in rows:
                raise SystemExit(f"'{BY_LATENCY}' takes its latency from the row '{UNIFORM}': run both")
            prune = {"target": {"latency_ms": rows[UNIFORM]["latency_p50_ms"]}, "recover": RECOVERY}
        rows[what] = row_of(what, overrides(prune, options.quick))
        write_rows(name, [*rows.values()], note=NOTE, script="prune_recover")
    return 0


if __name__ == "__main__":
    sys.exit(main())
