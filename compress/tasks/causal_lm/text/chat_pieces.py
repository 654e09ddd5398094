"""A chat template as fixed pieces of text, for where there is no Jinja: proved equal, or not had at all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from compress.core.errors import ModelError
from compress.models.text.chat import Render

TURNS = 6
"""Turns of the longest conversation that is tried."""
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
"""What stands for what somebody says: no template holds it."""
_CLOCK = "strftime_now"
"""What a template reads the clock with."""

Message = Mapping[str, str]


def pieces_of_template(template: str, render: Render) -> dict[str, Any] | None:
    """What a template puts before, between and after messages; None where that depends on more than their roles.

    Args:
        render: what the template makes of messages.

    Returns:
        `start`, `end` and `asks` by role, and `between` by two roles (`user>assistant`): text that stands before the
        first message, after the last one, after it where the assistant is asked to answer, and between two. `trim`:
        the roles whose words lose the blanks around them.
    """
    if _CLOCK in template:
        return None
    try:
        found = _read_off(render)
        same = all(
            joined(found, conversation, asks) == render(conversation, asks) for conversation, asks in _tried()
        )
    except (ModelError, KeyError, ValueError):
        return None
    return found if same else None


def joined(pieces: Mapping[str, Any], messages: Sequence[Message], asks: bool) -> str:
    """Messages as the template would render them.

    Raises:
        KeyError: two roles follow each other that did not when the pieces were found.
    """
    roles = [message["role"] for message in messages]
    parts = [pieces["start"][roles[0]]]
    for before, message in zip([None, *roles], messages, strict=False):
        parts += [] if before is None else [pieces["between"][f"{before}>{message['role']}"]]
        said, trims = message["content"], message["role"] in pieces["trim"]
        parts.append(said.strip() if trims else said)
    parts.append(pieces["asks" if asks else "end"][roles[-1]])
    return "".join(parts)


def _conversations() -> list[list[str]]:
    """Roles of conversations of one to `TURNS` turns, with a system message and without."""
    turns = [role for role, _ in zip(itertools.cycle(("user", "assistant")), range(TURNS), strict=False)]
    return [[*system, *turns[:count]] for system in ([], ["system"]) for count in range(1, TURNS + 1)]


def _tried() -> list[tuple[list[Message], bool]]:
    return [
        (
            [
                {"role": role, "content": _CONTENTS[place % len(_CONTENTS)]}
                for place, role in enumerate(roles, first)
            ],
            asks,
        )
        for roles in _conversations()
        for first in range(len(_CONTENTS))
        for asks in ((True, False) if roles[-1] == "user" else (False,))
    ]


def _read_off(render: Render) -> dict[str, Any]:
    pieces: dict[str, Any] = {"start": {}, "between": {}, "end": {}, "asks": {}}
    for roles in _conversations():
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
    # Of the longest conversation, in which everybody speaks.
    around = [{**message, "content": f"\v{message['content']}\v"} for message in messages]
    shown = render(around, False)
    pieces["trim"] = sorted({one["role"] for one in around if one["content"] not in shown})
    return pieces
