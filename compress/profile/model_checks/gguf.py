"""Model family and tokenizer of a GGUF file, from its header alone."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from compress.core.pre_tokenization import RULES, rules_named
from compress.models.anatomy.table.family import Config

_MAGIC, _WHOLE, _BOOL, _STRING, _ARRAY, _LONGEST = b"GGUF", 4, 7, 8, 9, 256
_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Size in bytes of a value, for the GGUF types of fixed size."""
_FAMILIES = {"gemma3": "gemma3_text"}
"""Architecture names of llama.cpp that differ from those of transformers."""
_TRANSLATES = ("t5", "t5encoder", "umt5")
_ENDS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
_READ = (
    "general.architecture",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.add_space_prefix",
    *_ENDS,
)
_BYTES_JOINED, _LETTERS_JOINED = "gpt2", "llama"
"""llama.cpp's names of byte-level BPE, and of SentencePiece BPE."""


def header_fields(file: Path) -> dict[str, str]:
    """Return the model family and the tokenizer settings, by llama.cpp's keys, as far as they could be read.

    A boolean is `"true"`, or the empty string for false.
    """
    found: dict[str, str] = {}
    try:
        with file.open("rb") as stream:
            found.update(_fields(stream))
    except (OSError, ValueError, OverflowError, struct.error):
        pass  # damaged files are reported where they are loaded
    return found


def header_config(fields: Mapping[str, str]) -> Config | None:
    """Return the model family in the form of a transformers config; None if the header does not name it."""
    if (name := fields.get("general.architecture")) is None:
        return None
    return {"model_type": _FAMILIES.get(name, name), "is_encoder_decoder": name in _TRANSLATES}


def pre_tokenization_of(fields: Mapping[str, str]) -> str | None:
    """Return the tokenizer's pre-tokenization as a key of `RULES`; None if unknown, or if it is no byte-level BPE."""
    if fields.get("tokenizer.ggml.model") != _BYTES_JOINED:
        return None
    return rules_named(fields.get("tokenizer.ggml.pre", ""))


def is_sentencepiece(fields: Mapping[str, str]) -> bool:
    """Whether the tokenizer is a SentencePiece BPE: it merges characters in the order of the merged pieces' scores."""
    return fields.get("tokenizer.ggml.model") == _LETTERS_JOINED


def adds_space(fields: Mapping[str, str]) -> bool:
    """Whether such a tokenizer puts a space before each text; the default is True, as in llama.cpp."""
    return bool(fields.get("tokenizer.ggml.add_space_prefix", True))


def end_token_ids(fields: Mapping[str, str]) -> list[int]:
    """Return the ids of the tokens that end a generated text."""
    return [int(fields[key]) for key in _ENDS if key in fields]


def why_not_cut(fields: Mapping[str, str]) -> str | None:
    """Return why the file's tokenizer cannot be reproduced here; None if it can."""
    kind = fields.get("tokenizer.ggml.model", _LETTERS_JOINED)
    if kind not in (_BYTES_JOINED, _LETTERS_JOINED):
        return (
            f"this GGUF file has a tokenizer of the kind {kind!r} (`tokenizer.ggml.model`); known: {_BYTES_JOINED}, "
            f"{_LETTERS_JOINED}; name the folder that the file was made from"
        )
    if kind == _LETTERS_JOINED or pre_tokenization_of(fields) is not None:
        return None
    said = fields.get("tokenizer.ggml.pre")
    how = (
        "does not say how its tokenizer splits texts into words"
        if said is None
        else f"splits texts into words by the rules {said!r}"
    )
    return (
        f"this GGUF file {how} (`tokenizer.ggml.pre`), and other rules give other tokens; known: "
        f"{', '.join(RULES)}; name the folder that the file was made from"
    )


def _fields(stream: BinaryIO) -> Iterator[tuple[str, str]]:
    if stream.read(4) != _MAGIC:
        return
    _, _, keys = struct.unpack("<IQQ", stream.read(4 + 8 + 8))  # version, tensors, keys
    for _ in range(keys):
        key, kind = _text(stream), _number(stream, "<I")
        if key in _READ and kind == _STRING:
            yield key, _text(stream)
        elif key in _READ and kind == _BOOL:
            yield key, "true" if _number(stream, "<?") else ""
        elif key in _READ and kind == _WHOLE:
            yield key, str(_number(stream, "<I"))
        elif kind == _ARRAY:
            kind, count = _number(stream, "<I"), _number(stream, "<Q")
            _skip(stream, kind, count)
        else:
            _skip(stream, kind, 1)


def _skip(stream: BinaryIO, kind: int, count: int) -> None:
    if kind in _BYTES:
        stream.seek(_BYTES[kind] * count, 1)
    elif kind == _STRING:
        for _ in range(count):
            stream.seek(_number(stream, "<Q"), 1)
    else:
        raise ValueError("no values are of this kind")


def _text(stream: BinaryIO) -> str:
    if (size := _number(stream, "<Q")) > _LONGEST:
        raise ValueError("no name is so long")
    return stream.read(size).decode()


def _number(stream: BinaryIO, form: str) -> int:
    return int(struct.unpack(form, stream.read(struct.calcsize(form)))[0])
