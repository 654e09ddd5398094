"""What the header of a GGUF file says of the model in it, read without anything else of the file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from compress.models.anatomy.table.family import Config

_MAGIC, _STRING, _LONGEST = b"GGUF", 8, 256
_FAMILIES = {"gemma3": "gemma3_text"}
"""What llama.cpp calls otherwise than transformers."""
_TRANSLATES = ("t5", "t5encoder", "umt5")


def header_config(file: Path) -> Config | None:
    """The family of the model, as a config names it; None where the file does not begin with it.

    Every writer puts `general.architecture` first.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(4) != _MAGIC:
                return None
            stream.read(4 + 8 + 8)  # version, tensors, keys
            key = _text(stream.read(8), stream.read)
            (kind,) = struct.unpack("<I", stream.read(4))
            if key != "general.architecture" or kind != _STRING:
                return None
            name = _text(stream.read(8), stream.read)
    except (OSError, ValueError, struct.error):
        return None  # damaged files are named where they are loaded
    return {"model_type": _FAMILIES.get(name, name), "is_encoder_decoder": name in _TRANSLATES}


def _text(length: bytes, read: Callable[[int], bytes]) -> str:
    (size,) = struct.unpack("<Q", length)
    if size > _LONGEST:
        raise ValueError("no name is so long")
    return read(size).decode()
