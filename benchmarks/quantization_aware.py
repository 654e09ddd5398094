"""Does a student that trains with its rounding lose less by it?

    python benchmarks/quantization_aware.py [--quick]

CLINC150, the teacher and the 2-layer student of clinc_intents.yaml, in integers of several kinds: as the student is,
after as many more epochs of distillation in floating point, and after those epochs with the rounding simulated
(`quantize: {train: ...}`). Points are of test accuracy against the FP32 student of the same row; its own epochs, and
the settings, are the same for all. Writes reports/benchmarks/quantization_aware.json and .md.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from running import ROOT, missing, run_profile
from writing import write_rows

PROFILE = ROOT / "benchmarks" / "clinc_intents.yaml"
EPOCHS, MORE = 6, 2
KINDS: dict[str, dict[str, Any]] = {
    "8 bits, a scale for each output": {},
    "7 bits, one scale a weight": {"reduce_range": True, "per_channel": False},
    "7 bits, one scale a weight, tables of 4 bits": {
        "reduce_range": True,
        "per_channel": False,
        "embeddings": 4,
    },
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of an epoch everywhere, to try it")
    options = parser.parse_args()
    if reason := missing(PROFILE):
        print(f"skipped: {reason}")
        return 0
    rows = [
        _row(kind, training, keys, options.quick)
        for kind, keys in KINDS.items()
        for training in ("none", "floating point", "rounded")
    ]
    note = (
        f"The student distils for {EPOCHS} epochs. 'floating point': for {MORE} more, in one schedule; 'rounded': then "
        f"{MORE} with the rounding of its file simulated. One seed. The scheme is dynamic."
    )
    name = "quantization_aware.quick" if options.quick else "quantization_aware"
    write_rows(name, rows, note=note, script="quantization_aware")
    return 0


def _row(kind: str, training: str, keys: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Run the profile with a kind of integers after a kind of training."""
    share = 0.1 if quick else 1.0
    quantize = {"bits": 8, "scheme": "dynamic", **keys}
    if training == "rounded":
        quantize["train"] = {"epochs": MORE * share}
    overrides: dict[str, Any] = {
        "passes.0.distill.epochs": share * (EPOCHS + MORE if training == "floating point" else EPOCHS),
        "passes.1.quantize": quantize,
        **({"teacher.finetune.epochs": 0.3} if quick else {}),
    }
    rows = {row["step"]: row for row in run_profile(PROFILE, overrides)["rows"]}
    student, integers = rows["distill"], rows["quantize"]
    return {
        "integers": kind,
        "more training": training,
        "FP32 student": round(student["score"], 4),
        "accuracy": round(integers["score"], 4),
        "points": round(100 * (integers["score"] - student["score"]), 2),
        "size, MB": round(integers["size_mb"], 3),
        "p50, ms": round(integers["latency_p50_ms"], 3),
    }


if __name__ == "__main__":
    sys.exit(main())
