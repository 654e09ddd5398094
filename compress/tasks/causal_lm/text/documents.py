"""What an example is before it is tokens: pieces of text, of which the model learns some."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from compress.core.errors import DataError
from compress.models.text.chat import Prompt, Render
from compress.tasks.causal_lm.keys import Written

ROLES = ("system", "user", "assistant")
_OTHER_ROLES = {"human": "user", "gpt": "assistant"}
"""As data sets in the form of ShareGPT call them."""
_SHOWN = 60
"""Letters of an answer that an error shows."""


@dataclass(frozen=True)
class Piece:
    """A text, whether its tokens are learnt and scored, and whether the text ends with it."""

    text: str
    learnt: bool
    ends: bool = False


def prompt_item(prompt: str, completion: str, *, ends: bool = True) -> str:
    """A prompt with its completion as one item of the data; `ends`: whether the text ends with it."""
    said = {"prompt": prompt, "completion": completion}
    return json.dumps(said if ends else {**said, "ends": False}, ensure_ascii=False)


def messages_item(messages: Any, where: str | None = None) -> str:
    """A conversation as one item of the data.

    It is a list of messages, or that as JSON; `{from, value}` stands for `{role, content}`.

    Raises:
        DataError: it is none: no list of messages with a role and a text, or the assistant says nothing in it.
    """
    if isinstance(messages, str):
        # As a cell of a csv file holds it.
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
        made.append({"role": message["role"], "content": message["content"]})
    if all(message["role"] != "assistant" for message in made):
        raise DataError("this conversation has no assistant message", where=where, code="no-answer")
    return json.dumps(made, ensure_ascii=False)


def pieces_of(item: str, written: Written, render: Render | None) -> list[Piece]:
    """The pieces of an example, in order; each is turned into tokens by itself, as it is when the model answers.

    Args:
        render: the model's chat template, which conversations need.

    Raises:
        DataError: the template does not put an answer behind the conversation before it.
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
    # Of an answer that was written anew, those before it are what it was asked.
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
    """Whether an answer stands whole where it is learnt, blanks aside; its first words may be those that the template
    puts there when it asks (`<think>`)."""
    asked, said, whole = ("".join(text.split()) for text in (before, learnt, content))
    return whole in (asked + said)[max(0, len(asked) - len(whole) + 1) :]


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def question_of(item: str) -> tuple[Prompt, str]:
    """Of an example what is answered, and the answer: of a conversation what the assistant says last."""
    said = json.loads(item)
    if isinstance(said, dict):
        return said["prompt"], said["completion"]
    last = max(place for place, message in enumerate(said) if message["role"] == "assistant")
    return said[:last], said[last]["content"]


def asked_in(item: str) -> list[str]:
    """Of an example what it asks: its prompt, or what the user says in a conversation."""
    said = json.loads(item)
    if isinstance(said, dict):
        return [said["prompt"]]
    return [message["content"] for message in said if message["role"] == "user"]


def answered_item(prompt: Prompt, answer: str, *, ends: bool) -> str:
    """A prompt with what was answered to it, of which the answer alone is learnt."""
    if isinstance(prompt, str):
        return prompt_item(prompt, answer, ends=ends)
    messages = [*map(dict, prompt), {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}, ensure_ascii=False)
