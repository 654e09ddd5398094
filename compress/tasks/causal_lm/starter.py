"""Profile template of `compress init` for language models."""

from __future__ import annotations

from collections.abc import Iterator

from compress.starter.detection import Detected
from compress.starter.lines import FORMAT_KEYS, SPLIT_KEYS, key_line
from compress.starter.outline import Outline

DATA = """\
data:
  # A csv, jsonl or parquet file, a folder of text files, package://name/folder, or a data set of the hub.
"""
TEACHER = """\

teacher:
  # A folder with config.json, safetensors and a tokenizer; a GGUF file; a model of the hub; or
  # python:module:function, which returns (model, tokenizer) and needs --allow-code.
"""


_LENGTH = 512
"""Tokens per window, if the model accepts as many."""


def data_keys(detected: Detected) -> Iterator[str]:
    """Yield the columns, how files are read, and the window length."""
    columns = detected.language_columns
    if columns.messages is not None:
        yield key_line(
            "messages_column", columns.messages, "", "conversations; what the assistant says is learnt"
        )
    elif columns.prompted is not None:
        yield key_line("prompt_column", columns.prompted[0], "", "the column of prompts")
        yield key_line(
            "completion_column", columns.prompted[1], "", "the column of what is learnt: their completions"
        )
    else:
        yield key_line("text_column", columns.text, "text", "the column that holds the text")
        yield "  # prompt_column: prompt         # instead: prompts, and the completions that are learnt\n"
        yield "  # completion_column: completion\n"
        yield "  # messages_column: messages     # instead: conversations; what the assistant says is learnt\n"
    yield SPLIT_KEYS + FORMAT_KEYS
    length = min(_LENGTH, detected.model.max_tokens or _LENGTH)
    yield f"  max_length: {length:<18}# tokens of a window; longer texts are cut into several\n"


def teacher_keys(detected: Detected) -> Iterator[str]:
    """Yield whether the model is fine-tuned on the texts first."""
    yield "  # Delete this line to leave it as it is. `lora: {rank: 16}` among its keys trains adapters alone, with\n"
    yield "  # less memory; `pack: true` puts short texts side by side.\n"
    yield "  finetune: {epochs: 1, learning_rate: 1.0e-4, batch_size: 4}\n"


STARTER = Outline(DATA, data_keys, TEACHER, teacher_keys, lambda found: iter(()), "0.9")
