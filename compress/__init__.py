"""Distil, prune, quantize, export and measure a trained model on the device it will run on.

`compress.load_model(folder)` reads the model of any torch-form folder that `compress` wrote, also one that is pruned or
factored in ways that its config cannot say, where `from_pretrained` of transformers does not serve.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from compress.core.telemetry import OFF

if TYPE_CHECKING:
    from torch import nn

__version__ = "0.1.0"

# Here, for nothing of this package is imported before.
os.environ.update(OFF)


def load_model(folder: str | os.PathLike[str], *, allow_code: bool = False) -> nn.Module:
    """The model of a folder with `model.safetensors`, in float32 and eval mode, ready to predict or to train on.

    Args:
        folder: an artifact of a pass: `config.json` or `module.json`, and `structure.json` where the model is pruned or
            factored in ways that those do not say.
        allow_code: whether the Python code that a `module.json` of the folder names may run.

    Raises:
        UsageError: the model is made by code, and that is not allowed.
        ModelError: a file is missing or damaged, or a weight does not fit.
    """
    # Imported here: everything that does not train answers without torch.
    from pathlib import Path

    from compress.models.io.checkpoints import load_model as load

    return load(Path(folder), allow_code=allow_code)
