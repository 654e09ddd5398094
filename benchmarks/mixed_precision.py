"""Does mixed precision save a model that 8 bits destroy?

    python benchmarks/mixed_precision.py [--factor 3000] [--quick]

CLINC150, the teacher of clinc_intents.yaml, made fragile on purpose: in every layer two channels of the values are
multiplied by `--factor`, and the projection that reads them divides by it. The float model computes what it did, but
one range for all channels has no room for the others. It is quantized to 8 bits as it is, smoothed, with layers given
back until at most half a point of validation accuracy is lost, and with as much given back as fits a third of the
size. Writes reports/benchmarks/mixed_precision.json and .md; exits 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from running import make_one, missing, resolve, run_profile, teacher_of
from writing import write_rows

from compress.core.artifacts import Artifact
from compress.models.io.checkpoints import load_model, save_model

PROFILE = Path(__file__).with_suffix(".yaml")
CHANNELS = (0, 7)
DROP_BEFORE, DROP_AFTER, TIMES_SMALLER = 0.05, 0.005, 3.0
FITTED = "within a third of the size"
HELD = "max_drop 0.005"
WAYS: dict[str, dict[str, Any]] = {
    "every layer in integers": {},
    "smoothed": {"smooth": True},
    HELD: {"mixed": {"max_drop": 0.005}},
    FITTED: {"mixed": {"size_mb": 30.2}},
    "smoothed, max_drop 0.005": {"smooth": True, "mixed": {"max_drop": 0.005}},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--factor", type=float, default=3000.0, help="by which the channels stand out")
    parser.add_argument("--quick", action="store_true", help="a teacher of a third of an epoch, to try it")
    options = parser.parse_args()
    if reason := missing(PROFILE):
        print(f"skipped: {reason}")
        return 0
    trained = {"teacher.finetune.epochs": 0.3} if options.quick else {}
    teacher = teacher_of(resolve(PROFILE, trained), "torch")
    with tempfile.TemporaryDirectory(prefix="fragile-") as name:
        fragile = write_fragile(teacher, Path(name) / "model", options.factor)
        rows = []
        for way, keys in WAYS.items():
            rows += _rows(way, fragile, {"bits": 8, **keys}, with_float=not rows)
    damaged = rows[1]["points lost"] > 100 * DROP_BEFORE
    saved = next(row for row in rows if row["way"] == HELD)
    held = damaged and saved["points lost"] <= 100 * DROP_AFTER and saved["times smaller"] >= TIMES_SMALLER
    note = (
        f"Channels {CHANNELS} of the values of every layer times {options.factor:g}. Bars: with every layer in "
        f"integers more than {100 * DROP_BEFORE:g} points of test accuracy are lost, with `{HELD}` at most "
        f"{100 * DROP_AFTER:g} at {TIMES_SMALLER:g} times smaller: {'held' if held else 'missed'}. Which layers are "
        "given back is chosen on validation examples."
    )
    name = "mixed_precision.quick" if options.quick else "mixed_precision"
    write_rows(name, rows, note=note, script="mixed_precision")
    return 0 if held or options.quick else 1


def write_fragile(teacher: Artifact, folder: Path, factor: float) -> Path:
    """A copy of a BERT classifier that computes the same with channels that stand out."""
    shutil.copytree(teacher.path, folder)
    model = load_model(teacher.path)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:  # type: ignore[union-attr]
            value, reader = layer.attention.self.value, layer.attention.output.dense
            for channel in CHANNELS:
                value.weight[channel] *= factor
                value.bias[channel] *= factor
                reader.weight[:, channel] /= factor
    save_model(model, folder)
    return folder


def _rows(way: str, model: Path, quantize: dict[str, Any], *, with_float: bool) -> list[dict[str, Any]]:
    keys = {"teacher.model": str(model), "teacher.finetune": None, "passes.0.quantize": quantize}
    baseline, last = run_profile(PROFILE, keys)["rows"]
    mixed = make_one(resolve(PROFILE, keys), "quantize").facts.get("mixed", {})
    rows = [_row("float", baseline, baseline, {})] if with_float else []
    return [*rows, _row(way, last, baseline, mixed)]


def _row(way: str, row: dict[str, Any], baseline: dict[str, Any], mixed: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "way": way,
        "accuracy": round(row["score"], 4),
        "points lost": round(100 * (baseline["score"] - row["score"]), 2),
        "MB": round(row["size_mb"], 2),
        "times smaller": round(baseline["size_mb"] / row["size_mb"], 2),
        "times faster": round(row["speedup"], 2),
        "layers given back": len(mixed["given_back"]) if mixed else None,
        "trials": len(mixed["trials"]) if mixed else None,
    }


if __name__ == "__main__":
    sys.exit(main())
