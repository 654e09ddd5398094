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

_SENTENCEPIECE_PACKAGES = ("sentencepiece", "google.protobuf")
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
    settings = files.parse_or_none(folder / "tokenizer_config.json") or {}
    fast_files = settings.get("fast_tokenizer_files")
    if fast_files and any(
        name_fault(name) for name in (fast_files if isinstance(fast_files, list) else [None])
    ):
        yield Problem(
            "tokenizer_config.json: `fast_tokenizer_files` names a file outside the folder", "outside-folder"
        )
    if settings.get("split_special_tokens") is True:
        yield Problem(
            "tokenizer_config.json: `split_special_tokens: true` cannot be kept: a tokenizer.json always reads "
            "special tokens in a text as such; remove the setting if texts contain none",
            TOKENIZER_SETTING,
        )
    num_embeddings, max_id = config.get("vocab_size"), _max_token_id(folder, settings, files)
    if isinstance(num_embeddings, int) and max_id >= num_embeddings:
        yield vocabulary_too_large(max_id, num_embeddings)


def tokenizer_missing_problem(names: Collection[str]) -> Problem | None:
    """Return why the files with these names contain no tokenizer that can be read here; None if they do."""
    vocabulary_files = [name for name in names if any(fnmatch(name, pattern) for pattern in VOCABULARY_FILES)]
    if not vocabulary_files:
        return Problem(
            f"no tokenizer here: none of {', '.join(VOCABULARY_FILES)}; save the model's tokenizer into its folder "
            "(`tokenizer.save_pretrained(folder)`)",
            TOKENIZER_MISSING,
        )
    if any(not name.endswith(".model") for name in vocabulary_files):
        return None
    missing = [name for name in _SENTENCEPIECE_PACKAGES if not _is_installed(name)]
    if not missing:
        return None
    return Problem(
        f"the tokenizer is only a SentencePiece model ({sorted(vocabulary_files)[0]}), and reading it needs "
        "the package "
        "sentencepiece: `pip install sentencepiece` here; or load it elsewhere and save it with its tokenizer.json "
        "(`AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`)",
        "sentencepiece-missing",
    )


def has_chat_template(folder: Path, files: ModelFiles) -> bool:
    """Whether a model folder contains a chat template."""
    settings = files.parse_or_none(folder / "tokenizer_config.json") or {}
    return bool(settings.get("chat_template")) or (folder / "chat_template.jinja").is_file()


def vocabulary_too_large(max_id: int, num_embeddings: int) -> Problem:
    """Return the problem of a tokenizer whose ids exceed the model's embedding table."""
    return Problem(
        f"the tokenizer has ids up to {max_id}, but the model has embeddings for {num_embeddings} only; if "
        "tokens were added, "
        "resize the model and save it (`model.resize_token_embeddings(len(tokenizer))`), else put beside it the "
        "tokenizer that it was trained with",
        TOKENIZER_TOO_LARGE,
    )


def _max_token_id(folder: Path, settings: Mapping[str, Any], files: ModelFiles) -> int:
    """Return the largest token id in a tokenizer's files; -1 if they contain none."""
    ids = [-1]
    tokenizer = files.parse_or_none(folder / "tokenizer.json") or {}
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if vocabulary is None and (folder / "vocab.json").is_file():
        vocabulary = files.parse_or_none(folder / "vocab.json") or {}
    if isinstance(vocabulary, dict):
        ids += [token_id for token_id in vocabulary.values() if isinstance(token_id, int)]
    elif isinstance(vocabulary, list):
        ids.append(len(vocabulary) - 1)
    added = tokenizer.get("added_tokens")
    if isinstance(added, list):
        ids += [
            token["id"] for token in added if isinstance(token, dict) and isinstance(token.get("id"), int)
        ]
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        ids += [int(token_id) for token_id in decoder if str(token_id).isdecimal()]
    added = files.parse_or_none(folder / "added_tokens.json") or {}
    ids += [token_id for token_id in added.values() if isinstance(token_id, int)]
    return max(ids)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
