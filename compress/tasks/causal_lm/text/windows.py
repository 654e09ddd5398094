"""Cut texts into windows of tokens: each token is trained on and scored once, with the preceding ones of its window."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.artifacts import TASK, TOKENIZER
from compress.core.disk.files import sha256_file
from compress.core.disk.reading import content_errors, read_mapping
from compress.core.errors import DataError, ModelError
from compress.data.splits import Examples, item_content
from compress.encoding.inputs import LOSS_MASK, Batch
from compress.encoding.tokens import TokenInputs
from compress.models.text.chat import PromptFormat
from compress.models.text.parts import encode_parts
from compress.models.text.tokenizer_files import open_without_truncation
from compress.store.flat import Ragged, RaggedWriter, blocks_by_characters
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.text.documents import pieces_of

DOCUMENT = "beside.document"
"""Batch key, int64 (windows,): index of the example that a window belongs to."""
BYTES = "beside.bytes"
"""Batch key, int64 (windows,): number of UTF-8 bytes of a window's scored tokens."""
COMPARED = "beside.compared"
"""Batch key, int64 (windows, places): token positions compared with the baseline's distribution, padded with -1."""
TOP_TOKENS, TOP_LOGS = "beside.top_words", "beside.top_logs"
"""Batch keys, (windows, places, k): the baseline's most likely tokens at these positions, and log-probabilities."""
MOST_COMPARED = 8192
"""Approximate maximum number of compared tokens, spread evenly over the windows."""

BLOCK_CHARACTERS = 1 << 18
"""Number of characters of texts tokenized at once: the tokenizer's own objects take hundreds of bytes per token."""


@dataclass(frozen=True, eq=False)
class WindowInputs(TokenInputs):
    """Ragged windows of tokens of one split.

    `target_mask`: int32 (length,) for each window, 1 where a token is scored. `documents`, `target_bytes`: int64 (n,),
    the example and the bytes of its scored tokens. `comparison`: further arrays of a batch, (n, ...) each.
    """

    target_mask: Ragged = field(kw_only=True)
    documents: NDArray[np.int64] = field(kw_only=True)
    target_bytes: NDArray[np.int64] = field(kw_only=True)
    comparison: Mapping[str, NDArray[Any]] = field(default_factory=dict, kw_only=True)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the windows at `indices`, right-padded to the longest of them, with the scorer's additional inputs."""
        window_indices = np.asarray(indices, np.int64)
        target_mask, _ = self.target_mask.padded(indices, 0)
        extra = {
            LOSS_MASK: target_mask.astype(np.int64),
            DOCUMENT: self.documents[window_indices],
            BYTES: self.target_bytes[window_indices],
        }
        return (
            super().batch(indices)
            | extra
            | {name: rows[window_indices] for name, rows in self.comparison.items()}
        )

    def against(self, reference: Mapping[str, NDArray[Any]] | None) -> WindowInputs:
        """Return these windows with the data for comparing the distributions of their tokens.

        Args:
            reference: what was kept of the baseline's outputs; None: these are the baseline's windows.
        """
        positions = self._comparison_positions()
        extra = {COMPARED: positions}
        # With another tokenization than the baseline's there is nothing to compare.
        if reference is not None and np.array_equal(reference["compared"], positions):
            extra |= {TOP_TOKENS: reference["top_words"], TOP_LOGS: reference["top_logs"]}
        return replace(self, comparison={} if reference is not None and len(extra) == 1 else extra)

    def _comparison_positions(self) -> NDArray[np.int64]:
        """Select evenly spaced scored tokens of each window: int64 (n, places), padded with -1."""
        scored = [np.flatnonzero(row)[np.flatnonzero(row) > 0] for row in self.target_mask]
        per_window = max(1, min(max(map(len, scored), default=1), MOST_COMPARED // max(1, len(scored))))
        positions = np.full((len(scored), per_window), -1, np.int64)
        for row, candidates in zip(positions, scored, strict=True):
            count = min(per_window, len(candidates))
            row[:count] = candidates[np.linspace(0, len(candidates) - 1, count).round().astype(np.int64)]
        return positions

    def digest(self) -> str:
        """sha256 over the model inputs and the positions of scored tokens."""
        digest = hashlib.sha256(super().digest().encode())
        for block in self.target_mask.flat.blocks():
            digest.update(block.tobytes())
        return digest.hexdigest()


def encode_documents(examples: Examples, data: LanguageData, model: Path) -> WindowInputs:
    """Encode examples with the tokenizer of the artifact directory `model`, and cut them into windows.

    Raises:
        ModelError: a file is missing or unreadable.
        DataError: conversations do not work with the model's chat template, or no text has a token to score.
    """
    text_format, input_names = read_text_format(model)
    tokenizer = open_without_truncation(model / TOKENIZER)
    render = text_format.render(str(model))
    ids, target_masks = RaggedWriter(np.int32), RaggedWriter(np.int32)
    document_indices, target_bytes = array("q"), array("q")
    document = 0
    bos_id = None if data.example_format == "messages" else text_format.begin_id
    for block in blocks_by_characters(examples.texts, BLOCK_CHARACTERS):
        split_items = [pieces_of(item, data.example_format, render) for item in block]
        with content_errors("the tokenizer", str(model / TOKENIZER)):
            encodings = encode_parts(tokenizer, [[piece.text for piece in pieces] for pieces in split_items])
        for pieces, encoded in zip(split_items, encodings, strict=True):
            row = list[tuple[int, int, int]]()
            for piece, part in zip(pieces, encoded, strict=True):
                lengths = _byte_lengths(piece.text, part.offsets)
                row += [
                    (token, int(piece.is_target), size) for token, size in zip(part.ids, lengths, strict=True)
                ]
                if piece.has_end_token and text_format.end_id is not None:
                    row.append((text_format.end_id, 1, 0))
            first = next((token for part in encoded for token in part.ids), None)
            if bos_id is not None and first != bos_id:
                row.insert(0, (bos_id, 0, 0))
            for window in split_windows(
                np.array(row, np.int64).reshape(-1, 3), text_format.max_length, data.context
            ):
                ids.add([window[:, 0]])
                target_masks.add([window[:, 1]])
                document_indices.append(document)
                target_bytes.append(int(window[window[:, 1] == 1, 2].sum()))
            document += 1
    if document and not target_bytes:
        raise DataError(
            "the texts hold nothing to learn or to score: a token needs another one before it",
            where="data",
            hint="Is the column of the data the right one?",
            code="nothing-to-score",
        )
    return WindowInputs(
        ids.finish(),
        input_names,
        text_format.pad_id,
        target_mask=target_masks.finish(),
        documents=np.array(document_indices, np.int64),
        target_bytes=np.array(target_bytes, np.int64),
    )


def encoding_key(examples: Examples, data: LanguageData, model: Path) -> str:
    """Cache key of `encode_documents`: equal keys imply equal windows.

    Raises:
        ModelError: a file is missing or unreadable.
    """
    file = model / TOKENIZER
    text_format, input_names = read_text_format(model)
    description = repr(
        (
            text_format,
            input_names,
            data.example_format,
            data.context,
            sha256_file(file) if file.is_file() else None,
        )
    )
    digest = hashlib.sha256(description.encode())
    for text in examples.texts:
        content = item_content(text)
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def read_text_format(model: Path) -> tuple[PromptFormat, tuple[str, ...]]:
    """Read the text format of the model in an artifact directory, and the names of its inputs.

    Raises:
        ModelError: the description is missing or invalid.
    """
    try:
        task_json = read_mapping(model / TASK)
        return PromptFormat.of(task_json), tuple(task_json["input_names"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"cannot read the model's inputs: {error!r}", where=str(model / TASK)) from error


def split_windows(tokens: NDArray[np.int64], max_length: int, context: int) -> Iterator[NDArray[np.int64]]:
    """Yield windows of at most `max_length` tokens that start with the last `context` tokens of the previous one.

    A token is scored in the first window that contains it, except for the very first token, which has no context.
    Windows without a token to score are skipped.

    Args:
        tokens: (tokens, 3): the id, whether it is scored, and any further value.
    """
    start, scored = 0, 1
    while scored < len(tokens):
        end = min(start + max_length, len(tokens))
        window = tokens[start:end].copy()
        window[: scored - start, 1] = 0
        if window[:, 1].any():
            yield window
        start, scored = end - context, end


def _byte_lengths(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Return the UTF-8 bytes of each token; if tokens share a character, the last one counts all of its bytes."""
    byte_offsets: Sequence[int] | NDArray[np.int64] = range(len(text) + 1)
    if not text.isascii():
        byte_offsets = np.concatenate(
            [[0], np.cumsum([len(character.encode("utf-8", "surrogatepass")) for character in text])]
        )
    lengths, end_byte = [], 0
    for _, end in offsets:
        lengths.append(max(0, int(byte_offsets[end]) - end_byte))
        end_byte = max(end_byte, int(byte_offsets[end]))
    return lengths
