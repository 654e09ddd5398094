"""The keys of a profile's `data` that language models alone have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from compress.profile.schema import DataSpec

Written = Literal["texts", "prompts", "messages"]
"""What an example is: a text, a prompt with its completion, or a conversation."""


class LanguageData(DataSpec):
    """Texts, prompts with completions, or conversations."""

    prompt_column: str | None = None
    """The column of prompts that `completion_column` answers; the model learns the completions alone."""
    completion_column: str | None = None
    """The column of completions."""
    messages_column: str | None = None
    """The column of conversations, lists of `{role, content}`; the model learns what the assistant says."""
    context: Annotated[int, Field(ge=1)] = 1
    """Of a text longer than `max_length`, so many tokens of a window stand in the one before it too."""

    @model_validator(mode="after")
    def _one_form(self) -> LanguageData:
        if (self.prompt_column is None) != (self.completion_column is None):
            raise ValueError("`prompt_column` and `completion_column` go together")
        if self.messages_column is not None and self.prompt_column is not None:
            raise ValueError(
                "examples are conversations or prompts, not both: leave out `messages_column` or the others"
            )
        if self.context >= self.max_length:
            raise ValueError(f"`context` must be below `max_length`, which is {self.max_length}")
        return self

    @property
    def written(self) -> Written:
        """What an example is."""
        if self.messages_column is not None:
            return "messages"
        return "texts" if self.prompt_column is None else "prompts"
