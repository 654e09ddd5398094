"""Embed texts with the model in this folder; needs onnxruntime, numpy and tokenizers, and nothing else.

python predict.py "some text" ["another text" ...]       one JSON object a text, with its embedding
python predict.py --out FILE.npy < one_text_a_line.txt    all embeddings as one array, float32 (texts, width)
python predict.py --similar "some text" "another text"   the cosine of the two embeddings
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

# What Python would compile here is not in the manifest, and `compress verify` refuses what is not.
sys.dont_write_bytecode = True
FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

from runner import RunnerError, open_predictor  # type: ignore[import-not-found]  # noqa: E402


def main() -> int:
    """Read the command line, embed, print or write."""
    parser = argparse.ArgumentParser(description="Embed texts.")
    parser.add_argument(
        "texts", nargs="*", help="texts; without any, one is read from each line of the input"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object a text; so it does anyway")
    form.add_argument("--out", metavar="FILE.npy", help="write all embeddings to this file instead")
    form.add_argument("--similar", action="store_true", help="print the cosine of two texts instead")
    parser.add_argument("--threads", type=int, default=1, help="threads of one inference (1)")
    parser.add_argument("--model", default="model.onnx", help="file in this folder (model.onnx)")
    asked = parser.parse_args()
    texts = asked.texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        parser.error("no text given")
    if asked.similar and len(texts) != 2:
        parser.error(f"--similar compares two texts; {len(texts)} given")
    if not (FOLDER / asked.model).is_file():
        parser.error(f"argument --model: there is no {asked.model} in this folder")
    try:
        encoder = open_predictor(str(FOLDER), threads=asked.threads, model=asked.model)
    except (OSError, ValueError, RunnerError) as error:
        print(f"cannot load the model: {error}", file=sys.stderr)
        return 1
    if asked.similar:
        print(f"{encoder.similarity(*texts):.4f}")
        return 0
    # One by one: an integer model's scales follow the whole batch, so neighbours would change an embedding.
    embeddings = (encoder.outputs([text])[0] for text in texts)
    if asked.out:
        with open(asked.out, "wb") as stream:
            np.save(stream, np.stack(list(embeddings)))
        return 0
    for text, embedding in zip(texts, embeddings):  # noqa: B905
        print(
            json.dumps({"text": text, "embedding": [float(value) for value in embedding]}, ensure_ascii=False)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
