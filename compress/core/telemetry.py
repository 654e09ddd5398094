"""Environment variables that disable the telemetry of libraries, set in every process before they are imported."""

from __future__ import annotations

TELEMETRY_OFF = {
    # onnxruntime sends telemetry to its vendor and keeps a database with a device id and the names of models.
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub, and through it transformers and datasets.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    # datasets counts the data sets that are opened.
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    # The convention of donottrack.sh.
    "DO_NOT_TRACK": "1",
}
"""Environment variables that `compress` sets on import and in the processes that it starts; the files that run without
this package (`runner.py`, `agent.py`) set the one for onnxruntime themselves."""
