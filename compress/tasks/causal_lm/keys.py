"""The keys of a profile's `data` that language models alone have."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from compress.core.disk.package_paths import CODE
from compress.core.spec import Spec
from compress.profile.schema import DataSpec
from compress.profile.specs.validator import ValidatorName

Written = Literal["texts", "prompts", "messages"]
"""What an example is: a text, a prompt with its completion, or a conversation."""


class AnswersSpec(Spec):
    """Which answers of a model are right."""

    validator: ValidatorName
    """`exact`: an answer is the completion, but for spaces around it; `contains`: that stands in it; `regex:PATTERN`:
    the pattern finds something in it, and with a group in the pattern the same as in the completion;
    `python:module:function`: from prompt, completion and answer, texts, to true or false (needs `--allow-code`)."""
    most: Annotated[int, Field(ge=1)] = 64
    """Tokens of an answer, at most; prompts beside which they have no room in `max_length` are not asked."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts before which an answer ends, where the model does not end it itself."""
    examples: Annotated[int, Field(ge=1)] = 200
    """Examples of the test split that are asked, drawn by `seed`."""


class LmEvalSpec(Spec):
    """Tasks of lm-eval that score a model."""

    tasks: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    """Names of tasks whose answers are chosen or judged by their likelihood (`arc_easy`, `hellaswag`)."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Documents of each task, at most, the first ones; unset: all."""
    shots: Annotated[int, Field(ge=0)] | None = None
    """Answered examples that stand before each document; unset: as many as the task says."""
    include: str | None = None
    """A folder of tasks of one's own, YAML files as lm-eval reads them. They may run code, so they need
    `--allow-code`."""


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
    answers: AnswersSpec | None = None
    """Let the models answer prompts of the test split, greedily, and count the right answers: a further score. Of a
    conversation what the assistant says last is the completion."""

    lm_eval: LmEvalSpec | None = None
    """Score the models in tasks of lm-eval too (`pip install lm-eval`)."""

    MEASURED: ClassVar[tuple[str, ...]] = ("answers", "lm_eval")
    SCORED_BY: ClassVar[tuple[str, ...]] = ("context", "answers", "lm_eval")

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
        if self.answers is not None and self.written == "texts":
            raise ValueError(
                "`answers` need something to answer: name `prompt_column` and `completion_column`, or `messages_column`"
            )
        if self.answers is not None and self.answers.most >= self.max_length:
            raise ValueError(f"`answers.most` must be below `max_length`, which is {self.max_length}")
        return self

    def code(self) -> tuple[str, ...]:
        """What judges answers, where it is code of the user."""
        named = () if self.answers is None else (self.answers.validator,)
        return tuple(one for one in named if one.startswith(CODE))

    def scored_by(self) -> dict[str, Any]:
        """The keys, and the release of lm-eval that holds its tasks."""
        found = super().scored_by()
        if self.lm_eval is not None and find_spec("lm_eval") is not None:
            found["lm_eval_version"] = version("lm_eval")
        return found

    def judging(self, base: Path) -> tuple[Path, ...]:
        """The files of the user's own tasks."""
        if self.lm_eval is None or self.lm_eval.include is None:
            return ()
        return tuple(sorted(file for file in (base / self.lm_eval.include).rglob("*") if file.is_file()))

    def check(self, base: Path, *, allow_code: bool) -> None:
        """Refuse tasks that cannot be had or scored here."""
        if self.lm_eval is not None:
            from compress.tasks.causal_lm.harness.tasks import check_tasks

            check_tasks(self.lm_eval, base, allow_code=allow_code)

    @property
    def goes_on(self) -> bool:
        """Whether the examples are plain texts."""
        return self.written == "texts"

    @property
    def converses(self) -> bool:
        """Whether they are conversations."""
        return self.written == "messages"

    @property
    def written(self) -> Written:
        """What an example is."""
        if self.messages_column is not None:
            return "messages"
        return "texts" if self.prompt_column is None else "prompts"
