"""How bundles of language models predict, and what they are verified by."""

from __future__ import annotations

from pathlib import Path

from compress.bundles.answers import BundleCode, outputs
from compress.runtimes import decoding

_HERE = Path(__file__).parent

TEXTS = BundleCode(
    predict=_HERE / "predict.py",
    golden=outputs,
    tolerance=1e-3,
    quantized_tolerance=0.05,
    predictor=_HERE / "predictor.py",
    modules=(Path(decoding.__file__),),
)
"""The logits of some tokens after each prompt; the tolerance is relative to the largest of them."""
