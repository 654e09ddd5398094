"""Trimming a vocabulary: fewer rows of embeddings, the same segmentation.

A dropped token keeps its place in the tokenizer and gets the id of the unknown token, so every text is cut
into the pieces that the teacher sees, and the ids of student and teacher differ by a table alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compress.core.disk.reading import read_mapping
from compress.core.errors import ModelError
from compress.models.anatomy.blocks import transformer_of
from compress.models.anatomy.encoder import words_of
from compress.models.anatomy.sizes import config_keys

Ids = NDArray[np.int64]

_CONTINUES = "##"
_REFUSED = {
    "BPE": "its merges refer to token ids, so two tokens cannot share one",
    "Unigram": "a token's id is its position in the table, so two tokens cannot share one",
}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a `tokenizer.json`.

    `ids`: token -> id. `special`: ids of the tokens that no text may lose or change (`[CLS]`, `[PAD]`, added
    ones). `unknown`: the id of the unknown token, None where the tokenizer has none.
    """

    kind: str
    ids: dict[str, int]
    special: frozenset[int]
    unknown: int | None

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(max(self.ids.values()), *self.special, 0) + 1


def read_vocabulary(tokenizer: Path) -> Vocabulary:
    """The tokens of a `tokenizer.json`, whatever its kind."""
    body = _read(tokenizer)
    model = body["model"]
    table = model["vocab"]
    ids = {piece: place for place, (piece, _) in enumerate(table)} if isinstance(table, list) else dict(table)
    added = {token["content"]: int(token["id"]) for token in body.get("added_tokens") or []}
    every = {**ids, **added}
    unknown = every.get(model.get("unk_token") or "")
    if unknown is None and isinstance(model.get("unk_id"), int):
        unknown = model["unk_id"]
    special = frozenset(added.values()) | ({unknown} if unknown is not None else set())
    return Vocabulary(_kind(model), every, special, unknown)


def choose_tokens(vocabulary: Vocabulary, used: Iterable[Ids], margin: int) -> Ids:
    """The ids to keep: special ones, those of the encoded examples `used`, and `margin` further tokens.

    The margin is taken in the order of the ids, which in a trained vocabulary runs from frequent to rare,
    among tokens that look like words or their endings (two letters at least). Sorted, int64.
    """
    kept = set(vocabulary.special)
    for ids in used:
        kept.update(np.unique(ids).tolist())
    words = sorted(
        number for token, number in vocabulary.ids.items() if _is_word(token) and number not in kept
    )
    return np.array(sorted(kept | set(words[:margin])), dtype=np.int64)


def id_table(vocabulary: Vocabulary, kept: Ids) -> Ids:
    """The table that maps an old id to its new one, int64 (old size,).

    The new id of a kept token is its place in `kept`, that of any other is the unknown token's.

    Raises:
        ModelError: the tokenizer has no unknown token.
    """
    if vocabulary.unknown is None:
        raise ModelError("cannot trim a vocabulary without an unknown token")
    table = np.full(vocabulary.size, int(np.searchsorted(kept, vocabulary.unknown)), dtype=np.int64)
    table[kept] = np.arange(len(kept))
    return table


def check_can_trim(vocabulary: Vocabulary) -> None:
    """Refuse the kinds of tokenizer whose tokens cannot share an id.

    Raises:
        ModelError: it is not a word-piece tokenizer, or has no unknown token.
    """
    if vocabulary.kind != "WordPiece":
        reason = _REFUSED.get(vocabulary.kind, "only WordPiece vocabularies can be trimmed")
        if vocabulary.kind == "BPE" and vocabulary.unknown is None:
            reason = "it falls back to bytes, so there is no unknown token for what is dropped"
        raise ModelError(
            f"cannot trim the vocabulary of a {vocabulary.kind} tokenizer: {reason}",
            hint="Use `vocabulary: keep`.",
        )
    if vocabulary.unknown is None:
        raise ModelError("cannot trim a vocabulary without an unknown token", hint="Use `vocabulary: keep`.")


def trim_tokenizer(tokenizer: Path, table: Ids) -> str:
    """The text of a `tokenizer.json` that cuts texts as the old one and gives the new ids of `table`.

    Its table of tokens holds several tokens with one id (that of the unknown token): read it with
    `tokenizers`, but do not save it with `tokenizers`, which would write one token an id.

    Raises:
        ModelError: `check_can_trim` refuses the tokenizer.
    """
    check_can_trim(read_vocabulary(tokenizer))
    body = _read(tokenizer)
    body["model"]["vocab"] = {token: int(table[number]) for token, number in body["model"]["vocab"].items()}
    for token in body.get("added_tokens") or []:
        token["id"] = int(table[token["id"]])
    _renumber(body.get("post_processor"), table)
    body["truncation"] = body["padding"] = None
    return json.dumps(body, ensure_ascii=False)


def trim_embeddings(model: nn.Module, table: Ids, kept: Ids) -> None:
    """Keep the rows `kept` of the word embeddings, in place, and renumber the special ids of the config."""
    words, config = words_of(model), transformer_of(model).config
    replace_words(model, words.weight.detach()[torch.from_numpy(kept)])
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int) and value < len(table):
            setattr(config, name, int(table[value]))
    if words.padding_idx is not None:
        words.padding_idx = int(table[words.padding_idx])


def replace_words(model: nn.Module, rows: torch.Tensor) -> None:
    """Give the model's word embeddings other rows, in place: (vocabulary, width)."""
    words = words_of(model)
    words.weight = nn.Parameter(rows.clone())
    words.num_embeddings = len(rows)
    setattr(transformer_of(model).config, config_keys(model)["vocabulary"], len(rows))


def _renumber(part: Any, table: Ids) -> None:
    """Renumber the special tokens of a post-processor, wherever they stand in it."""
    if isinstance(part, list):
        for entry in part:
            _renumber(entry, table)
    elif isinstance(part, dict):
        for entry in (part.get("special_tokens") or {}).values():
            entry["ids"] = [int(table[number]) for number in entry["ids"]]
        for name in ("sep", "cls"):
            if isinstance(part.get(name), list):
                part[name][1] = int(table[part[name][1]])
        _renumber(part.get("processors"), table)


def _is_word(token: str) -> bool:
    letters = token.removeprefix(_CONTINUES)
    return len(letters) >= 2 and letters.isalpha()


def _kind(model: dict[str, Any]) -> str:
    """The kind of tokenizer; old files do not name it."""
    if model.get("type"):
        return str(model["type"])
    if "merges" in model:
        return "BPE"
    return "Unigram" if isinstance(model["vocab"], list) else "WordPiece"


def _read(tokenizer: Path) -> dict[str, Any]:
    try:
        body: dict[str, Any] = read_mapping(tokenizer)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the tokenizer: {error}", where=str(tokenizer)) from error
    return body
