"""How a model takes texts and conversations. A chat template is Jinja that comes with a model: it runs in a sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.core.errors import ModelError

Conversation = Sequence[Mapping[str, str]]
"""Messages, `{role, content}` each. The words of a last one without `content` are still to be written."""
Prompt = str | Conversation
"""A text to go on with, or a conversation that the assistant goes on with."""
UNWRITTEN: Conversation = ({"role": "user"},)
"""What a user would say first is to be written."""
Render = Callable[[Conversation, bool], str]
"""The template of a model: messages, and whether the assistant's next answer is asked for -> the text."""
PLACEHOLDER = "\ue000"
"""Stands for what is written where a template is looked at: a letter that is nobody's, so that no template has it."""


@dataclass(frozen=True)
class Format:
    """How a model takes texts, as its `task.json` says it: `begin` stands before every text, `end` behind one that is
    learnt, and whichever of `ends` comes first ends an answer."""

    max_length: int
    pad: int
    begin: int | None
    end: int | None
    template: str | None
    special: Mapping[str, str]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Format:
        """The format of a `task.json`."""
        return cls(
            int(described["max_length"]),
            int(described["pad_id"]),
            described["begin_id"],
            described["end_id"],
            described["chat_template"],
            described["special_tokens"],
            end_ids(described),
        )

    def render(self, where: str) -> Render | None:
        """Its chat template; None where it has none."""
        return None if self.template is None else renderer(self.template, self.special, where)


def end_ids(described: Mapping[str, Any]) -> tuple[int, ...]:
    """The tokens that end an answer, by a `task.json`; older ones name a single one."""
    ends = described.get("end_ids", [described["end_id"]])
    return tuple(int(one) for one in ends if one is not None)


def renderer(template: str, special: Mapping[str, str], where: str) -> Render:
    """What turns messages into text as the model was taught.

    Args:
        template: Jinja, as `chat_template.jinja` or a tokenizer's config holds it.
        special: the special tokens that templates name: `bos_token`, `eos_token`.

    Raises:
        ModelError: when it is called: the template is no Jinja or refuses the messages.
    """

    def render(messages: Sequence[Mapping[str, str]], asks: bool) -> str:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered, _ = render_jinja_template(
                conversations=[[dict(message) for message in messages]],
                chat_template=template,
                add_generation_prompt=asks,
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
