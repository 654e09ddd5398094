"""What libraries would tell their makers is turned off in every process, before any of them is imported."""

from __future__ import annotations

OFF = {
    # onnxruntime calls its maker's collector, and keeps a database with a device's id and the names of models.
    "ORT_DISABLE_TELEMETRY": "1",
    # Of huggingface_hub, and so of transformers and datasets.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    # datasets counts what is opened.
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    # What others have agreed on (donottrack.sh).
    "DO_NOT_TRACK": "1",
}
"""Variables of the environment. `compress` sets them when it is imported, and in whatever it starts; the files that run
without this package (`runner.py`, `agent.py`) set that of onnxruntime themselves."""
