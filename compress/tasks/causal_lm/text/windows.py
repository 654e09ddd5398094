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
from compress.core.disk.reading import read_mapping, understood
from compress.core.errors import DataError, ModelError
from compress.data.splits import Examples, item_content
from compress.encoding.inputs import LOSS_MASK, Batch
from compress.encoding.tokens import TokenInputs
from compress.models.text.chat import Format
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
TOP_WORDS, TOP_LOGS = "beside.top_words", "beside.top_logs"
"""Batch keys, (windows, places, k): the baseline's most likely tokens at these positions, and log-probabilities."""
MOST_COMPARED = 8192
"""Approximate maximum number of compared tokens, spread evenly over the windows."""

LETTERS = 1 << 18
"""Number of characters of texts tokenized at once: the tokenizer's own objects take hundreds of bytes per token."""


@dataclass(frozen=True, eq=False)
class WindowInputs(TokenInputs):
    """Ragged windows of tokens of one split.

    `learnt`: int32 (length,) for each window, 1 where a token is scored. `documents`, `sizes`: int64 (n,), the example
    and the bytes of its scored tokens. `compared`: further arrays of a batch, (n, ...) each.
    """

    learnt: Ragged = field(kw_only=True)
    documents: NDArray[np.int64] = field(kw_only=True)
    sizes: NDArray[np.int64] = field(kw_only=True)
    compared: Mapping[str, NDArray[Any]] = field(default_factory=dict, kw_only=True)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the windows at `indices`, right-padded to the longest of them, with the scorer's additional inputs."""
        chosen = np.asarray(indices, np.int64)
        learnt, _ = self.learnt.padded(indices, 0)
        beside = {
            LOSS_MASK: learnt.astype(np.int64),
            DOCUMENT: self.documents[chosen],
            BYTES: self.sizes[chosen],
        }
        return super().batch(indices) | beside | {name: rows[chosen] for name, rows in self.compared.items()}

    def against(self, reference: Mapping[str, NDArray[Any]] | None) -> WindowInputs:
        """Return these windows with the data for comparing the distributions of their tokens.

        Args:
            reference: what was kept of the baseline's outputs; None: these are the baseline's windows.
        """
        places = self._places()
        beside = {COMPARED: places}
        # With another tokenization than the baseline's there is nothing to compare.
        if reference is not None and np.array_equal(reference["compared"], places):
            beside |= {TOP_WORDS: reference["top_words"], TOP_LOGS: reference["top_logs"]}
        return replace(self, compared={} if reference is not None and len(beside) == 1 else beside)

    def _places(self) -> NDArray[np.int64]:
        """Select evenly spaced scored tokens of each window: int64 (n, places), padded with -1."""
        scored = [np.flatnonzero(row)[np.flatnonzero(row) > 0] for row in self.learnt]
        most = max(1, min(max(map(len, scored), default=1), MOST_COMPARED // max(1, len(scored))))
        places = np.full((len(scored), most), -1, np.int64)
        for row, found in zip(places, scored, strict=True):
            count = min(most, len(found))
            row[:count] = found[np.linspace(0, len(found) - 1, count).round().astype(np.int64)]
        return places

    def digest(self) -> str:
        """sha256 over the model inputs and the positions of scored tokens."""
        digest = hashlib.sha256(super().digest().encode())
        for block in self.learnt.flat.blocks():
            digest.update(block.tobytes())
        return digest.hexdigest()


def encode_documents(examples: Examples, data: LanguageData, model: Path) -> WindowInputs:
    """Encode examples with the tokenizer of the artifact directory `model`, and cut them into windows.

    Raises:
        ModelError: a file is missing or unreadable.
        DataError: conversations do not work with the model's chat template, or no text has a token to score.
    """
    form, names = reading_of(model)
    tokenizer = open_without_truncation(model / TOKENIZER)
    render = form.render(str(model))
    ids, learnt = RaggedWriter(np.int32), RaggedWriter(np.int32)
    documents, sizes = array("q"), array("q")
    number = 0
    for block in blocks_by_characters(examples.texts, LETTERS):
        split = [pieces_of(item, data.written, render) for item in block]
        with understood("the tokenizer", str(model / TOKENIZER)):
            encodings = encode_parts(tokenizer, [[piece.text for piece in pieces] for pieces in split])
        for pieces, encoded in zip(split, encodings, strict=True):
            row = list[tuple[int, int, int]]()
            for piece, part in zip(pieces, encoded, strict=True):
                lengths = _byte_lengths(piece.text, part.offsets)
                row += [
                    (token, int(piece.learnt), size) for token, size in zip(part.ids, lengths, strict=True)
                ]
                if piece.ends and form.end is not None:
                    row.append((form.end, 1, 0))
            first = next((token for part in encoded for token in part.ids), None)
            if form.begin is not None and data.written != "messages" and first != form.begin:
                row.insert(0, (form.begin, 0, 0))
            for window in cut_windows(np.array(row, np.int64).reshape(-1, 3), form.max_length, data.context):
                ids.add([window[:, 0]])
                learnt.add([window[:, 1]])
                documents.append(number)
                sizes.append(int(window[window[:, 1] == 1, 2].sum()))
            number += 1
    if number and not sizes:
        raise DataError(
            "the texts hold nothing to learn or to score: a token needs another one before it",
            where="data",
            hint="Is the column of the data the right one?",
            code="nothing-to-score",
        )
    return WindowInputs(
        ids.finish(),
        names,
        form.pad,
        learnt=learnt.finish(),
        documents=np.array(documents, np.int64),
        sizes=np.array(sizes, np.int64),
    )


def encoding_key(examples: Examples, data: LanguageData, model: Path) -> str:
    """Cache key of `encode_documents`: equal keys imply equal windows.

    Raises:
        ModelError: a file is missing or unreadable.
    """
    file = model / TOKENIZER
    form, names = reading_of(model)
    said = repr((form, names, data.written, data.context, sha256_file(file) if file.is_file() else None))
    digest = hashlib.sha256(said.encode())
    for text in examples.texts:
        written = item_content(text)
        digest.update(len(written).to_bytes(8, "big") + written)
    return digest.hexdigest()


def reading_of(model: Path) -> tuple[Format, tuple[str, ...]]:
    """Read the text format of the model in an artifact directory, and the names of its inputs.

    Raises:
        ModelError: the description is missing or invalid.
    """
    try:
        described = read_mapping(model / TASK)
        return Format.of(described), tuple(described["input_names"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"cannot read the model's inputs: {error!r}", where=str(model / TASK)) from error


def cut_windows(tokens: NDArray[np.int64], longest: int, context: int) -> Iterator[NDArray[np.int64]]:
    """Yield windows of at most `longest` tokens that start with the last `context` tokens of the previous one.

    A token is scored in the first window that contains it, except for the very first token, which has no context.
    Windows without a token to score are skipped.

    Args:
        tokens: (tokens, 3): the id, whether it is scored, and any further value.
    """
    start, scored = 0, 1
    while scored < len(tokens):
        end = min(start + longest, len(tokens))
        window = tokens[start:end].copy()
        window[: scored - start, 1] = 0
        if window[:, 1].any():
            yield window
        start, scored = end - context, end


def _byte_lengths(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Return the UTF-8 bytes of each token; if tokens share a character, the last one counts all of its bytes."""
    places: Sequence[int] | NDArray[np.int64] = range(len(text) + 1)
    if not text.isascii():
        places = np.concatenate(
            [[0], np.cumsum([len(letter.encode("utf-8", "surrogatepass")) for letter in text])]
        )
    lengths, counted = [], 0
    for _, end in offsets:
        lengths.append(max(0, int(places[end]) - counted))
        counted = max(counted, int(places[end]))
    return lengths
