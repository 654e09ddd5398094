"""How many examples a second a distillation sees, beside the plain Trainer with a live teacher and beside its peers.

    python benchmarks/distillation_speed.py [--data ../shared/data/clinc150] [--quick] [--no-peers] [--only NAME ...]

A student of 2 layers and width 128 learns from all-MiniLM-L6-v2 (with a head of random weights: speed does not ask what
it says) by KL at temperature 2, batches of 64, six epochs, one thread, on the utterances of CLINC150. Every row runs in
a process of its own; rows with a live teacher see fewer utterances, six times each as well. Ours counts the building of
the teacher's cache in. What it is compared with is installed into virtual environments of its own, with the torch and
transformers of this one; what cannot be had is left out with a message. Writes
reports/benchmarks/distillation_speed.json and .md; exits 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from distillation_variants import BATCH, EPOCHS, TEMPERATURE, VARIANTS, Utterances
from environments import NotInstalledError, python_of

ROOT = Path(__file__).parents[1]
BARS: dict[str, tuple[str, str, float]] = {
    "ours / Trainer": ("ours", "Trainer", 6.0),
    "ours / Trainer, bf16 teacher and student": ("ours", "Trainer, bf16 teacher and student", 3.5),
    "building the cache / teacher's bare forward": (
        "in turns: building the cache",
        "in turns: teacher's bare forward",
        0.9,
    ),
    "distillation from the second epoch / supervised": (
        "in turns: distillation epoch, cache built",
        "in turns: supervised epoch",
        1 / 1.10,
    ),
}
PEERS = {
    "Trainer": ("accelerate==1.15.0",),
    "torchdistill": ("torchdistill==1.1.5", "torchvision==0.28.*"),
    "TextBrewer": ("textbrewer==0.2.1.post1", "tensorboardX", "packaging", "protobuf"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "clinc150")
    parser.add_argument(
        "--quick", action="store_true", help="few utterances: to try the script, not to quote it"
    )
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--examples", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        began = time.monotonic()
        print(json.dumps(VARIANTS[options.variant](Utterances(options.data, options.examples))))
        print(f"{options.variant}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        return 0
    if not (options.data / "train.csv").exists():
        print(f"skipped: {options.data} is not there (CLINC150 as train.csv with the columns text and label)")
        return 0
    from writing import write_rows

    rows = []
    for name in VARIANTS:
        if options.only and name not in options.only:
            continue
        python = interpreter(name, options.no_peers)
        if python is not None:
            # A live teacher is slow: a fifth of the utterances tells as much.
            count = (
                640
                if options.quick
                else 15_000
                if name.startswith(("ours", "student", "in turns"))
                else 3_000
            )
            rows += measure(name, python, options.data, count)
    speeds = {row["what"]: row["examples/s"] for row in rows}
    held = True
    for what, (ours, other, bar) in BARS.items():
        if ours in speeds and other in speeds:
            ratio = speeds[ours] / speeds[other]
            held &= ratio >= bar
            rows.append(
                {"what": what, "ratio": round(ratio, 2), "bar": f">= {bar:.3g}", "held": ratio >= bar}
            )
    if not options.only:
        note = f"{EPOCHS} epochs, batch {BATCH}, KL at T = {TEMPERATURE:g}, one thread"
        write_rows("distillation_speed", rows, note=note + (", --quick" if options.quick else ""))
    else:
        print(json.dumps(rows, indent=1))
    return 0 if held or options.quick else 1


def measure(name: str, python: Path, data: Path, count: int) -> list[dict[str, Any]]:
    """The rows of one variant, measured in a process of its own with one thread; none where it fails."""
    command = [str(python), __file__, "--data", str(data), "--variant", name, "--examples", str(count)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        print(f"{name}: left out, it ended with exit code {result.returncode}")
        return []
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return [
        {
            "what": what,
            "examples/s": round(speed),
            "examples": count,
            "ms a step": round(BATCH / speed * 1e3, 1),
        }
        for what, speed in found.items()
    ]


def interpreter(name: str, no_peers: bool) -> Path | None:
    """The interpreter of a variant; None where its peer cannot be had."""
    peer = next((peer for peer in PEERS if peer in name), None)
    if peer is None:
        return Path(sys.executable)
    if no_peers:
        return None
    folder = Path(tempfile.gettempdir()) / f"compress-peer-{peer.lower()}"
    try:
        # torch and transformers are this environment's, so that all rows run the same kernels.
        return python_of(folder, PEERS[peer], shared=True)
    except NotInstalledError as error:
        print(f"{peer}: left out, it cannot be installed here: {error}")
        return None


if __name__ == "__main__":
    sys.exit(main())
