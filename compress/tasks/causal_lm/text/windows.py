"""Texts as windows of tokens: each token is learnt and scored once, with those before it in its window."""

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
from compress.core.errors import ModelError
from compress.data.splits import Examples, item_bytes
from compress.encoding.inputs import LEARNT, Batch
from compress.encoding.tokens import TokenInputs
from compress.models.text.chat import Format
from compress.models.text.tokenizer_files import open_uncut
from compress.store.flat import Ragged, RaggedWriter, blocks_of_letters
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.text.documents import pieces_of

DOCUMENT = "beside.document"
"""In a batch, int64 (windows,): the example that a window is of."""
BYTES = "beside.bytes"
"""In a batch, int64 (windows,): how many bytes of UTF-8 the scored tokens of a window stand for."""
COMPARED = "beside.compared"
"""In a batch, int64 (windows, places): tokens whose distribution is held against the baseline's, -1 behind the last."""
TOP_WORDS, TOP_LOGS = "beside.top_words", "beside.top_logs"
"""In a batch, (windows, places, k): the words that the baseline holds likeliest there, and their log-probabilities."""
MOST_COMPARED = 8192
"""Tokens whose distributions are compared, about so many at most: spread evenly over the windows."""

LETTERS = 1 << 18
"""Of texts that are encoded together: the tokenizer's own objects take hundreds of bytes a token."""


@dataclass(frozen=True, eq=False)
class WindowInputs(TokenInputs):
    """Windows of tokens of one split, ragged.

    `learnt`: of each window int32 (length,), 1 where a token is scored. `documents`, `sizes`: int64 (n,), the example
    and the bytes of its scored tokens. `compared`: what stands beside them in a batch too, (n, ...) each.
    """

    learnt: Ragged = field(kw_only=True)
    documents: NDArray[np.int64] = field(kw_only=True)
    sizes: NDArray[np.int64] = field(kw_only=True)
    compared: Mapping[str, NDArray[Any]] = field(default_factory=dict, kw_only=True)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The windows at `indices`, padded behind to the longest of them, with what the scorer needs beside them."""
        chosen = np.asarray(indices, np.int64)
        learnt, _ = self.learnt.padded(indices, 0)
        beside = {
            LEARNT: learnt.astype(np.int64),
            DOCUMENT: self.documents[chosen],
            BYTES: self.sizes[chosen],
        }
        return super().batch(indices) | beside | {name: rows[chosen] for name, rows in self.compared.items()}

    def against(self, reference: Mapping[str, NDArray[Any]] | None) -> WindowInputs:
        """These windows with what their tokens' distributions are compared with.

        Args:
            reference: what is kept of the baseline's outputs; None: the baseline's own are to be kept.
        """
        places = self._places()
        beside = {COMPARED: places}
        # Of other tokens than the baseline's there is nothing to compare.
        if reference is not None and np.array_equal(reference["compared"], places):
            beside |= {TOP_WORDS: reference["top_words"], TOP_LOGS: reference["top_logs"]}
        return replace(self, compared={} if reference is not None and len(beside) == 1 else beside)

    def _places(self) -> NDArray[np.int64]:
        """Some scored tokens of each window, evenly spread: int64 (n, places), -1 behind the last."""
        scored = [np.flatnonzero(row)[np.flatnonzero(row) > 0] for row in self.learnt]
        most = max(1, min(max(map(len, scored), default=1), MOST_COMPARED // max(1, len(scored))))
        places = np.full((len(scored), most), -1, np.int64)
        for row, found in zip(places, scored, strict=True):
            count = min(most, len(found))
            row[:count] = found[np.linspace(0, len(found) - 1, count).round().astype(np.int64)]
        return places

    def digest(self) -> str:
        """sha256 over all that a model is given, and which tokens are scored."""
        digest = hashlib.sha256(super().digest().encode())
        for block in self.learnt.flat.blocks():
            digest.update(block.tobytes())
        return digest.hexdigest()


def encode_documents(examples: Examples, data: LanguageData, model: Path) -> WindowInputs:
    """Encode examples with the tokenizer of the artifact directory `model`, and cut them into windows.

    Raises:
        ModelError: a file is missing or unreadable.
        DataError: conversations cannot be had with the model's template.
    """
    form, names = reading_of(model)
    tokenizer = open_uncut(model / TOKENIZER)
    render = form.render(str(model))
    ids, learnt = RaggedWriter(np.int32), RaggedWriter(np.int32)
    documents, sizes = array("q"), array("q")
    number = 0
    for block in blocks_of_letters(examples.texts, LETTERS):
        split = [pieces_of(item, data.written, render) for item in block]
        with understood("the tokenizer", str(model / TOKENIZER)):
            texts = [piece.text for pieces in split for piece in pieces]
            encodings = iter(tokenizer.encode_batch(texts, add_special_tokens=False))
        for pieces in split:
            row = [] if form.begin is None or data.written == "messages" else [(form.begin, 0, 0)]
            for piece in pieces:
                encoding = next(encodings)
                lengths = _byte_lengths(piece.text, encoding.offsets)
                row += [
                    (token, int(piece.learnt), size)
                    for token, size in zip(encoding.ids, lengths, strict=True)
                ]
                if piece.ends and form.end is not None:
                    row.append((form.end, 1, 0))
            for window in cut_windows(np.array(row, np.int64).reshape(-1, 3), form.max_length, data.context):
                ids.add([window[:, 0]])
                learnt.add([window[:, 1]])
                documents.append(number)
                sizes.append(int(window[window[:, 1] == 1, 2].sum()))
            number += 1
    return WindowInputs(
        ids.finish(),
        names,
        form.pad,
        learnt=learnt.finish(),
        documents=np.array(documents, np.int64),
        sizes=np.array(sizes, np.int64),
    )


def encoding_key(examples: Examples, data: LanguageData, model: Path) -> str:
    """What decides what `encode_documents` makes of them: equal keys, equal windows.

    Raises:
        ModelError: a file is missing or unreadable.
    """
    file = model / TOKENIZER
    form, names = reading_of(model)
    said = repr((form, names, data.written, data.context, sha256_file(file) if file.is_file() else None))
    digest = hashlib.sha256(said.encode())
    for text in examples.texts:
        written = item_bytes(text)
        digest.update(len(written).to_bytes(8, "big") + written)
    return digest.hexdigest()


def reading_of(model: Path) -> tuple[Format, tuple[str, ...]]:
    """How texts are read for the model of an artifact directory, and the names of its inputs.

    Raises:
        ModelError: it does not say so.
    """
    try:
        described = read_mapping(model / TASK)
        return Format.of(described), tuple(described["input_names"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"cannot read the model's inputs: {error!r}", where=str(model / TASK)) from error


def cut_windows(tokens: NDArray[np.int64], longest: int, context: int) -> Iterator[NDArray[np.int64]]:
    """Windows of at most `longest` tokens that begin with the last `context` tokens of the one before.

    A token is scored in the first window that it stands in, and the first token of all never: nothing stands before
    it. A window without a token to score is left out.

    Args:
        tokens: (tokens, 3): the id, whether it is scored, anything.
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
    """Bytes of UTF-8 that each token stands for; those that share a letter share it too: the last one counts it."""
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
