"""Does a teacher that was trained with smoothed labels distil worse? (Mueller et al. 2019, arXiv:1906.02629)

    python benchmarks/smoothed_teacher.py [--seeds 3] [--quick]

CLINC150, the teacher and student of distillation_kinds.yaml. For each smoothing one teacher is trained, and `--seeds`
students learn from its logits alone. Scores are test accuracies in FP32; the last columns compare each kind of teacher
with the unsmoothed one over the same seeds and examples. Writes reports/benchmarks/smoothed_teacher.json and .md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paired_seeds import paired_difference
from running import missing, train_profile
from writing import write_rows

PROFILE = Path(__file__).parent / "distillation_kinds.yaml"
SMOOTHINGS = (0.0, 0.1, 0.3)
TEMPERATURES = (1, 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--quick", action="store_true", help="two seeds and a tenth of the steps, to try it")
    options = parser.parse_args()
    if reason := missing(PROFILE):
        print(f"skipped: {reason}")
        return 0
    if options.quick:
        options.seeds, options.epochs = 2, 0.3
    seeds = range(1, options.seeds + 1)
    rows: list[dict[str, Any]] = []
    plain: dict[int, NDArray[np.bool_]] = {}
    for smoothing in SMOOTHINGS:
        for temperature in TEMPERATURES:
            runs = [
                train_profile(
                    PROFILE,
                    {
                        "teacher.finetune.smoothing": smoothing,
                        **({"teacher.finetune.epochs": 0.3} if options.quick else {}),
                        "passes.0.distill.losses": [{"logits": {"temperature": temperature}}],
                        "passes.0.distill.epochs": options.epochs,
                        "passes.0.distill.seed": seed,
                    },
                )
                for seed in seeds
            ]
            right = np.stack([run.right("distill", "test") for run in runs])
            plain.setdefault(temperature, right)
            gain = paired_difference(right, plain[temperature])
            scores = right.mean(axis=1).tolist()
            rows.append(
                {
                    "smoothing": smoothing,
                    "temperature": temperature,
                    "teacher": round(runs[0].score(runs[0].teacher, "test"), 4),
                    "student": round(statistics.mean(scores), 4),
                    "spread": round(statistics.stdev(scores), 4) if len(scores) > 1 else None,
                    "against no smoothing, points": round(100 * gain.value, 2),
                    "low": round(100 * gain.low, 2),
                    "high": round(100 * gain.high, 2),
                    "verdict": gain.verdict if smoothing else "",
                    "seeds": len(scores),
                }
            )
            print(rows[-1], flush=True)
    note = (
        "One teacher a smoothing: what is compared are these teachers, over seeds of students and test examples. "
        f"Students: {options.epochs:g} epochs, logits alone."
    )
    write_rows("smoothed_teacher.quick" if options.quick else "smoothed_teacher", rows,
               note=note, script="smoothed_teacher")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
