"""Structure of an example before tokenization: pieces of text, some of which are trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from compress.core.errors import DataError
from compress.data.texts import is_unicode
from compress.models.text.chat import Prompt, Render
from compress.tasks.causal_lm.keys import ExampleFormat

ROLES = ("system", "user", "assistant")
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
"""Role names in the ShareGPT format."""
_MAX_EXCERPT = 60
"""Maximum number of characters of an answer shown in an error."""


@dataclass(frozen=True)
class Piece:
    """A text, whether its tokens are trained on and scored, and whether an end token follows it."""

    text: str
    is_target: bool
    has_end_token: bool = False


def prompt_item(prompt: str, completion: str, *, ends: bool = True) -> str:
    """Return a prompt with its completion as a data item; `ends`: whether an end token follows."""
    fields = {"prompt": prompt, "completion": completion}
    return json.dumps(fields if ends else {**fields, "ends": False}, ensure_ascii=False)


def messages_item(messages: Any, where: str | None = None) -> str:
    """Return a conversation as a data item.

    Accepts a list of messages, or that as JSON; `{from, value}` is read as `{role, content}`.

    Raises:
        DataError: it is not a list of messages with a role and a text, or no assistant message answers another.
    """
    if isinstance(messages, str):
        # As stored in a cell of a csv file.
        with suppress(ValueError, RecursionError):
            messages = json.loads(messages)
    if not isinstance(messages, list | tuple) or not messages:
        raise DataError(
            "expected a conversation, a list of messages with `role` and `content`",
            where=where,
            code="no-messages",
        )
    cleaned = []
    for message in messages:
        if isinstance(message, Mapping) and message.keys() >= {"from", "value"}:
            sender = message["from"]
            message = {"role": _SHAREGPT_ROLES.get(str(sender), sender), "content": message["value"]}
        has_role = isinstance(message, Mapping) and message.get("role") in ROLES
        if not has_role or not isinstance(message.get("content"), str):
            raise DataError(
                f"a message needs a `role` ({', '.join(ROLES)}) and a text in `content`",
                where=where,
                code="no-messages",
            )
        if not is_unicode(message["content"]):
            raise DataError(
                "a message contains half a surrogate pair: not valid Unicode",
                where=where,
                code="text-unicode",
            )
        cleaned.append({"role": message["role"], "content": message["content"]})
    if all(message["role"] != "assistant" for message in cleaned):
        raise DataError("this conversation has no assistant message", where=where, code="no-answer")
    if all(message["role"] != "assistant" for message in cleaned[1:]):
        raise DataError(
            "nothing stands before this conversation's only assistant message, so it answers nothing",
            where=where,
            code="no-question",
        )
    return json.dumps(cleaned, ensure_ascii=False)


def pieces_of(item: str, written: ExampleFormat, render: Render | None) -> list[Piece]:
    """Split an example into pieces, in order; each is tokenized separately, as an answer is when it is generated.

    Args:
        render: the model's chat template, required for conversations.

    Raises:
        DataError: there is no template, or it does not append the whole answer to the preceding conversation.
    """
    if written == "texts":
        return [Piece(item, is_target=True)]
    if written == "prompts":
        fields = json.loads(item)
        ends = fields.get("ends", True)
        return [
            Piece(fields["prompt"], is_target=False),
            Piece(fields["completion"], is_target=True, has_end_token=ends),
        ]
    if render is None:
        raise DataError(
            "conversations need a chat template, but the model has none",
            where="data.messages_column",
            code="no-chat-template",
        )
    parsed, pieces, rendered = json.loads(item), list[Piece](), ""
    # If the last answer was generated, the previous ones belong to its prompt.
    messages, last_only = (parsed["messages"], True) if isinstance(parsed, dict) else (parsed, False)
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or (last_only and index < len(messages) - 1):
            continue
        prompt, completed = render(messages[:index], True), render(messages[: index + 1], False)
        if not prompt.startswith(rendered) or not completed.startswith(prompt):
            raise DataError(
                "the model's chat template changes the text before an answer once the answer is added, so the "
                "assistant's words cannot be told from the rest",
                where="data.messages_column",
                hint="Give the examples as `prompt_column` and `completion_column`.",
                code="chat-template",
            )
        context, answer = prompt[len(rendered) :], completed[len(prompt) :]
        if not _contains_answer(context, answer, message["content"]):
            raise DataError(
                "the model's chat template leaves out or changes part of the assistant's message, such as its "
                f"reasoning, so that part would not be learnt: of {_excerpt(message['content'])} it keeps "
                f"{_excerpt(answer)}",
                where="data.messages_column",
                hint="Change the template in the model's folder (chat_template.jinja, or `chat_template` in "
                "tokenizer_config.json) so that it keeps answers whole, or give the examples as `prompt_column` and "
                "`completion_column`.",
                code="chat-template",
            )
        pieces += [Piece(context, is_target=False), Piece(answer, is_target=True)]
        rendered = completed
    return pieces


def _contains_answer(context: str, answer: str, content: str) -> bool:
    """Whether the trained text contains the whole answer, ignoring whitespace.

    The answer may begin within the generation prompt of the template (`<think>`).
    """
    context_text, answer_text, content_text = ("".join(text.split()) for text in (context, answer, content))
    return content_text in (context_text + answer_text)[max(0, len(context_text) - len(content_text) + 1) :]


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= _MAX_EXCERPT else f"{text[:_MAX_EXCERPT]}…")


def prompt_and_answer(item: str) -> tuple[Prompt, str]:
    """Return the prompt and the answer of an example; in a conversation, the answer is the last assistant message."""
    example = json.loads(item)
    if isinstance(example, dict):
        return example["prompt"], example["completion"]
    last = max(index for index, message in enumerate(example) if message["role"] == "assistant")
    return example[:last], example[last]["content"]


def questions_of(item: str) -> list[str]:
    """Return the questions of an example: its prompt, or the user's messages in a conversation."""
    example = json.loads(item)
    if isinstance(example, dict):
        return [example["prompt"]]
    return [message["content"] for message in example if message["role"] == "user"]


def answered_item(prompt: Prompt, answer: str, *, ends: bool) -> str:
    """Combine a prompt with a generated answer, where only the answer is trained on."""
    if isinstance(prompt, str):
        return prompt_item(prompt, answer, ends=ends)
    messages = [*map(dict, prompt), {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}, ensure_ascii=False)
