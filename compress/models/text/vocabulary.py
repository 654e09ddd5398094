"""Trimming a vocabulary: fewer rows of embeddings, the same segmentation.

A dropped token keeps its entry in the tokenizer and gets the id of the unknown token, so every text is split into
the same pieces as by the teacher, and the student's ids follow from the teacher's by a lookup table.
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
from compress.models.anatomy.encoder import word_embeddings_of
from compress.models.anatomy.sizes import config_keys

Ids = NDArray[np.int64]

_CONTINUATION_PREFIX = "##"
_UNTRIMMABLE = {
    "BPE": "its merges refer to token ids, so two tokens cannot share one",
    "Unigram": "a token's id is its position in the table, so two tokens cannot share one",
}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a `tokenizer.json`.

    `ids`: token -> id. `special`: ids of the tokens that must be kept unchanged (`[CLS]`, `[PAD]`, added ones).
    `unknown`: the id of the unknown token, None if the tokenizer has none.
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
    """Read the tokens of a `tokenizer.json` of any model type."""
    body = _read(tokenizer)
    model = body["model"]
    entries = model["vocab"]
    ids = (
        {piece: index for index, (piece, _) in enumerate(entries)}
        if isinstance(entries, list)
        else dict(entries)
    )
    added = {token["content"]: int(token["id"]) for token in body.get("added_tokens") or []}
    all_ids = {**ids, **added}
    unknown = all_ids.get(model.get("unk_token") or "")
    if unknown is None and isinstance(model.get("unk_id"), int):
        unknown = model["unk_id"]
    special = frozenset(added.values()) | ({unknown} if unknown is not None else set())
    return Vocabulary(_kind(model), all_ids, special, unknown)


def choose_tokens(vocabulary: Vocabulary, used: Iterable[Ids], margin: int) -> Ids:
    """Return the ids to keep: special ones, those in the encoded examples `used`, and `margin` further tokens.

    The margin is taken in id order, which in a trained vocabulary runs from frequent to rare, among tokens that look
    like words or word endings (at least two letters). Sorted, int64.
    """
    kept_ids = set(vocabulary.special)
    for ids in used:
        kept_ids.update(np.unique(ids).tolist())
    spare_words = sorted(
        token_id for token, token_id in vocabulary.ids.items() if _is_word(token) and token_id not in kept_ids
    )
    return np.array(sorted(kept_ids | set(spare_words[:margin])), dtype=np.int64)


def id_table(vocabulary: Vocabulary, kept: Ids) -> Ids:
    """Return the table that maps an old id to its new one, int64 (old size,).

    The new id of a kept token is its index in `kept`, that of any other is the unknown token's.

    Raises:
        ModelError: the tokenizer has no unknown token.
    """
    if vocabulary.unknown is None:
        raise ModelError("cannot trim a vocabulary without an unknown token")
    table = np.full(vocabulary.size, int(np.searchsorted(kept, vocabulary.unknown)), dtype=np.int64)
    table[kept] = np.arange(len(kept))
    return table


def check_can_trim(vocabulary: Vocabulary) -> None:
    """Refuse tokenizers whose tokens cannot share an id.

    Raises:
        ModelError: it is not a WordPiece tokenizer, or has no unknown token.
    """
    if vocabulary.kind != "WordPiece":
        reason = _UNTRIMMABLE.get(vocabulary.kind, "only WordPiece vocabularies can be trimmed")
        if vocabulary.kind == "BPE" and vocabulary.unknown is None:
            reason = "it falls back to bytes, so there is no unknown token for what is dropped"
        raise ModelError(
            f"cannot trim the vocabulary of a {vocabulary.kind} tokenizer: {reason}",
            hint="Use `vocabulary: keep`.",
        )
    if vocabulary.unknown is None:
        raise ModelError("cannot trim a vocabulary without an unknown token", hint="Use `vocabulary: keep`.")


def trim_tokenizer(tokenizer: Path, new_ids: Ids) -> str:
    """Return the text of a `tokenizer.json` that splits texts as before and returns the new ids of `new_ids`.

    In its vocabulary several tokens share an id (that of the unknown token): it can be read with `tokenizers`, but
    saving it with `tokenizers` would keep only one token per id.

    Raises:
        ModelError: `check_can_trim` refuses the tokenizer.
    """
    check_can_trim(read_vocabulary(tokenizer))
    body = _read(tokenizer)
    body["model"]["vocab"] = {
        token: int(new_ids[token_id]) for token, token_id in body["model"]["vocab"].items()
    }
    for token in body.get("added_tokens") or []:
        token["id"] = int(new_ids[token["id"]])
    _renumber(body.get("post_processor"), new_ids)
    body["truncation"] = body["padding"] = None
    return json.dumps(body, ensure_ascii=False)


def trim_embeddings(model: nn.Module, new_ids: Ids, kept: Ids) -> None:
    """Keep the rows `kept` of the word embeddings, in place, and renumber the special ids of the config."""
    embeddings, config = word_embeddings_of(model), transformer_of(model).config
    replace_word_embeddings(model, embeddings.weight.detach()[torch.from_numpy(kept)])
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int) and value < len(new_ids):
            setattr(config, name, int(new_ids[value]))
    if embeddings.padding_idx is not None:
        embeddings.padding_idx = int(new_ids[embeddings.padding_idx])


def replace_word_embeddings(model: nn.Module, rows: torch.Tensor) -> None:
    """Replace the rows of the model's word embeddings, in place: (vocabulary, width)."""
    embeddings = word_embeddings_of(model)
    embeddings.weight = nn.Parameter(rows.clone())
    embeddings.num_embeddings = len(rows)
    setattr(transformer_of(model).config, config_keys(model)["vocabulary"], len(rows))


def _renumber(part: Any, new_ids: Ids) -> None:
    """Renumber the special tokens of a post-processor, at any depth."""
    if isinstance(part, list):
        for entry in part:
            _renumber(entry, new_ids)
    elif isinstance(part, dict):
        for entry in (part.get("special_tokens") or {}).values():
            entry["ids"] = [int(new_ids[token_id]) for token_id in entry["ids"]]
        for name in ("sep", "cls"):
            if isinstance(part.get(name), list):
                part[name][1] = int(new_ids[part[name][1]])
        _renumber(part.get("processors"), new_ids)


def _is_word(token: str) -> bool:
    letters = token.removeprefix(_CONTINUATION_PREFIX)
    return len(letters) >= 2 and letters.isalpha()


def _kind(model: dict[str, Any]) -> str:
    """Return the model type of the tokenizer; old files do not state it."""
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
