"""Classify texts with the model in this folder; needs onnxruntime, numpy and tokenizers, and nothing else.

    python predict.py "some text" ["another text" ...]
    python predict.py --json < one_text_a_line.txt

Prints the label of each text and its probability.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

from runner import Classifier, RunnerError, softmax  # type: ignore[import-not-found]  # noqa: E402


def main() -> int:
    """Read the command line, predict, print."""
    parser = argparse.ArgumentParser(description="Classify texts.")
    parser.add_argument(
        "texts", nargs="*", help="texts; without any, one is read from each line of the input"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a text, with every probability"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of one inference (1)")
    parser.add_argument("--model", default="model.onnx", help="file in this folder (model.onnx)")
    asked = parser.parse_args()
    texts = asked.texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        parser.error("no text given")
    try:
        classifier = Classifier(str(FOLDER), threads=asked.threads, model=asked.model)
    except (OSError, ValueError, RunnerError) as error:
        print(f"cannot load the model: {error}", file=sys.stderr)
        return 1
    for text in texts:
        row = softmax(classifier.logits([text]))[0]
        best = int(row.argmax())
        if asked.json:
            everything = {label: float(value) for label, value in zip(classifier.labels, row)}  # noqa: B905
            answer = {"text": text, "label": classifier.labels[best], "probability": float(row[best])}
            print(json.dumps({**answer, "probabilities": everything}, ensure_ascii=False))
        else:
            print(f"{classifier.labels[best]}\t{float(row[best]):.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
