"""Text settings of a sentence-transformers folder: prompts, lower-casing, length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.disk.reading import read_mapping
from compress.core.errors import ModelError
from compress.models.text.pooling import MODULES
from compress.profile.model_checks.tokenizers import SENTENCE_SETTING

PROMPTS_FILE = "config_sentence_transformers.json"
TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    *(
        f"sentence_{name}_config.json"
        for name in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
    ),
)
"""Files with the transformer's settings, in the order in which sentence-transformers looks for them."""
_HARMLESS_KEYS = {
    "max_seq_length", "do_lower_case", "model_name_or_path", "cache_dir", "backend", "tokenizer_name_or_path",
    "transformer_task", "modality_config", "module_output_name", "unpad_inputs",
}  # fmt: skip


@dataclass(frozen=True)
class SentenceSettings:
    """Preprocessing of a text before tokenization; `prompt_name` is the name of the prompt prefixed to every text."""

    prefix: str = ""
    strip: bool = False
    lowercase: bool = False
    max_length: int | None = None
    prompt_name: str | None = None


NO_PREPROCESSING = SentenceSettings()
"""Texts are not changed."""


def read_sentence_settings(folder: Path) -> SentenceSettings:
    """Return the settings of a folder; those of a folder not from sentence-transformers change nothing.

    The steps of `SentenceTransformer.encode` are documented in sentence-transformers (5.x): the default prompt is
    prefixed to each text, whitespace at its ends is stripped, then it is lower-cased.

    Raises:
        ModelError: with the code `sentence-setting`: a setting is not supported.
    """
    if not (folder / MODULES).is_file():
        return NO_PREPROCESSING
    name, prefix = _default_prompt(folder)
    file = next((folder / one for one in TRANSFORMER_FILES if (folder / one).is_file()), None)
    values: dict[str, Any] = {} if file is None else read_mapping(file)
    where = str(file or folder)
    unsupported = sorted(
        key for key, value in values.items() if key not in _HARMLESS_KEYS and value not in (None, {}, [])
    )
    if unsupported:
        raise ModelError(
            f"its setting {unsupported[0]!r} cannot be carried into a bundle",
            where=where,
            code=SENTENCE_SETTING,
        )
    lowercase, length = values.get("do_lower_case", False), values.get("max_seq_length")
    if not isinstance(lowercase, bool) or not (length is None or (isinstance(length, int) and length > 0)):
        raise ModelError(
            "expected `do_lower_case` to be true or false and `max_seq_length` a number of tokens",
            where=where,
            code=SENTENCE_SETTING,
        )
    if prefix:
        _check_pooled_prompt(folder)
    return SentenceSettings(prefix, True, lowercase, length, name)


def _default_prompt(folder: Path) -> tuple[str | None, str]:
    """Return the name and text of the prompt prefixed to every text."""
    file = folder / PROMPTS_FILE
    if not file.is_file():
        return None, ""
    values = read_mapping(file)
    name, prompts = values.get("default_prompt_name"), values.get("prompts") or {}
    if name is None:
        return None, ""
    text = prompts.get(name) if isinstance(prompts, dict) else None
    if not isinstance(text, str):
        raise ModelError(
            f"its default prompt {name!r} is not in `prompts`", where=str(file), code=SENTENCE_SETTING
        )
    return str(name), text


def _check_pooled_prompt(folder: Path) -> None:
    """Refuse a pooling that excludes the prompt's tokens."""
    for file in folder.glob("*_Pooling/config.json"):
        if read_mapping(file).get("include_prompt") is False:
            raise ModelError(
                "`include_prompt: false` leaves the prompt's tokens out of the mean, which is not supported",
                where=str(file),
                code=SENTENCE_SETTING,
            )
