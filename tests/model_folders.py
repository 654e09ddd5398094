"""Folders of models as the files of a config, a tokenizer and weights, written without torch: for what reads files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

TOKENIZERS: dict[str, dict[str, Any]] = {
    "WordPiece": {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"},
    "BPE": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
    "Unigram": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.0]], "unk_id": 0},
}
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 130}


def write_model_folder(
    folder: Path, kind: str = "bert", tokenizer: str | None = "WordPiece", **config: Any
) -> Path:
    """A folder with `config.json`, `tokenizer.json` and `model.safetensors`."""
    folder.mkdir(parents=True)
    body = {"model_type": kind, "architectures": ["SomeModel"], "vocab_size": 9, **SIZES, **config}
    (folder / "config.json").write_text(json.dumps(body))
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(json.dumps({"model": TOKENIZERS[tokenizer]}))
    save_file(
        {"weight": np.zeros(3, np.float32), "bias": np.zeros(1, np.float32)}, folder / "model.safetensors"
    )
    return folder
