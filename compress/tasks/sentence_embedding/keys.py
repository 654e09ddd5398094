"""Keys of a profile's `data` section for sentence embedding."""

from __future__ import annotations

from pydantic import ValidationInfo, field_validator

from compress.profile.schema import DataSpec


class SentenceData(DataSpec):
    """Where the texts come from, and which of them are alike where that is given."""

    pair_columns: tuple[str, str] | None = None
    """The two columns of texts whose similarity `score_column` gives; unset: texts without scores."""
    score_column: str = "score"
    """Column with the similarity of the two texts, on any scale; higher means more similar."""
    sentences: bool = False
    """Split texts into sentences, each an example. Excludes `pair_columns`."""

    @field_validator("sentences")
    @classmethod
    def _pairs_stay_whole(cls, sentences: bool, info: ValidationInfo) -> bool:
        if sentences and info.data.get("pair_columns") is not None:
            raise ValueError("pairs are compared as they are, so their texts cannot be split into sentences")
        return sentences
