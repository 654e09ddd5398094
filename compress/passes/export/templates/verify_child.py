"""Run the golden examples of a bundle with the bundle's own code: python -I verify_child.py BUNDLE MODEL.

Prints {"examples": n, "modules": [...], "problems": [...]} as JSON. Imports of what a deployment does not have fail.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

FORBIDDEN = ("torch", "transformers", "compress", "onnx")


class Refuse:
    """An import hook: the bundle must do without these packages."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Fail on a forbidden package, leave every other to the next finder."""
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"a bundle must run without {name}")


def main(bundle: str, model: str) -> None:
    """Compare every golden example."""
    sys.meta_path.insert(0, Refuse())
    sys.path.insert(0, bundle)
    from runner import Classifier, softmax  # type: ignore[import-not-found]

    golden = json.loads((Path(bundle) / "golden.json").read_text(encoding="utf-8"))
    classifier = Classifier(bundle, model=model)
    problems = []
    for number, example in enumerate(golden["examples"]):
        row = softmax(classifier.logits([example["text"]]))[0]
        expected = example["probabilities"]
        furthest = max(abs(float(got) - wanted) for got, wanted in zip(row, expected))  # noqa: B905
        if len(row) != len(expected) or not furthest <= golden["tolerance"]:
            problems.append(
                f"{model}: golden example {number}: probabilities differ by {furthest:.3g}, "
                f"allowed are {golden['tolerance']:.3g}"
            )
        elif classifier.labels[int(row.argmax())] != example["label"] and (
            max(expected) - expected[int(row.argmax())] > golden["tolerance"]
        ):
            problems.append(
                f"{model}: golden example {number}: label {classifier.labels[int(row.argmax())]!r}"
            )
    modules = sorted(name for name in FORBIDDEN if name in sys.modules)
    print(json.dumps({"examples": len(golden["examples"]), "modules": modules, "problems": problems}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
