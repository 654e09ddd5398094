"""Measure a file against itself, again and again: every verdict must be 'no difference'.

    python benchmarks/same_file_twice.py PROFILE [--times 10]

The profile must have been run in this folder: its baseline and its deployed model are taken from the cache. Writes
reports/benchmarks/same_file_twice.json and .md; exits 1 where a file differs from itself.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from writing import write_rows

from compress.core.errors import UsageError
from compress.core.terminal.progress import SilentProgress
from compress.engine.resolve import resolve_job
from compress.measuring.artifact import measure
from compress.profile.load import load_profile
from compress.store.cache import Cache


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile", type=Path)
    parser.add_argument("--times", type=int, default=10)
    options = parser.parse_args()
    job = resolve_job(load_profile(options.profile), allow_code=False)
    cache = Cache.default()
    rows = []
    for row in (job.plan.rows[0], job.plan.rows[-1]):
        for target in job.targets:
            made = cache.find(job.keys[row.measured[target.spec.runtime]])
            if made is None:
                raise UsageError(f"{row.name} is not in the cache", hint="Run the profile here first.")
            found = [
                measure(
                    made.artifact, made.artifact, None, target, job.task, job.splits.test, job.plan.profile.measure,
                    seed=seed, key="", progress=SilentProgress(),
                ).latency
                for seed in range(options.times)
            ]  # fmt: skip
            for place, first in enumerate(found[0]):
                ratios = [latency[place].speedup for latency in found]
                verdicts = [latency[place].verdict for latency in found]
                rows.append(
                    {
                        "file": row.name,
                        "target": target.label,
                        "batch": first.batch_size,
                        "measurements": len(ratios),
                        "no difference": verdicts.count("no difference"),
                        "least ratio": round(min(ratios), 4),
                        "median ratio": round(statistics.median(ratios), 4),
                        "largest ratio": round(max(ratios), 4),
                    }
                )
    write_rows("same_file_twice", rows, note=f"profile {options.profile.name}")
    return 0 if all(row["no difference"] == row["measurements"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
