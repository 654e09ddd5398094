"""Unlabeled examples: where they are, and how text files are read."""

from __future__ import annotations

import codecs
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from compress.core.spec import HubName, Positive, Spec
from compress.profile.specs.generate import GenerateSpec


def _check_separator(separator: str) -> str:
    if len(separator) != 1 or separator in '"\r\n' or separator.isalnum():
        raise ValueError('expected one character between the fields, such as ";" or "\\t"')
    return separator


def _check_encoding(name: str) -> str:
    try:
        # Python's bytes-to-bytes codecs (`hex`, `zip`) are not text encodings; they fail here.
        " ".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError, TypeError) as error:
        raise ValueError(f"{name!r} is not a known encoding; try utf-8, cp1252, gbk or shift_jis") from error


Separator = Annotated[
    str, AfterValidator(_check_separator), WithJsonSchema({"maxLength": 1, "minLength": 1, "type": "string"})
]
Encoding = Annotated[str, AfterValidator(_check_encoding)]


class UnlabeledSpec(Spec):
    """Additional examples without labels, which the teacher labels. Not for language models."""

    path: Annotated[str, Field(min_length=1)] = ""
    """Required without `generate`: as `data.path`; label columns are not read, and a folder of images or texts needs no
    sub-folders."""
    name: HubName | None = None
    """Configuration of a hub data set, needed if it has several."""
    revision: HubName | None = None
    """Commit or tag of a hub data set; unset: its main branch."""
    split: str = "train"
    """Name of the split to read."""
    separator: Separator | None = None
    """As `data.separator`, for these files."""
    encoding: Encoding | None = None
    """As `data.encoding`, for these files."""
    limit: Positive | None = None
    """Maximum number of examples, the first ones by the hash of their content; unset: all."""
    generate: GenerateSpec | None = None
    """Instead of `path`: let a language model write texts. Text classification only."""

    @model_validator(mode="after")
    def _check_source(self) -> UnlabeledSpec:
        if self.generate is None and not self.path:
            raise ValueError("name the examples with `path`, or let a model write texts with `generate`")
        read_keys = sorted(self.model_fields_set - {"generate"})
        if self.generate is not None and read_keys:
            raise ValueError(
                f"`{read_keys[0]}` is for existing examples, and `generate` writes new ones: give one of the two"
            )
        return self
