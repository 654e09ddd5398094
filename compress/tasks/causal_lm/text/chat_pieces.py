"""Convert a chat template into fixed pieces of text for use without Jinja, only if provably equivalent."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from compress.core.errors import ModelError
from compress.models.text.chat import CLOCK, Render

MAX_TURNS = 6
"""Turns of the longest conversation in the check."""
_CONTENTS = (
    "Hello, how are you?",
    "a\nb",
    "It's <fine> & {{ 7 }}",
    "ünïcödé 漢字 🙂",
    "x",
    "",
    "  two before, one behind ",
    "\n\nlines around\r\n",
    "\u3000\x1cblanks that are rare\x85\t\ufeff",
    " \n",
)
_MARKER = "\u2063said {} \u2063"
"""Stands for the content of a message; occurs in no template."""

Message = Mapping[str, str]


def pieces_of_template(template: str, render: Render) -> dict[str, Any] | None:
    """Return the text that a template puts before, between and after messages.

    None if that depends on more than the messages' roles.

    Args:
        render: renders messages with the template.

    Returns:
        `start`, `end` and `prompts` by role, and `between` by two roles (`user>assistant`): the text before the first
        message, after the last one, after the last one with a generation prompt, and between two messages. `trim`:
        roles whose content is stripped of surrounding whitespace. A template that rejects system messages has no
        entries for that role.
    """
    if CLOCK in template:
        return None
    for roles in (_conversations(system=True), _conversations(system=False)):
        with suppress(ModelError, KeyError, ValueError):
            pieces = _extract_pieces(render, roles)
            if all(
                render_pieces(pieces, messages, prompts) == render(messages, prompts)
                for messages, prompts in _test_conversations(roles)
            ):
                return pieces
    return None


def render_pieces(pieces: Mapping[str, Any], messages: Sequence[Message], prompts: bool) -> str:
    """Render messages from pieces, like the template.

    Raises:
        KeyError: the pieces lack a role or a pair of adjacent roles.
    """
    roles = [message["role"] for message in messages]
    parts = [pieces["start"][roles[0]]]
    for previous, message in zip([None, *roles], messages, strict=False):
        parts += [] if previous is None else [pieces["between"][f"{previous}>{message['role']}"]]
        content, is_trimmed = message["content"], message["role"] in pieces["trim"]
        parts.append(content.strip() if is_trimmed else content)
    parts.append(pieces["asks" if prompts else "end"][roles[-1]])
    return "".join(parts)


def _conversations(*, system: bool) -> list[list[str]]:
    """Return the roles of conversations of one to `MAX_TURNS` turns, without and, if `system`, with a system
    message."""
    turns = [role for role, _ in zip(itertools.cycle(("user", "assistant")), range(MAX_TURNS), strict=False)]
    prefixes: list[list[str]] = [[], ["system"]] if system else [[]]
    return [[*prefix, *turns[:count]] for prefix in prefixes for count in range(1, MAX_TURNS + 1)]


def _test_conversations(conversations: Sequence[Sequence[str]]) -> list[tuple[list[Message], bool]]:
    return [
        (
            [
                {"role": role, "content": _CONTENTS[index % len(_CONTENTS)]}
                for index, role in enumerate(roles, offset)
            ],
            prompts,
        )
        for roles in conversations
        for offset in range(len(_CONTENTS))
        for prompts in ((True, False) if roles[-1] == "user" else (False,))
    ]


def _extract_pieces(render: Render, conversations: Sequence[Sequence[str]]) -> dict[str, Any]:
    pieces: dict[str, Any] = {"start": {}, "between": {}, "end": {}, "asks": {}}
    for roles in conversations:
        markers = [_MARKER.format(index) for index in range(len(roles))]
        messages = [{"role": role, "content": text} for role, text in zip(roles, markers, strict=True)]
        for prompts in (True, False) if roles[-1] == "user" else (False,):
            rest = render(messages, prompts)
            for index, text in enumerate(markers):
                before, rest = rest.split(text)
                pair = f"{roles[index - 1]}>{roles[index]}"
                kind, name = ("between", pair) if index else ("start", roles[0])
                pieces[kind].setdefault(name, before)
            pieces["asks" if prompts else "end"].setdefault(roles[-1], rest)
    # Determined from the longest conversation, which has all roles.
    padded = [{**message, "content": f"\v{message['content']}\v"} for message in messages]
    rendered = render(padded, False)
    pieces["trim"] = sorted(
        {padded_message["role"] for padded_message in padded if padded_message["content"] not in rendered}
    )
    return pieces
