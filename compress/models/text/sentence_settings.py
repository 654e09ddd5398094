"""What a sentence-transformers folder says of texts: prompts, lower case, length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.disk.reading import read_mapping
from compress.core.errors import ModelError
from compress.models.text.pooling import MODULES
from compress.profile.model_checks.tokenizers import SENTENCE_SETTING

PROMPTS = "config_sentence_transformers.json"
TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    *(
        f"sentence_{name}_config.json"
        for name in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
    ),
)
"""What the transformer of a folder takes, in the order in which sentence-transformers looks for it."""
_NEUTRAL = {
    "max_seq_length", "do_lower_case", "model_name_or_path", "cache_dir", "backend", "tokenizer_name_or_path",
    "transformer_task", "modality_config", "module_output_name", "unpad_inputs",
}  # fmt: skip


@dataclass(frozen=True)
class SentenceSettings:
    """What is done to a text before it is tokenized; `prompt` names the prompt that is put before every text."""

    prefix: str = ""
    strip: bool = False
    lowercase: bool = False
    max_length: int | None = None
    prompt: str | None = None


PLAIN = SentenceSettings()
"""Texts are taken as they are."""


def read_sentence_settings(folder: Path) -> SentenceSettings:
    """The settings of a folder; those of no folder of sentence-transformers do nothing.

    What `SentenceTransformer.encode` does is documented with sentence-transformers (5.x): the default prompt is put
    before each text, blanks at its ends are stripped, then letters are made lower case.

    Raises:
        ModelError: with the code `sentence-setting`: a setting cannot be carried.
    """
    if not (folder / MODULES).is_file():
        return PLAIN
    name, prefix = _default_prompt(folder)
    file = next((folder / one for one in TRANSFORMER_FILES if (folder / one).is_file()), None)
    values: dict[str, Any] = {} if file is None else read_mapping(file)
    where = str(file or folder)
    further = sorted(
        key for key, value in values.items() if key not in _NEUTRAL and value not in (None, {}, [])
    )
    if further:
        raise ModelError(
            f"its setting {further[0]!r} cannot be carried into a bundle", where=where, code=SENTENCE_SETTING
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
    """The name and the text of the prompt that every text gets."""
    file = folder / PROMPTS
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
    """Refuse a pooling that leaves the prompt's tokens out."""
    for file in folder.glob("*_Pooling/config.json"):
        if read_mapping(file).get("include_prompt") is False:
            raise ModelError(
                "`include_prompt: false` leaves the prompt's tokens out of the mean, which is not supported",
                where=str(file),
                code=SENTENCE_SETTING,
            )
