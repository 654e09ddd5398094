"""How a model formats texts and conversations. Chat templates are Jinja code from the model and run in a sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from compress.core.errors import ModelError

Conversation = Sequence[Mapping[str, str]]
"""Messages, `{role, content}` each. A last message without `content` is to be generated."""
Prompt = str | Conversation
"""A text to continue, or a conversation for the assistant to continue."""
EMPTY_USER_TURN: Conversation = ({"role": "user"},)
"""A conversation whose first user message is to be generated."""
Render = Callable[[Conversation, bool], str]
"""A model's template: messages, and whether to add the generation prompt -> the text."""
CLOCK = "strftime_now"
"""Function with which a template reads the clock."""
TODAY = datetime(2024, 7, 26)
"""What the clock shows to templates: a fixed day, the one that Llama 3's name where there is no clock, as examples
would otherwise change from day to day."""
_CODES = "%-d %-m %A %B %D %F %H %I %M %S %T %Y %a %b %d %e %j %m %p %y"
_FIXED_CLOCK = (
    f"{{% macro {CLOCK}(format) %}}{{{{ format"
    + "".join(f" | replace({code!r}, {TODAY.strftime(code)!r})" for code in _CODES.split())
    + " }}{% endmacro %}{{ '' }}"
)
"""Jinja in front of a template that reads the clock, which overrides the function of transformers."""
PLACEHOLDER = "\ue000"
"""Stands for generated text when a template is inspected: a private-use character that no template contains."""


@dataclass(frozen=True)
class PromptFormat:
    """How a model takes texts, from its `task.json`.

    `begin_id` is put before every text, `end_id` after a text in training; the first of `answer_end_ids` to appear ends
    an answer.
    """

    max_length: int
    pad_id: int
    begin_id: int | None
    end_id: int | None
    chat_template: str | None
    special_tokens: Mapping[str, str]
    answer_end_ids: tuple[int, ...]

    @classmethod
    def of(cls, task: Mapping[str, Any]) -> PromptFormat:
        """Return the format in a `task.json`."""
        return cls(
            int(task["max_length"]),
            int(task["pad_id"]),
            task["begin_id"],
            task["end_id"],
            task["chat_template"],
            task["special_tokens"],
            end_ids(task),
        )

    def render(self, where: str) -> Render | None:
        """Return its chat template as a function; None without one."""
        return (
            None if self.chat_template is None else renderer(self.chat_template, self.special_tokens, where)
        )


def end_ids(task: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ids of the tokens that end an answer, from a `task.json`; older ones have a single id."""
    ends = task.get("end_ids", [task["end_id"]])
    return tuple(int(one) for one in ends if one is not None)


def renderer(template: str, special: Mapping[str, str], where: str) -> Render:
    """Return a function that renders messages as text in the model's format; for it, today is `TODAY`.

    Args:
        template: Jinja, as in `chat_template.jinja` or a tokenizer's config.
        special: the special tokens that templates refer to: `bos_token`, `eos_token`.

    Raises:
        ModelError: when called, if the template is not valid Jinja or rejects the messages.
    """

    def render(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        fixed = _FIXED_CLOCK if CLOCK in template else ""
        try:
            rendered, _ = render_jinja_template(
                conversations=[[dict(message) for message in messages]],
                chat_template=fixed + template,
                add_generation_prompt=add_generation_prompt,
                **special,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise ModelError(
                f"the model's chat template cannot render a conversation: {error}",
                where=where,
                code="chat-template",
            ) from error
        return str(rendered[0])

    return render
