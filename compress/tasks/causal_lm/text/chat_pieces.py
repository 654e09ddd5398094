"""Convert a chat template into fixed pieces of text for use without Jinja, only if provably equivalent."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from compress.core.errors import ModelError
from compress.models.text.chat import CLOCK, Render

TURNS = 6
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
_SAID = "\u2063said {} \u2063"
"""Stands for the content of a message; occurs in no template."""

Message = Mapping[str, str]


def pieces_of_template(template: str, render: Render) -> dict[str, Any] | None:
    """Return the text that a template puts before, between and after messages.

    None if that depends on more than the messages' roles.

    Args:
        render: renders messages with the template.

    Returns:
        `start`, `end` and `asks` by role, and `between` by two roles (`user>assistant`): the text before the first
        message, after the last one, after the last one with a generation prompt, and between two messages. `trim`:
        roles whose content is stripped of surrounding whitespace. A template that rejects system messages has no
        entries for that role.
    """
    if CLOCK in template:
        return None
    for roles in (_conversations(system=True), _conversations(system=False)):
        with suppress(ModelError, KeyError, ValueError):
            found = _read_off(render, roles)
            if all(joined(found, talk, asks) == render(talk, asks) for talk, asks in _tried(roles)):
                return found
    return None


def joined(pieces: Mapping[str, Any], messages: Sequence[Message], asks: bool) -> str:
    """Render messages from pieces, like the template.

    Raises:
        KeyError: the pieces lack a role or a pair of adjacent roles.
    """
    roles = [message["role"] for message in messages]
    parts = [pieces["start"][roles[0]]]
    for before, message in zip([None, *roles], messages, strict=False):
        parts += [] if before is None else [pieces["between"][f"{before}>{message['role']}"]]
        said, trims = message["content"], message["role"] in pieces["trim"]
        parts.append(said.strip() if trims else said)
    parts.append(pieces["asks" if asks else "end"][roles[-1]])
    return "".join(parts)


def _conversations(*, system: bool) -> list[list[str]]:
    """Return the roles of conversations of one to `TURNS` turns, without and, if `system`, with a system message."""
    turns = [role for role, _ in zip(itertools.cycle(("user", "assistant")), range(TURNS), strict=False)]
    before: list[list[str]] = [[], ["system"]] if system else [[]]
    return [[*first, *turns[:count]] for first in before for count in range(1, TURNS + 1)]


def _tried(conversations: Sequence[Sequence[str]]) -> list[tuple[list[Message], bool]]:
    return [
        (
            [
                {"role": role, "content": _CONTENTS[place % len(_CONTENTS)]}
                for place, role in enumerate(roles, first)
            ],
            asks,
        )
        for roles in conversations
        for first in range(len(_CONTENTS))
        for asks in ((True, False) if roles[-1] == "user" else (False,))
    ]


def _read_off(render: Render, conversations: Sequence[Sequence[str]]) -> dict[str, Any]:
    pieces: dict[str, Any] = {"start": {}, "between": {}, "end": {}, "asks": {}}
    for roles in conversations:
        said = [_SAID.format(place) for place in range(len(roles))]
        messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
        for asks in (True, False) if roles[-1] == "user" else (False,):
            rest = render(messages, asks)
            for place, text in enumerate(said):
                before, rest = rest.split(text)
                pair = f"{roles[place - 1]}>{roles[place]}"
                kind, name = ("between", pair) if place else ("start", roles[0])
                pieces[kind].setdefault(name, before)
            pieces["asks" if asks else "end"].setdefault(roles[-1], rest)
    # Determined from the longest conversation, which has all roles.
    around = [{**message, "content": f"\v{message['content']}\v"} for message in messages]
    shown = render(around, False)
    pieces["trim"] = sorted({one["role"] for one in around if one["content"] not in shown})
    return pieces
