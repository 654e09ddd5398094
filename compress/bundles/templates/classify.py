"""Classify with the model in this folder; the README beside says what to install.

    python predict.py INPUT [INPUT ...]      an input is a text, or an image file if the model is one of images
    python predict.py --json < one_input_a_line.txt

Prints the label of each input and its probability.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

# What Python would compile here is not in the manifest, and `compress verify` refuses what is not.
sys.dont_write_bytecode = True
FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

from runner import (  # type: ignore[import-not-found]  # noqa: E402
    RunnerError,
    command,
    in_words,
    open_predictor,
    softmax,
)


def main() -> int:
    """Read the command line, predict, print."""
    parser = argparse.ArgumentParser(description="Classify texts or images.")
    parser.add_argument(
        "inputs", nargs="*", help="texts or image files; without any, one is read from each line of the input"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object each, with every probability"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of one inference (1)")
    parser.add_argument("--model", default="model.onnx", help="file in this folder (model.onnx)")
    asked = parser.parse_args()
    inputs = asked.inputs or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not inputs:
        parser.error("no input given")
    if asked.threads < 1:
        parser.error(f"argument --threads: expected 1 or more, not {asked.threads}")
    if not (FOLDER / asked.model).is_file():
        parser.error(f"argument --model: there is no {asked.model} in this folder")
    try:
        classifier = open_predictor(str(FOLDER), threads=asked.threads, model=asked.model)
    except Exception as error:  # noqa: BLE001 (each library has errors of its own for a damaged file)
        print(f"cannot load the model: {in_words(error)}", file=sys.stderr)
        return 1
    kind = "image" if "image" in classifier.task else "text"
    for given in inputs:
        try:
            row = softmax(classifier.outputs([given]))[0]
        except RunnerError as error:
            print(error, file=sys.stderr)
            return 1
        except Exception as error:  # noqa: BLE001 (as above)
            print(f"the model failed: {in_words(error)}", file=sys.stderr)
            return 1
        best = int(row.argmax())
        if asked.json:
            everything = {label: float(value) for label, value in zip(classifier.labels, row)}  # noqa: B905
            answer = {kind: given, "label": classifier.labels[best], "probability": float(row[best])}
            print(json.dumps({**answer, "probabilities": everything}, ensure_ascii=False))
        else:
            print(f"{classifier.labels[best]}\t{float(row[best]):.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
