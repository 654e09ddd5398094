"""File names and format version of a bundle."""

from __future__ import annotations

from pathlib import Path

MANIFEST = "manifest.json"
CARD = "README.md"
LABELS = "labels.json"
GOLDEN = "golden.json"
GOLDEN_IMAGES = "golden"
OPERATORS = "required_operators_and_types.config"
PREDICT = "predict.py"
PREDICTOR = "predictor.py"
RUNNER = "runner.py"
FORMAT = 2
"""Version of the layout: 2 added bundles for images and sentence embeddings."""

TEMPLATES = Path(__file__).parent / "templates"
