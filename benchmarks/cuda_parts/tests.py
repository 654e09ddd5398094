"""The tests that are marked `gpu`, as pytest runs them."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as Xml

from cuda_parts.part import ROOT, Part, installed


def run(part: Part) -> None:
    installed("pytest", "hypothesis")
    files = [
        str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in file.read_text()
    ]
    results = part.work / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", str(results)]
    if part.dry:
        command += ["--collect-only"]
    else:
        # The first test of a process waits for torch and transformers: that is most of the time.
        command += [
            *(["-n", "6"] if has("xdist") else []),
            *(["--timeout", "90"] if has("pytest_timeout") else []),
        ]
    done = subprocess.run(
        [*command, "-m", "gpu", *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr, sep="\n")
    if part.dry:
        part.tell(test=f"{done.stdout.count('::')} tests", result="found, not run")
        return
    for case in Xml.parse(results).getroot().iter("testcase"):
        outcome = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        part.tell(
            test=f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}",
            result="passed" if outcome is None else f"{outcome.tag}: {(outcome.get('message') or '')[:160]}",
            seconds=round(float(case.get("time", 0)), 1),
        )


def has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
