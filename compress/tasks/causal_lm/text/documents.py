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
from compress.tasks.causal_lm.keys import Written

ROLES = ("system", "user", "assistant")
_OTHER_ROLES = {"human": "user", "gpt": "assistant"}
"""Role names in the ShareGPT format."""
_SHOWN = 60
"""Maximum number of characters of an answer shown in an error."""


@dataclass(frozen=True)
class Piece:
    """A text, whether its tokens are trained on and scored, and whether an end token follows it."""

    text: str
    learnt: bool
    ends: bool = False


def prompt_item(prompt: str, completion: str, *, ends: bool = True) -> str:
    """Return a prompt with its completion as a data item; `ends`: whether an end token follows."""
    said = {"prompt": prompt, "completion": completion}
    return json.dumps(said if ends else {**said, "ends": False}, ensure_ascii=False)


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
    made = []
    for message in messages:
        if isinstance(message, Mapping) and message.keys() >= {"from", "value"}:
            said = message["from"]
            message = {"role": _OTHER_ROLES.get(str(said), said), "content": message["value"]}
        known = isinstance(message, Mapping) and message.get("role") in ROLES
        if not known or not isinstance(message.get("content"), str):
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
        made.append({"role": message["role"], "content": message["content"]})
    if all(message["role"] != "assistant" for message in made):
        raise DataError("this conversation has no assistant message", where=where, code="no-answer")
    if all(message["role"] != "assistant" for message in made[1:]):
        raise DataError(
            "nothing stands before this conversation's only assistant message, so it answers nothing",
            where=where,
            code="no-question",
        )
    return json.dumps(made, ensure_ascii=False)


def pieces_of(item: str, written: Written, render: Render | None) -> list[Piece]:
    """Split an example into pieces, in order; each is tokenized separately, as an answer is when it is generated.

    Args:
        render: the model's chat template, required for conversations.

    Raises:
        DataError: there is no template, or it does not append the whole answer to the preceding conversation.
    """
    if written == "texts":
        return [Piece(item, learnt=True)]
    if written == "prompts":
        said = json.loads(item)
        ends = said.get("ends", True)
        return [Piece(said["prompt"], learnt=False), Piece(said["completion"], learnt=True, ends=ends)]
    if render is None:
        raise DataError(
            "conversations need a chat template, but the model has none",
            where="data.messages_column",
            code="no-chat-template",
        )
    found, pieces, done = json.loads(item), list[Piece](), ""
    # If the last answer was generated, the previous ones belong to its prompt.
    messages, answered_alone = (found["messages"], True) if isinstance(found, dict) else (found, False)
    for place, message in enumerate(messages):
        if message["role"] != "assistant" or (answered_alone and place < len(messages) - 1):
            continue
        asked, answered = render(messages[:place], True), render(messages[: place + 1], False)
        if not asked.startswith(done) or not answered.startswith(asked):
            raise DataError(
                "the model's chat template changes the text before an answer once the answer is added, so the "
                "assistant's words cannot be told from the rest",
                where="data.messages_column",
                hint="Give the examples as `prompt_column` and `completion_column`.",
                code="chat-template",
            )
        before, learnt = asked[len(done) :], answered[len(asked) :]
        if not _holds(before, learnt, message["content"]):
            raise DataError(
                "the model's chat template leaves out or changes part of the assistant's message, such as its "
                f"reasoning, so that part would not be learnt: of {_shown(message['content'])} it keeps "
                f"{_shown(learnt)}",
                where="data.messages_column",
                hint="Change the template in the model's folder (chat_template.jinja, or `chat_template` in "
                "tokenizer_config.json) so that it keeps answers whole, or give the examples as `prompt_column` and "
                "`completion_column`.",
                code="chat-template",
            )
        pieces += [Piece(before, learnt=False), Piece(learnt, learnt=True)]
        done = answered
    return pieces


def _holds(before: str, learnt: str, content: str) -> bool:
    """Whether the trained text contains the whole answer, ignoring whitespace.

    The answer may begin within the generation prompt of the template (`<think>`).
    """
    asked, said, whole = ("".join(text.split()) for text in (before, learnt, content))
    return whole in (asked + said)[max(0, len(asked) - len(whole) + 1) :]


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def question_of(item: str) -> tuple[Prompt, str]:
    """Return the prompt and the answer of an example; in a conversation, the answer is the last assistant message."""
    said = json.loads(item)
    if isinstance(said, dict):
        return said["prompt"], said["completion"]
    last = max(place for place, message in enumerate(said) if message["role"] == "assistant")
    return said[:last], said[last]["content"]


def asked_in(item: str) -> list[str]:
    """Return the questions of an example: its prompt, or the user's messages in a conversation."""
    said = json.loads(item)
    if isinstance(said, dict):
        return [said["prompt"]]
    return [message["content"] for message in said if message["role"] == "user"]


def answered_item(prompt: Prompt, answer: str, *, ends: bool) -> str:
    """Combine a prompt with a generated answer, where only the answer is trained on."""
    if isinstance(prompt, str):
        return prompt_item(prompt, answer, ends=ends)
    messages = [*map(dict, prompt), {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}, ensure_ascii=False)
