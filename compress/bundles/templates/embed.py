"""Embed texts with the model in this folder; needs onnxruntime, numpy and tokenizers, and nothing else.

python predict.py "some text" ["another text" ...]       one JSON object a text, with its embedding
python predict.py --out FILE.npy < one_text_a_line.txt    all embeddings as one array, float32 (texts, width)
python predict.py --similar "some text" "another text"   the cosine of the two embeddings
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

# What Python would compile here is not in the manifest, and `compress verify` refuses what is not.
sys.dont_write_bytecode = True
FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

from runner import command, cosine, in_words, open_predictor  # type: ignore[import-not-found]  # noqa: E402


def write(path: Path, embeddings: Any) -> None:
    """Write the array as a whole or not at all; to what is no file, as /dev/stdout, as it is.

    Raises:
        OSError: it cannot be written.
    """
    # What a link leads to is replaced, not the link.
    path = Path(os.path.realpath(path)) if path.is_file() else path
    made = path if path.exists() and not path.is_file() else path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(made, "wb") as stream:
            np.save(stream, embeddings)
        if made != path:
            os.replace(made, path)
    finally:
        if made != path and made.exists():
            made.unlink()


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
    if asked.threads < 1:
        parser.error(f"argument --threads: expected 1 or more, not {asked.threads}")
    if not (FOLDER / asked.model).is_file():
        parser.error(f"argument --model: there is no {asked.model} in this folder")
    try:
        encoder = open_predictor(str(FOLDER), threads=asked.threads, model=asked.model)
    except Exception as error:  # noqa: BLE001 (each library has errors of its own for a damaged file)
        print(f"cannot load the model: {in_words(error)}", file=sys.stderr)
        return 1
    made = []
    for text in texts:
        try:
            # One by one: an integer model's scales follow the whole batch, so neighbours would change an embedding.
            made.append(encoder.outputs([text])[0])
        except Exception as error:  # noqa: BLE001 (as above)
            print(f"the model failed: {in_words(error)}", file=sys.stderr)
            return 1
        if not (asked.out or asked.similar):
            values = [float(value) for value in made.pop()]
            print(json.dumps({"text": text, "embedding": values}, ensure_ascii=False))
    if asked.similar:
        print(f"{cosine(*made):.4f}")
    if asked.out:
        try:
            write(Path(asked.out), np.stack(made))
        except OSError as error:
            print(f"cannot write {asked.out}: {error.strerror or error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
