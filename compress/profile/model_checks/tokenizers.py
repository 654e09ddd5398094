"""Checks of tokenizer files before they are loaded: whether they are readable, preservable, and fit the model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from compress.core.disk.safe_paths import name_fault
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.problem import Problem

VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
"""Files that can contain a vocabulary; a text model has at least one of them."""

TOKENIZER_SETTING = "tokenizer-setting"
SENTENCE_SETTING = "sentence-setting"
TOKENIZER_MISSING = "tokenizer-missing"
TOKENIZER_TOO_LARGE = "tokenizer-too-large"
"""Codes of faults about tokenizers."""

_PIECES = ("sentencepiece", "google.protobuf")
"""Packages needed to read a SentencePiece model."""


def tokenizer_problems(folder: Path, config: Mapping[str, Any], files: ModelFiles) -> Iterator[Problem]:
    """Yield the problems of a model folder's tokenizer, as far as its files show.

    Args:
        config: the model's parsed `config.json`.
    """
    missing = tokenizer_missing_problem({file.name for file in folder.iterdir()})
    if missing is not None:
        yield missing
        return
    settings = files.mapping(folder / "tokenizer_config.json") or {}
    others = settings.get("fast_tokenizer_files")
    if others and any(name_fault(name) for name in (others if isinstance(others, list) else [None])):
        yield Problem(
            "tokenizer_config.json: `fast_tokenizer_files` names a file outside the folder", "outside-folder"
        )
    if settings.get("split_special_tokens") is True:
        yield Problem(
            "tokenizer_config.json: `split_special_tokens: true` cannot be kept: a tokenizer.json always reads "
            "special tokens in a text as such; remove the setting if texts contain none",
            TOKENIZER_SETTING,
        )
    rows, highest = config.get("vocab_size"), _highest_id(folder, settings, files)
    if isinstance(rows, int) and highest >= rows:
        yield too_large(highest, rows)


def tokenizer_missing_problem(names: Collection[str]) -> Problem | None:
    """Return why the files with these names contain no tokenizer that can be read here; None if they do."""
    found = [name for name in names if any(fnmatch(name, pattern) for pattern in VOCABULARY_FILES)]
    if not found:
        return Problem(
            f"no tokenizer here: none of {', '.join(VOCABULARY_FILES)}; save the model's tokenizer into its folder "
            "(`tokenizer.save_pretrained(folder)`)",
            TOKENIZER_MISSING,
        )
    if any(not name.endswith(".model") for name in found):
        return None
    lacking = [name for name in _PIECES if not _installed(name)]
    if not lacking:
        return None
    return Problem(
        f"the tokenizer is only a SentencePiece model ({sorted(found)[0]}), and reading it needs the package "
        "sentencepiece: `pip install sentencepiece` here; or load it elsewhere and save it with its tokenizer.json "
        "(`AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`)",
        "sentencepiece-missing",
    )


def has_template(folder: Path, files: ModelFiles) -> bool:
    """Whether a model folder contains a chat template."""
    settings = files.mapping(folder / "tokenizer_config.json") or {}
    return bool(settings.get("chat_template")) or (folder / "chat_template.jinja").is_file()


def too_large(highest: int, rows: int) -> Problem:
    """Return the problem of a tokenizer whose ids exceed the model's embedding table."""
    return Problem(
        f"the tokenizer has ids up to {highest}, but the model has embeddings for {rows} only; if tokens were added, "
        "resize the model and save it (`model.resize_token_embeddings(len(tokenizer))`), else put beside it the "
        "tokenizer that it was trained with",
        TOKENIZER_TOO_LARGE,
    )


def _highest_id(folder: Path, settings: Mapping[str, Any], files: ModelFiles) -> int:
    """Return the largest token id in a tokenizer's files; -1 if they contain none."""
    ids = [-1]
    body = files.mapping(folder / "tokenizer.json") or {}
    model = body.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if vocabulary is None and (folder / "vocab.json").is_file():
        vocabulary = files.mapping(folder / "vocab.json") or {}
    if isinstance(vocabulary, dict):
        ids += [number for number in vocabulary.values() if isinstance(number, int)]
    elif isinstance(vocabulary, list):
        ids.append(len(vocabulary) - 1)
    added = body.get("added_tokens")
    if isinstance(added, list):
        ids += [one["id"] for one in added if isinstance(one, dict) and isinstance(one.get("id"), int)]
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        ids += [int(number) for number in decoder if str(number).isdecimal()]
    added = files.mapping(folder / "added_tokens.json") or {}
    ids += [number for number in added.values() if isinstance(number, int)]
    return max(ids)


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
