"""What a bundle of this task predicts with, and what it is proved by."""

from __future__ import annotations

from pathlib import Path

from compress.bundles.answers import BundleCode, outputs

CHARACTERS = BundleCode(
    predict=Path(__file__).with_name("predict.py"),
    golden=outputs,
    tolerance=1e-4,
    quantized_tolerance=0.05,
    predictor=Path(__file__).with_name("predictor.py"),
)
