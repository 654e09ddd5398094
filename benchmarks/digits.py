"""Images: a vision transformer taught by a convolutional network, and that network pruned and in INT8.

    python benchmarks/digits.py [--seeds 5] [--quick]

`sklearn://digits`. A DeiT whose distillation token learns from the network against the same DeiT trained on the labels
alone for as many steps, seed by seed on the same test images. Then profiles/digits_cnn_prune_int8.yaml, measured to
its report. Writes reports/benchmarks/digits.json and .md; exits 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import numpy as np
from paired_seeds import paired_difference
from running import ROOT, missing, run_profile, train_profile
from writing import write_rows

TOKEN = ROOT / "profiles" / "digits_vit_distillation_token.yaml"
PRUNED = ROOT / "profiles" / "digits_cnn_prune_int8.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two seeds of one epoch, to try it")
    options = parser.parse_args()
    for profile in (TOKEN, PRUNED):
        if reason := missing(profile):
            print(f"skipped: {reason}")
            return 0
    rows = [
        *token_rows(2 if options.quick else options.seeds, quick=options.quick),
        *pruned_rows(options.quick),
    ]
    note = "The ViT's accuracies are means over seeds, in FP32; the network's are those of its files on the target."
    write_rows("digits.quick" if options.quick else "digits", rows, note=note, script="digits")
    return 0 if options.quick or all(row["held"] in (True, "") for row in rows) else 1


def token_rows(seeds: int, *, quick: bool) -> list[dict[str, Any]]:
    """The ViT with its distillation token, and on labels alone."""
    shared: dict[str, Any] = {"passes.0.distill.control": True}
    if quick:
        shared |= {"passes.0.distill.epochs": 1, "teacher.finetune.epochs": 1}
    runs = [
        train_profile(TOKEN, {**shared, "passes.0.distill.seed": seed}, allow_code=True)
        for seed in range(1, seeds + 1)
    ]
    taught, alone = (
        np.stack([run.right(step, "test") for run in runs]) for step in ("distill", "distill.control")
    )
    gain = paired_difference(taught, alone)
    steps = {run.facts("distill")["steps"] - run.facts("distill.control")["steps"] for run in runs}
    if steps != {0}:
        raise SystemExit(f"the two ViTs took different numbers of steps: {steps}")
    teacher = runs[0].score(runs[0].teacher, "test")
    return [
        _row("teacher, a CNN: accuracy", teacher),
        _row("ViT with distillation token: accuracy", taught.mean(), _spread(taught.mean(axis=1).tolist())),
        _row("the same ViT on labels alone: accuracy", alone.mean(), _spread(alone.mean(axis=1).tolist())),
        _row("difference", gain.value, f"{gain.low:.4f} to {gain.high:.4f}", "> 0", gain.value > 0),
        _row("seeds", seeds),
        _row("test images", taught.shape[1]),
    ]


def pruned_rows(quick: bool) -> list[dict[str, Any]]:
    """The network pruned and in INT8, as its report has it."""
    report = run_profile(PRUNED, {"teacher.finetune.epochs": 1} if quick else {}, allow_code=True)
    baseline, last = report["rows"][0], report["rows"][-1]
    times = baseline["parameters"] / last["parameters"]
    return [
        _row("CNN: accuracy", baseline["score"]),
        _row("CNN, pruned and INT8: accuracy", last["score"]),
        _row("retention", last["retention"], "", ">= 0.99", last["retention"] >= 0.99),
        _row("times fewer parameters", times, "", ">= 4", times >= 4),
        _row("times smaller", baseline["size_mb"] / last["size_mb"]),
        _row(
            "times faster (p50)", last["speedup"], f"{last['speedup_low']:.3f} to {last['speedup_high']:.3f}"
        ),
    ]


def _row(what: str, value: float, interval: str = "", bar: str = "", held: bool | str = "") -> dict[str, Any]:
    return {"what": what, "measured": round(float(value), 4), "interval or spread": interval, "bar": bar,
            "held": bool(held) if bar else ""}  # fmt: skip


def _spread(scores: list[float]) -> str:
    return f"sd {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""


if __name__ == "__main__":
    sys.exit(main())
