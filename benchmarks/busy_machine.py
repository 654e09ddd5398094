"""Time fixed pairs of models alone and beside busy processes: is every ratio right, or marked as disturbed?

    python benchmarks/busy_machine.py [--part PART]... [--again] [--dry] [--models DIR]

Parts: `quiet` (each pair alone: the ratios that the others are held against), `same` (A against A, 100 times alone),
`busy` (each pair beside 1, 2 and 4 busy processes, pinned and not), `free` (one thread beside one process, where a
core is free), `cost` (the time of a timing, against the runner of the commit before disturbance was measured). What is
done stands in DIR and is not done again; without `--part` all that is missing is done. The quiet parts want a quiet
machine.

Writes reports/benchmarks/busy_machine.json and .md; exits 1 where a bar is not held. `--dry` does everything at toy
size, in a folder of its own, and writes no report.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from busy_models import BEFORE, Pair, pairs_of, runner_before
from writing import markdown, write_rows

from compress.core.records import Latency
from compress.measuring.jobs import JobFolder
from compress.measuring.timing.feeds import sample_indices, scenarios
from compress.measuring.timing.latency import latency_jobs, latency_row, run_with_retries
from compress.profile.schema import MeasureSpec, TargetSpec
from compress.runtimes import runner
from compress.runtimes.launching import clean_environment
from compress.targets.local import resolve
from compress.targets.patience import Patience

PROCESSES = 4
PATIENCE_S = 60.0
IMPATIENT_S = 6.0
"""Where the machine stays busy on purpose, waiting longer changes nothing."""
NEIGHBOURS = (1, 2, 4)
OFF = 0.10
"""How far a ratio may be from the quiet one, unless it is marked."""
BURN = """
import os, sys
import numpy as np
if len(sys.argv) > 2:
    os.sched_setaffinity(0, {int(sys.argv[2])})
a = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
print("on", flush=True)
while os.getppid() == int(sys.argv[1]):
    a @ a
"""


@dataclass(frozen=True)
class Extent:
    """How often and for how long: `spec` for pairs, `same` for A against A."""

    quiet: int
    same: int
    busy: int
    free: int
    cost: int
    spec: MeasureSpec
    same_spec: MeasureSpec


FULL = Extent(3, 25, 2, 10, 8, MeasureSpec(), MeasureSpec(min_seconds=1.0))
DRY = Extent(
    1, 1, 1, 2, 1, MeasureSpec(min_seconds=0.2, min_rounds=8), MeasureSpec(min_seconds=0.2, min_rounds=8)
)


def timed(
    pair: Pair, threads: int, spec: MeasureSpec, patience_s: float, cores: tuple[int, ...] | None = None
) -> tuple[Latency, float]:
    """A pair, the baseline first, as `compress` times a row; and the seconds that it took."""
    started = time.perf_counter()
    target = resolve(TargetSpec(threads=threads, cores=cores))
    target = replace(target, patience=Patience(patience_s))
    with tempfile.TemporaryDirectory() as name:
        jobs = JobFolder.of_target(Path(name), target)
        scenario = scenarios(sample_indices(len(pair.inputs), spec.examples, 0), [1], [])[0]
        feeds = jobs.feeds("timed", scenario.batches(pair.inputs))
        models = [str(file) for file in pair.files]
        made = latency_jobs(models, [[feeds, feeds]], spec, processes=PROCESSES)
        results = list(run_with_retries(jobs, made))
        row = latency_row(scenario, results, 0, scenario.mean_length(pair.inputs), 0)
    return row, time.perf_counter() - started


@contextmanager
def neighbours(count: int, *, pinned: bool) -> Iterator[None]:
    """Busy processes of one thread each; `pinned` to the usable cores in turn."""
    cores = sorted(os.sched_getaffinity(0))
    children = []
    try:
        for number in range(count):
            place = [str(cores[number % len(cores)])] if pinned else []
            command = [sys.executable, "-c", BURN, str(os.getpid()), *place]
            children.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, env=clean_environment(1), text=True)
            )
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        yield
    finally:
        for child in children:
            child.kill()
            child.communicate()


def said(pair: Pair, threads: int, row: Latency, seconds: float, **more: Any) -> dict[str, Any]:
    """One timing as a row."""
    by = row.disturbance
    assert by is not None
    return {
        "pair": pair.name,
        "threads": threads,
        **more,
        "ratio": row.speedup,
        "marked": by.disturbed,
        "verdict": row.verdict,
        "p50_ms": row.p50_ms,
        "baseline_p50_ms": row.baseline_p50_ms,
        "waited": by.waited,
        "baseline_waited": by.baseline_waited,
        "patient_s": by.patient_s,
        "seconds": seconds,
    }


# The parts.


def quiet(pairs: Mapping[str, Pair], extent: Extent) -> Iterator[dict[str, Any]]:
    pair = pairs["teacher / student"]
    for _ in range(extent.quiet):
        for threads in (1, 2):
            yield said(pair, threads, *timed(pair, threads, extent.spec, PATIENCE_S))


def same(pairs: Mapping[str, Pair], extent: Extent) -> Iterator[dict[str, Any]]:
    for _ in range(extent.same):
        for name in ("teacher twice", "student twice"):
            for threads in (1, 2):
                yield said(pairs[name], threads, *timed(pairs[name], threads, extent.same_spec, PATIENCE_S))


def busy(pairs: Mapping[str, Pair], extent: Extent) -> Iterator[dict[str, Any]]:
    cores = sorted(os.sched_getaffinity(0))
    names = ("teacher / student",) * extent.busy + ("teacher twice",)
    for name, threads, count, pinned in product(names, (1, 2), NEIGHBOURS, (False, True)):
        # Kept on the cores that the neighbours are kept on first.
        kept = tuple(cores[:threads]) if pinned else None
        with neighbours(count, pinned=pinned):
            found = timed(pairs[name], threads, extent.spec, IMPATIENT_S, kept)
        yield said(pairs[name], threads, *found, neighbours=count, pinned=pinned)


def free(pairs: Mapping[str, Pair], extent: Extent) -> Iterator[dict[str, Any]]:
    pair = pairs["teacher / student"]
    for _ in range(extent.free):
        with neighbours(1, pinned=False):
            found = timed(pair, 1, extent.spec, PATIENCE_S)
        yield said(pair, 1, *found, neighbours=1, pinned=False)


def cost(pairs: Mapping[str, Pair], extent: Extent) -> Iterator[dict[str, Any]]:
    """Seconds of one timing process by this runner and by the one before, in turns."""
    pair = pairs["teacher / student"]
    before = runner_before()
    for _ in range(extent.cost):
        for threads in (1, 2):
            spent = {}
            for name, file in (("now", Path(runner.__file__)), ("before", before)):
                spent[name] = seconds_of(file, pair, threads, extent.spec)
            yield {"pair": pair.name, "threads": threads, **spent}


def seconds_of(file: Path, pair: Pair, threads: int, spec: MeasureSpec) -> float:
    """Seconds that a runner takes for the first of the processes that time a pair."""
    with tempfile.TemporaryDirectory() as name:
        scenario = scenarios(sample_indices(len(pair.inputs), spec.examples, 0), [1], [])[0]
        feeds = f"{name}/timed.npz"
        # Each runner reads the files that it writes itself.
        runpy.run_path(str(file))["write_batches"](feeds, scenario.batches(pair.inputs))
        models = [str(one) for one in pair.files]
        job = next(latency_jobs(models, [[feeds, feeds]], spec, processes=PROCESSES))
        body = {**job.body, "threads": threads, "device": "cpu", "patience_s": PATIENCE_S / 2}
        (Path(name) / "job.json").write_text(json.dumps(body))
        command = [sys.executable, str(file), f"{name}/job.json", f"{name}/result.json"]
        started = time.perf_counter()
        subprocess.run(command, env=clean_environment(threads), check=True)
        return time.perf_counter() - started


PARTS: dict[str, Callable[[Mapping[str, Pair], Extent], Iterator[dict[str, Any]]]] = {
    "quiet": quiet,
    "same": same,
    "busy": busy,
    "free": free,
    "cost": cost,
}


# What it shows.


def judged(parts: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The bars, as far as the parts were done."""
    bars = []

    def bar(what: str, wanted: str, found: str, held: bool) -> None:
        bars.append({"bar": what, "wanted": wanted, "found": found, "held": "yes" if held else "NO"})

    if parts.get("quiet"):
        references = quiet_ratios(parts["quiet"])
        beside = [row for name in ("busy", "free") for row in parts.get(name, [])]
        if beside:
            wrong = [row for row in beside if not row["marked"] and off(row, references) > OFF]
            believed = [off(row, references) for row in beside if not row["marked"]]
            most = f"{100 * max(believed):.1f} % off at most" if believed else "all marked"
            bar(
                "each ratio beside others within 10 % of the quiet one, or marked",
                "all",
                f"{len(beside) - len(wrong)} of {len(beside)}; {len(believed)} not marked, {most}",
                not wrong,
            )
    if parts.get("same"):
        rows = parts["same"]
        equal = sum(row["verdict"] == "no difference" for row in rows)
        bar("A against A says no difference", "95 %", f"{equal} of {len(rows)}", equal >= 0.95 * len(rows))
        claimed = [row for row in parts.get("busy", []) if row["pair"].endswith("twice")]
        false = [row for row in claimed if row["verdict"] not in (None, "no difference")]
        if claimed:
            found = f"{len(claimed) - len(false)} of {len(claimed)}"
            bar(
                "A against A beside others is marked or says no difference",
                "95 %",
                found,
                len(false) <= 0.05 * len(claimed),
            )
        marked = sum(bool(row["marked"]) for row in rows)
        bar(
            "a quiet machine is marked", "at most 2 %", f"{marked} of {len(rows)}", marked <= 0.02 * len(rows)
        )
    if parts.get("free"):
        rows = parts["free"]
        unmarked = sum(not row["marked"] for row in rows)
        bar(
            "one thread, one neighbour, a core is free: not marked",
            "8 of 10",
            f"{unmarked} of {len(rows)}",
            unmarked >= 0.8 * len(rows),
        )
    if parts.get("cost"):
        shares = [
            statistics.median(row["now"] for row in rows) / statistics.median(row["before"] for row in rows)
            - 1
            for threads in (1, 2)
            if (rows := [row for row in parts["cost"] if row["threads"] == threads])
        ]
        words = ", ".join(f"{100 * share:+.1f} %" for share in shares)
        bar("a timing takes longer when quiet", "at most 15 %", words, max(shares) <= 0.15)
    return bars


def quiet_ratios(rows: list[dict[str, Any]]) -> dict[tuple[str, int], float]:
    """The median quiet ratio of each pair and number of threads; of a file with itself it is 1."""
    found: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        found.setdefault((row["pair"], row["threads"]), []).append(row["ratio"])
    return {key: statistics.median(ratios) for key, ratios in found.items()}


def off(row: Mapping[str, Any], references: Mapping[tuple[str, int], float]) -> float:
    """How far a ratio is from the quiet one, as a share of it."""
    reference = 1.0 if row["pair"].endswith("twice") else references[row["pair"], row["threads"]]
    return abs(row["ratio"] / reference - 1)


def table(parts: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row for each kind of timing."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for part in ("quiet", "same", "busy", "free"):
        for row in parts.get(part, []):
            key = (part, row["pair"], row["threads"], row.get("neighbours", 0), row.get("pinned", False))
            groups.setdefault(key, []).append(row)
    references = quiet_ratios(parts.get("quiet", []))
    shown = []
    for (part, pair, threads, count, pinned), rows in groups.items():
        ratios = [row["ratio"] for row in rows]
        known = pair.endswith("twice") or (pair, threads) in references
        shown.append(
            {
                "part": part,
                "pair": pair,
                "threads": threads,
                "neighbours": count,
                "pinned": "yes" if pinned else "no",
                "timings": len(rows),
                "ratio": round(statistics.median(ratios), 3),
                "largest deviation, %": round(100 * max(off(row, references) for row in rows), 1)
                if known
                else None,
                "marked": sum(bool(row["marked"]) for row in rows),
                "no difference": sum(row["verdict"] == "no difference" for row in rows),
                "waited, baseline": round(statistics.median(row["baseline_waited"] or 0 for row in rows), 3),
                "waited, model": round(statistics.median(row["waited"] or 0 for row in rows), 3),
                "seconds": round(statistics.median(row["seconds"] for row in rows), 1),
            }
        )
    return shown


def wait_until_quiet(seconds: float) -> float | None:
    """Wait until nobody waits for a core (PSI, the last 10 s); the share at the end."""
    file = Path("/proc/pressure/cpu")
    if not file.is_file():
        return None
    deadline = time.monotonic() + seconds
    while True:
        share = float(file.read_text().split("avg10=")[1].split()[0]) / 100
        if share < 0.03 or time.monotonic() > deadline:
            return share
        time.sleep(2)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=list(PARTS))
    parser.add_argument("--again", action="store_true", help="forget what was done of these parts")
    parser.add_argument("--dry", action="store_true", help="everything at toy size; no report")
    parser.add_argument("--models", type=Path, default=Path.cwd() / ".compress" / "busy_machine")
    options = parser.parse_args()
    extent = DRY if options.dry else FULL
    folder = options.models / ("dry" if options.dry else "full")
    folder.mkdir(parents=True, exist_ok=True)
    pairs = pairs_of(options.models)
    parts: dict[str, list[dict[str, Any]]] = {}
    for name, part in PARTS.items():
        file = folder / f"{name}.json"
        asked = not options.part or name in options.part
        if asked and (options.again or not file.is_file()):
            share = wait_until_quiet(0 if options.dry else 90)
            if share is not None and share >= 0.03:
                print(
                    f"warning: this machine is not quiet: {share:.0%} of the time somebody waits for a core"
                )
            started = time.monotonic()
            rows = []
            for row in part(pairs, extent):
                rows.append(row)
                print(f"{name}: {json.dumps(row)}", flush=True)
            print(f"{name}: {len(rows)} timings in {time.monotonic() - started:.0f} s", flush=True)
            temporary = file.with_suffix(".tmp")
            temporary.write_text(json.dumps(rows))
            temporary.replace(file)
        if file.is_file():
            parts[name] = json.loads(file.read_text())
    bars = judged(parts)
    note = (
        "FP32 MiniLM (6 layers of 384) against an INT8 student (2 layers of 128), real lengths up to 128 tokens, "
        f"batch 1; the runner before: {BEFORE}.\n\n{markdown(bars)}"
    )
    if options.dry:
        print(f"{markdown(table(parts))}\n\n{note}")
        return 0
    write_rows("busy_machine", table(parts), note=note)
    return 0 if all(bar["held"] == "yes" for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
