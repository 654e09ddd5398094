"""What a bundle of a language model answers with, and what it is proved by."""

from __future__ import annotations

from pathlib import Path

from compress.bundles.answers import BundleAnswers, outputs
from compress.runtimes import decoding

_HERE = Path(__file__).parent

TEXTS = BundleAnswers(
    predict=_HERE / "predict.py",
    golden=outputs,
    tolerance=1e-3,
    quantized_tolerance=0.05,
    predictor=_HERE / "predictor.py",
    beside=(Path(decoding.__file__),),
)
"""The logits of some words after each prompt; a difference is a share of the largest of them."""
