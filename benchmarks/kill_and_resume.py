"""Kill a run with SIGKILL at random moments, start it again each time, and compare its report with an undisturbed one.

    python benchmarks/kill_and_resume.py [PROFILE] [--kills 10] [--seed 0]

Writes reports/benchmarks/kill_and_resume.json and .md. Exits 1 where the two reports differ in anything but timings.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from writing import write_rows

STABLE = ("step", "role", "score", "retention", "size_mb", "parameters", "macs", "artifact")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile", nargs="?", default="profiles/bert_to_tiny.yaml")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    options = parser.parse_args()
    profile = str(Path(options.profile).absolute())
    command = [sys.executable, "-m", "compress", "run", profile, "--quiet"]
    for assignment in options.assignments:
        command += ["--set", assignment]
    with tempfile.TemporaryDirectory() as undisturbed, tempfile.TemporaryDirectory() as disturbed:
        began = time.monotonic()
        run_to_the_end(command, undisturbed)
        seconds = time.monotonic() - began
        moments = kill_at_random_moments(
            command, disturbed, options.kills, seconds, random.Random(options.seed)
        )
        run_to_the_end(command, disturbed)
        first, second = (stable_rows(folder) for folder in (undisturbed, disturbed))
    rows = [
        {
            "kill": number,
            "seconds_after_start": round(moment, 2),
            "finished_steps_at_kill": steps,
            "children_left": left,
        }
        for number, (moment, steps, left) in enumerate(moments, start=1)
    ]
    same = first == second
    note = f"{len(moments)} kills; final reports {'equal' if same else 'DIFFERENT'}; undisturbed run {seconds:.0f} s"
    write_rows("kill_and_resume", rows, note=note)
    if not same:
        print(json.dumps({"undisturbed": first, "disturbed": second}, indent=2))
    return 0 if same and not any(left for _, _, left in moments) else 1


def run_to_the_end(command: list[str], folder: str) -> None:
    """Run in `folder`; a missed budget (3) is an end too."""
    result = subprocess.run(command, cwd=folder, env=environment(folder), check=False)
    if result.returncode not in (0, 3):
        raise SystemExit(f"the run ended with exit code {result.returncode}")


def kill_at_random_moments(
    command: list[str], folder: str, kills: int, seconds: float, random_: random.Random
) -> list[tuple[float, int, int]]:
    """Start and kill `kills` times; the moments are spread so that the kills together cover the whole run."""
    moments = []
    for _ in range(kills):
        moment = random_.uniform(1.0, max(2.0, 2.2 * seconds / kills))
        process = subprocess.Popen(
            command, cwd=folder, env=environment(folder), start_new_session=True, stdout=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=moment)
            break  # it came to its end before the kill
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        time.sleep(0.5)
        finished = len(list(Path(folder, "cache", "artifacts").glob("*/artifact.json")))
        moments.append((moment, finished, len(members_of_session(process.pid))))
        print(f"killed after {moment:.1f} s with {finished} steps finished", flush=True)
    return moments


def members_of_session(session: int) -> list[int]:
    """Living processes of a session: the children that outlived their parent."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended while we looked
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def stable_rows(folder: str) -> list[dict[str, object]]:
    """The rows of the report without what is timed."""
    (report,) = Path(folder, "reports").glob("*/report.json")
    return [{name: row[name] for name in STABLE} for row in json.loads(report.read_text())["rows"]]


def environment(folder: str) -> dict[str, str]:
    return {**os.environ, "COMPRESS_CACHE": str(Path(folder, "cache"))}


if __name__ == "__main__":
    sys.exit(main())
