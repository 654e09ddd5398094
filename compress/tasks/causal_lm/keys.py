"""Keys of a profile's `data` section for language models."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from compress.core.disk.source_uris import CODE_PREFIX
from compress.core.spec import Spec
from compress.profile.schema import DataSpec
from compress.profile.specs.validator import ValidatorName

ExampleFormat = Literal["texts", "prompts", "messages"]
"""Format of an example: a text, a prompt with its completion, or a conversation."""


class AnswersSpec(Spec):
    """Which answers of a model are correct."""

    validator: ValidatorName
    """`exact`: the answer equals the completion, apart from surrounding white space; `contains`: the completion occurs
    in it; `regex:PATTERN`: the pattern matches in it, and the first group, if there is one, is the same as in the
    completion; `python:module:function`: maps prompt, completion and answer, as strings, to true or false (needs
    `--allow-code`)."""
    most: Annotated[int, Field(ge=1)] = 64
    """Maximum tokens of an answer; prompts that leave no room for it within `max_length` are skipped."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Strings that end an answer, and are cut from it, where the model does not end it itself."""
    examples: Annotated[int, Field(ge=1)] = 200
    """Number of test examples to answer, drawn by the profile's `seed`."""


class LmEvalSpec(Spec):
    """Tasks of lm-eval to score the models on."""

    tasks: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    """Names of tasks scored by likelihood (`arc_easy`, `hellaswag`), or by exact match of a greedily decoded answer
    (`gsm8k`)."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of documents per task, the first ones; unset: all."""
    shots: Annotated[int, Field(ge=0)] | None = None
    """Number of few-shot examples before each document; unset: as the task says."""
    include: str | None = None
    """Folder of your own tasks, YAML files in lm-eval's format. They may run code, so they need `--allow-code`."""


class LanguageData(DataSpec):
    """Texts, prompts with completions, or conversations."""

    prompt_column: str | None = None
    """Column of prompts, with `completion_column`; only the completions are learnt."""
    completion_column: str | None = None
    """Column of completions, with `prompt_column`. Both are put together as they are: without a space, a line break or
    the chat template."""
    messages_column: str | None = None
    """Column of conversations, lists of `{role, content}`; only what the assistant says is learnt. Excludes
    `prompt_column`."""
    context: Annotated[int, Field(ge=1)] = 1
    """Overlap in tokens between the windows of a text longer than `max_length`; each token is learnt and scored
    once."""
    answers: AnswersSpec | None = None
    """Let the models answer prompts of the test split by greedy decoding, and count the correct answers as an
    additional score. In conversations, the last assistant message is the completion."""

    lm_eval: LmEvalSpec | None = None
    """Also score the models on tasks of lm-eval (`pip install lm-eval`)."""

    MEASUREMENT_KEYS: ClassVar[tuple[str, ...]] = ("answers", "lm_eval")
    SCORING_KEYS: ClassVar[tuple[str, ...]] = ("context", "answers", "lm_eval")

    @model_validator(mode="after")
    def _one_form(self) -> LanguageData:
        if (self.prompt_column is None) != (self.completion_column is None):
            raise ValueError("`prompt_column` and `completion_column` go together")
        if self.messages_column is not None and self.prompt_column is not None:
            raise ValueError(
                "examples are either conversations or prompts: leave out `messages_column` or the other columns"
            )
        if self.context >= self.max_length:
            raise ValueError(f"`context` must be below `max_length`, which is {self.max_length}")
        if self.answers is not None and self.example_format == "texts":
            raise ValueError(
                "`answers` needs prompts: name `prompt_column` and `completion_column`, or `messages_column`"
            )
        if self.answers is not None and self.answers.most >= self.max_length:
            raise ValueError(f"`answers.most` must be below `max_length`, which is {self.max_length}")
        return self

    def code(self) -> tuple[str, ...]:
        """Return the validator if it is user code."""
        validators = () if self.answers is None else (self.answers.validator,)
        return tuple(validator for validator in validators if validator.startswith(CODE_PREFIX))

    def scoring_settings(self) -> dict[str, Any]:
        """Return the keys that affect scores, and the version of lm-eval that provides the tasks."""
        settings = super().scoring_settings()
        if self.lm_eval is not None and find_spec("lm_eval") is not None:
            settings["lm_eval_version"] = version("lm_eval")
        return settings

    def scoring_files(self, base: Path) -> tuple[Path, ...]:
        """Return the files of the user's own tasks."""
        if self.lm_eval is None or self.lm_eval.include is None:
            return ()
        return tuple(sorted(file for file in (base / self.lm_eval.include).rglob("*") if file.is_file()))

    def check(self, base: Path, *, allow_code: bool) -> None:
        """Check that tasks are available and can be scored here."""
        if self.lm_eval is not None:
            from compress.tasks.causal_lm.harness.tasks import check_tasks

            check_tasks(self.lm_eval, base, allow_code=allow_code)

    @property
    def continues_texts(self) -> bool:
        """Whether the examples are plain texts."""
        return self.example_format == "texts"

    @property
    def is_chat(self) -> bool:
        """Whether the examples are conversations."""
        return self.example_format == "messages"

    @property
    def example_format(self) -> ExampleFormat:
        """Format of an example."""
        if self.messages_column is not None:
            return "messages"
        return "texts" if self.prompt_column is None else "prompts"
