"""Texts as token ids: tokenize them with an artifact's tokenizer, and pad them to batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.disk.reading import content_errors, read_mapping
from compress.core.errors import ModelError
from compress.encoding.inputs import Batch
from compress.models.text.text_format import TextFormat
from compress.models.text.tokenizer_files import open_tokenizer
from compress.store.flat import Ragged, RaggedWriter, blocks_of

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
TOKEN_TYPE_IDS = "token_type_ids"
KNOWN_INPUTS = (INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS)


@dataclass(frozen=True, eq=False)
class TokenInputs:
    """Token ids of one split, ragged.

    Attributes:
        ids: the ids of each example, int32 (length,), special tokens included, stored contiguously (from 16 MiB on in a
            memory-mapped temporary file); any sequence of id arrays may be passed.
        special_tokens: number of special tokens per example that the tokenizer adds (`[CLS]`, `[SEP]`).
    """

    ids: Sequence[NDArray[Any]]
    input_names: tuple[str, ...]
    pad_id: int
    special_tokens: int = 0
    lengths: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.ids, Ragged):
            object.__setattr__(self, "ids", Ragged.of(self.ids))
        object.__setattr__(self, "lengths", self.ragged.lengths)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ragged(self) -> Ragged:
        """The ids as a `Ragged` array."""
        assert isinstance(self.ids, Ragged)
        return self.ids

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the examples at `indices`, padded to the longest of them: int64 (len(indices), length) each."""
        ids, mask = self.ragged.padded(indices, self.pad_id)
        inputs = {
            INPUT_IDS: ids.astype(np.int64),
            ATTENTION_MASK: mask.astype(np.int64),
            TOKEN_TYPE_IDS: np.zeros(ids.shape, np.int64),
        }
        return {name: inputs[name] for name in self.input_names}

    def digest(self) -> str:
        """Return the sha256 of everything that is fed to a model: ids, lengths, input names and padding id."""
        digest = hashlib.sha256(repr((self.input_names, self.pad_id, len(self))).encode())
        digest.update(self.lengths.tobytes())
        for block in self.ragged.flat.blocks():
            digest.update(block.tobytes())
        return digest.hexdigest()


def encode_texts(texts: Sequence[str], tokenizer_file: Path, task_file: Path) -> TokenInputs:
    """Tokenize texts with an artifact's `tokenizer.json`, prepared and truncated as its `task.json` declares.

    Special tokens count towards `max_length`. The ids are not padded.

    Raises:
        ModelError: a file is missing or unreadable, or the model requires inputs that texts do not provide.
    """
    try:
        task = read_mapping(task_file)
        max_length = int(task["max_length"])
        input_names = tuple(task["input_names"])
        pad_id = int(task["pad_id"])
        text_format = TextFormat.of(task)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"cannot read the model's inputs: {error!r}", where=str(task_file)) from error
    unknown = [name for name in input_names if name not in KNOWN_INPUTS]
    if unknown:
        raise ModelError(
            f"the model needs the input {unknown[0]!r}; texts provide {', '.join(KNOWN_INPUTS)}",
            where=str(task_file),
        )
    tokenizer = open_tokenizer(tokenizer_file)
    special_tokens = tokenizer.num_special_tokens_to_add(is_pair=False)
    if not special_tokens < max_length < 2**31:
        raise ModelError(
            f"max_length {max_length} is not possible for texts with {special_tokens} special tokens",
            where=str(task_file),
        )
    tokenizer.enable_truncation(max_length, direction=text_format.truncation_side)
    tokenizer.no_padding()
    writer = RaggedWriter(np.int32)
    # In blocks, because the tokenizer's `Encoding` objects are far larger than the ids.
    for block in blocks_of(texts):
        # The fast variant skips character offsets, which are not needed.
        with content_errors("the tokenizer", str(tokenizer_file)):
            encodings = tokenizer.encode_batch_fast(text_format.preprocess(block))
            writer.add([encoding.ids for encoding in encodings])
    return TokenInputs(writer.finish(), input_names, pad_id, special_tokens)


def unknown_token_ratio(inputs: TokenInputs, unk_id: int) -> float:
    """Return the fraction of unknown tokens in the texts, ignoring special tokens; 0 if there are none."""
    tokens = int(inputs.lengths.sum()) - inputs.special_tokens * len(inputs)
    unknown = sum(int(np.count_nonzero(block == unk_id)) for block in inputs.ragged.flat.blocks())
    return unknown / tokens if tokens > 0 else 0.0
