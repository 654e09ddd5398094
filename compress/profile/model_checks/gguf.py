"""Model family and tokenizer of a GGUF file, from its header alone."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from compress.core.pre_tokenization import RULES, rules_named
from compress.models.anatomy.table.family import Config

_MAGIC, _UINT32, _BOOL, _STRING, _ARRAY, _MAX_STRING_BYTES = b"GGUF", 4, 7, 8, 9, 256
_TYPE_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Size in bytes of a value, for the GGUF types of fixed size."""
_MODEL_TYPES = {"gemma3": "gemma3_text"}
"""Architecture names of llama.cpp that differ from those of transformers."""
_ENCODER_DECODERS = ("t5", "t5encoder", "umt5")
_END_TOKEN_KEYS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
_READ_KEYS = (
    "general.architecture",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.add_space_prefix",
    *_END_TOKEN_KEYS,
)
_BYTE_BPE, _SENTENCEPIECE_BPE = "gpt2", "llama"
"""llama.cpp's names of byte-level BPE, and of SentencePiece BPE."""


def header_fields(file: Path) -> dict[str, str]:
    """Return the model family and the tokenizer settings, by llama.cpp's keys, as far as they could be read.

    A boolean is `"true"`, or the empty string for false.
    """
    fields: dict[str, str] = {}
    try:
        with file.open("rb") as stream:
            fields.update(_iter_fields(stream))
    except (OSError, ValueError, OverflowError, struct.error):
        pass  # damaged files are reported where they are loaded
    return fields


def header_config(fields: Mapping[str, str]) -> Config | None:
    """Return the model family in the form of a transformers config; None if the header does not name it."""
    if (name := fields.get("general.architecture")) is None:
        return None
    return {"model_type": _MODEL_TYPES.get(name, name), "is_encoder_decoder": name in _ENCODER_DECODERS}


def pre_tokenization_of(fields: Mapping[str, str]) -> str | None:
    """Return the tokenizer's pre-tokenization as a key of `RULES`; None if unknown, or if it is no byte-level BPE."""
    if fields.get("tokenizer.ggml.model") != _BYTE_BPE:
        return None
    return rules_named(fields.get("tokenizer.ggml.pre", ""))


def is_sentencepiece(fields: Mapping[str, str]) -> bool:
    """Whether the tokenizer is a SentencePiece BPE: it merges characters in the order of the merged pieces' scores."""
    return fields.get("tokenizer.ggml.model") == _SENTENCEPIECE_BPE


def adds_space(fields: Mapping[str, str]) -> bool:
    """Whether such a tokenizer puts a space before each text; the default is True, as in llama.cpp."""
    return bool(fields.get("tokenizer.ggml.add_space_prefix", True))


def end_token_ids(fields: Mapping[str, str]) -> list[int]:
    """Return the ids of the tokens that end a generated text."""
    return [int(fields[key]) for key in _END_TOKEN_KEYS if key in fields]


def why_tokenizer_unsupported(fields: Mapping[str, str]) -> str | None:
    """Return why the file's tokenizer cannot be reproduced here; None if it can."""
    tokenizer_model = fields.get("tokenizer.ggml.model", _SENTENCEPIECE_BPE)
    if tokenizer_model not in (_BYTE_BPE, _SENTENCEPIECE_BPE):
        return (
            f"this GGUF file has a tokenizer of the kind {tokenizer_model!r} (`tokenizer.ggml.model`); "
            f"known: {_BYTE_BPE}, "
            f"{_SENTENCEPIECE_BPE}; name the folder that the file was made from"
        )
    if tokenizer_model == _SENTENCEPIECE_BPE or pre_tokenization_of(fields) is not None:
        return None
    rules = fields.get("tokenizer.ggml.pre")
    description = (
        "does not say how its tokenizer splits texts into words"
        if rules is None
        else f"splits texts into words by the rules {rules!r}"
    )
    return (
        f"this GGUF file {description} (`tokenizer.ggml.pre`), and other rules give other tokens; known: "
        f"{', '.join(RULES)}; name the folder that the file was made from"
    )


def _iter_fields(stream: BinaryIO) -> Iterator[tuple[str, str]]:
    if stream.read(4) != _MAGIC:
        return
    _, _, num_keys = struct.unpack("<IQQ", stream.read(4 + 8 + 8))  # version, tensors, keys
    for _ in range(num_keys):
        key, value_type = _read_string(stream), _read_number(stream, "<I")
        if key in _READ_KEYS and value_type == _STRING:
            yield key, _read_string(stream)
        elif key in _READ_KEYS and value_type == _BOOL:
            yield key, "true" if _read_number(stream, "<?") else ""
        elif key in _READ_KEYS and value_type == _UINT32:
            yield key, str(_read_number(stream, "<I"))
        elif value_type == _ARRAY:
            value_type, count = _read_number(stream, "<I"), _read_number(stream, "<Q")
            _skip_values(stream, value_type, count)
        else:
            _skip_values(stream, value_type, 1)


def _skip_values(stream: BinaryIO, value_type: int, count: int) -> None:
    if value_type in _TYPE_SIZES:
        stream.seek(_TYPE_SIZES[value_type] * count, 1)
    elif value_type == _STRING:
        for _ in range(count):
            stream.seek(_read_number(stream, "<Q"), 1)
    else:
        raise ValueError("no values are of this kind")


def _read_string(stream: BinaryIO) -> str:
    if (size := _read_number(stream, "<Q")) > _MAX_STRING_BYTES:
        raise ValueError("no name is so long")
    return stream.read(size).decode()


def _read_number(stream: BinaryIO, struct_format: str) -> int:
    return int(struct.unpack(struct_format, stream.read(struct.calcsize(struct_format)))[0])
