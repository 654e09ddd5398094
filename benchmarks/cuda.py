"""All that is to be known of CUDA, in one command of at most eight minutes.

    python benchmarks/cuda.py --out results [--minutes 8] [--only PART ...] [--dry]

Where there is no package index, with what `cuda_wheels.sh` packed:

    for trip in .carried/trips/*; do python3 benchmarks/carried.py unpack $trip /tmp/site; done
    PYTHONPATH=/tmp/site:. python3 benchmarks/cuda.py --out results

Parts run one after the other, the most valuable first, each in a process of its own with its share of the time that is
left. What one finds is written as it is found, to RESULTS/rows.jsonl; after each part RESULTS/cuda.json and cuda.md are
written anew, and its output is added to RESULTS/cuda.log. A part that lacks something here is skipped, and says
what. `--dry` runs every part at toy size on the CPU: to try the script, not to quote it. `cuda.md` becomes
reports/benchmarks/cuda.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cuda_parts.part import Part, Skipped
from writing import machine, markdown

ROOT = Path(__file__).parents[1]
SECONDS = {
    "machine": 20,
    "tests": 90,
    "profiles": 150,
    "distillation": 40,
    "language": 60,
    "latency": 35,
    "forward": 25,
    "faults": 40,
    "onnxruntime": 20,
}
"""The parts in their order, and the seconds that each may take of eight minutes; what one leaves is the others'."""


@dataclass
class Ended:
    """How a part ended: `done`, `skipped`, `failed` or `stopped` at its limit; what it found until then stays."""

    part: str
    how: str
    seconds: float
    why: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--only", nargs="*", choices=list(SECONDS))
    parser.add_argument("--dry", action="store_true", help="toy size on the CPU")
    parser.add_argument("--part", choices=list(SECONDS), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        return run_part(options.part, options.out, options.work, options.dry)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("rows.jsonl", "cuda.log"):
        (options.out / name).unlink(missing_ok=True)
    deadline = time.monotonic() + 60 * options.minutes
    ended: list[Ended] = []
    with tempfile.TemporaryDirectory() as work:
        names = list(options.only or SECONDS)
        for place, name in enumerate(names):
            share = SECONDS[name] / sum(SECONDS[later] for later in names[place:])
            # A dry run is for machines that others keep busy.
            limit = 900.0 if options.dry else share * (deadline - time.monotonic())
            if limit < 5:
                ended.append(Ended(name, "skipped", 0.0, "the time for all parts was over"))
            else:
                ended.append(supervise(name, options.out, Path(work), options.dry, limit))
            write(options.out, ended, options.dry)
            print(f"{name}: {ended[-1].how} after {ended[-1].seconds:.0f} s {ended[-1].why}", flush=True)
    print((options.out / "cuda.md").read_text())
    return int(any(one.how == "failed" for one in ended))


def supervise(name: str, out: Path, work: Path, dry: bool, limit: float) -> Ended:
    """Run one part in a process of its own, which is killed with all that it started when its time is over."""
    command = [sys.executable, __file__, "--part", name, "--out", str(out), "--work", str(work)]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "COMPRESS_CACHE": str(work / "cache"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if dry:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    began = time.monotonic()
    with (out / "cuda.log").open("ab") as log:
        log.write(f"\n== {name}\n".encode())
        log.flush()
        child = subprocess.Popen(
            [*command, *(["--dry"] if dry else [])],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        try:
            code = child.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # Its own children too: they are of its group.
            if child.poll() is None:
                os.killpg(child.pid, 9)
                child.wait()
    seconds = time.monotonic() - began
    if code is None:
        return Ended(name, "stopped", seconds, f"at its limit of {limit:.0f} s")
    if code == 0:
        return Ended(name, "done", seconds)
    if code == 3:
        return Ended(name, "skipped", seconds, rows_of(out, name)[-1]["skipped"])
    return Ended(name, "failed", seconds, last_words(out))


def run_part(name: str, out: Path, work: Path, dry: bool) -> int:
    """One part, in this process: 0 done, 3 skipped, 1 failed."""
    part = Part(name, out / "rows.jsonl", work, dry)
    try:
        part.require_device()
        import_module(f"cuda_parts.{name}").run(part)
    except Skipped as why:
        part.tell(skipped=str(why))
        return 3
    except Exception:  # noqa: BLE001 (whatever it was: the next part is not to suffer)
        traceback.print_exc()
        return 1
    return 0


def rows_of(out: Path, name: str) -> list[dict[str, Any]]:
    """What a part has found so far; a line that a killed process left unfinished is not read."""
    rows = []
    if (out / "rows.jsonl").exists():
        for line in (out / "rows.jsonl").read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row.pop("part") == name:
                rows.append(row)
    return rows


def last_words(out: Path) -> str:
    """The end of what was printed so far."""
    return " ".join((out / "cuda.log").read_text(errors="replace").split()[-30:])[-200:]


def write(out: Path, ended: list[Ended], dry: bool) -> None:
    """What is known so far, as JSON and as a page."""
    found = {one.part: {**vars(one), "rows": rows_of(out, one.part)} for one in ended}
    body = {"script": "benchmarks/cuda.py", "machine": machine(), "dry": dry, "parts": found}
    (out / "cuda.json").write_text(json.dumps(body, indent=1) + "\n")
    text = [f"# CUDA\n\nWritten by `benchmarks/cuda.py`{' --dry: toy sizes on a CPU' * dry}, {machine()}."]
    for name, part in found.items():
        text.append(f"## {name}\n\n{introduction(name)}")
        if part["how"] != "done":
            text.append(f"{part['how'].capitalize()} after {part['seconds']:.0f} s: {part['why']}")
        tables: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in part["rows"]:
            if "skipped" in row:
                text += [f"Left out: {row['skipped']}."] * (part["how"] == "done")
            else:
                tables.setdefault(tuple(row), []).append(row)
        text += [markdown(rows) for rows in tables.values()]
    (out / "cuda.md").write_text("\n\n".join(text) + "\n")


def introduction(name: str) -> str:
    """What a part measures: the text at the head of its file."""
    return (ROOT / "benchmarks" / "cuda_parts" / f"{name}.py").read_text().split('"""')[1].strip()


if __name__ == "__main__":
    sys.exit(main())
