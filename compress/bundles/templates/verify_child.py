"""Run the golden examples of a bundle with the bundle's own code: python -I verify_child.py BUNDLE MODEL.

Prints {"examples": n, "modules": [...], "problems": [...]} as JSON. Imports of what a deployment does not have fail.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FORBIDDEN = ("torch", "transformers", "compress", "onnx")


class ImportBlocker:
    """An import hook: the bundle must do without these packages."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Fail on a forbidden package, leave every other to the next finder."""
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"a bundle must run without {name}")


def problem_of(output: Any, example: dict[str, Any], labels: list[str], tolerance: float) -> str | None:
    """What is wrong with the output of a golden example."""
    from runner import cosine, softmax  # type: ignore[import-not-found]

    if "outputs" in example:
        expected_outputs = np.array(example["outputs"], np.float32).reshape(example["shape"])
        if output.shape != expected_outputs.shape:
            return f"outputs of the shape {output.shape} instead of {expected_outputs.shape}"
        relative_error = float(abs(output - expected_outputs).max() / abs(expected_outputs).max())
        # Written so that what is not a number is wrong too.
        return (
            None
            if relative_error <= tolerance
            else f"outputs differ by {relative_error:.3g} of the largest, allowed are {tolerance:.3g}"
        )
    embeds = "embedding" in example
    expected = np.array(example["embedding" if embeds else "probabilities"], np.float32)
    if output.shape != expected.shape:
        return f"{len(output)} outputs instead of {len(expected)}"
    if embeds:
        distance = 1 - cosine(output, expected)
        # Written so that what is not a number is wrong too.
        return (
            None
            if distance <= tolerance
            else f"the cosine is {distance:.3g} below 1, allowed are {tolerance:.3g}"
        )
    probabilities = softmax(output)
    max_difference = float(abs(probabilities - expected).max())
    if not max_difference <= tolerance:
        return f"probabilities differ by {max_difference:.3g}, allowed are {tolerance:.3g}"
    best = int(probabilities.argmax())
    if labels[best] != example["label"] and expected.max() - expected[best] > tolerance:
        return f"label {labels[best]!r}"
    return None


def main(bundle: str, model: str) -> None:
    """Compare every golden example."""
    sys.meta_path.insert(0, ImportBlocker())
    sys.path.insert(0, bundle)
    from runner import open_predictor

    golden = json.loads((Path(bundle) / "golden.json").read_text(encoding="utf-8"))
    predictor = open_predictor(bundle, model=model)
    problems = []
    for number, example in enumerate(golden["examples"]):
        item = example["text"] if "text" in example else str(Path(bundle) / example["image"])
        output = predictor.outputs([item])[0]
        problem = problem_of(output, example, predictor.labels, golden["tolerance"])
        if problem:
            problems.append(f"{model}: golden example {number}: {problem}")
    modules = sorted(name for name in FORBIDDEN if name in sys.modules)
    print(json.dumps({"examples": len(golden["examples"]), "modules": modules, "problems": problems}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
