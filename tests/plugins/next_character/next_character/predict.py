"""Goes on with a text, character by character: python predict.py "some text" """

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.dont_write_bytecode = True
FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

from runner import open_predictor  # noqa: E402

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Goes on with texts.")
    parser.add_argument("texts", nargs="+")
    asked = parser.parse_args()
    predictor = open_predictor(str(FOLDER))
    for text in asked.texts:
        print(text + predictor.following(text))
