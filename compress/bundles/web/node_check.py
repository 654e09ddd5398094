"""Run a page's model with node and the page's own files before the page is published."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compress.bundles.web.examples import PageExamples
from compress.bundles.web.packages import RUNTIME, pinned_package
from compress.core.disk.files import discard, write_json
from compress.core.errors import ModelError

_SCRIPT = Path(__file__).with_name("page") / "trial.mjs"
_TIMEOUT_S = 600
_MISSING_OPERATOR = (
    re.compile(r"([\w.]+(?::\w+)?)\(-?\d+\) is not a registered function/op"),
    re.compile(r"Could not find an implementation for (\w+)\(\d+\)"),
)
"""Messages of onnxruntime for an operator that is unknown or has no kernel."""


@dataclass(frozen=True)
class Trial:
    """Result of a trial: number of examples, and the largest difference of their outputs from Python's.

    The difference is that of a probability, of the cosine from 1, or of a logit relative to the largest.
    """

    examples: int
    max_difference: float


def try_page(folder: Path, examples: PageExamples) -> Trial | None:
    """Run the examples with node; None if node is not installed.

    Raises:
        ModelError: an operator is missing, a text is tokenized differently than in Python, or outputs differ.
    """
    node = shutil.which("node")
    if node is None:
        return None
    request_file = folder / ".trial.json"
    write_json(request_file, asdict(examples))
    try:
        command = [node, str(_SCRIPT), str(folder), str(request_file)]
        process = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"the model did not answer within {_TIMEOUT_S} s", where=_runtime_name()) from error
    finally:
        discard(request_file)
    if process.returncode != 0:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"the page could not be tried: {last}", where="node")
    result = json.loads(process.stdout.strip().splitlines()[-1])
    if result["problems"]:
        raise ModelError(problem_text(result["problems"][0], examples.tolerance), where=_runtime_name())
    return Trial(len(examples.outputs), result["furthest"])


def problem_text(problem: Mapping[str, Any], tolerance: float) -> str:
    """Describe a problem for the user."""
    if problem["kind"] == "tokens":
        return (
            f"the text {problem['text']!r} has the tokens {problem['found']}, but {problem['ids']} in Python: "
            "a browser cannot run this tokenizer faithfully"
        )
    if problem["kind"] == "text":
        return (
            f"the tokens {problem['ids']} decode to {problem['text']!r}, but to {problem['decoded']!r} in Python: "
            "a browser cannot run this tokenizer faithfully"
        )
    if problem["kind"] == "pixels":
        return (
            f"the pixel values of example {problem['place']} differ by up to {problem['apart']:.3g} from Python's: a "
            "browser does not resize images the way this model needs"
        )
    if problem["kind"] == "outputs":
        return f"example {problem['place']} differs by {problem['apart']:.3g} from Python's; limit: {tolerance:.3g}"
    for pattern in _MISSING_OPERATOR:
        if match := pattern.search(problem["message"]):
            return f"it lacks the operator {match[1]}, which the model uses"
    return f"it rejects the model: {problem['message']}"


def _runtime_name() -> str:
    return f"{RUNTIME} {pinned_package(RUNTIME).version}"
