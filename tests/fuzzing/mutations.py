"""Changes of an input that readers stumble over: of its bytes, and of the values of a JSON or YAML text."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

EVIL_TOKENS = (
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x1b[31m", b"\xe2\x80\xae", b"\r", b"\t", b"'", b'"', b"\\",
    b"{", b"}", b"[", b"]", b":", b",", b"- ", b"&a ", b"*a", b"<<: ", b"!!int ", b"!!python/object:os.system ", b"0x_",
    b"010", b"0b", b"1_0", b"1:30", b"1e999", b"-1", b"NaN", b"-Infinity", b"9" * 5000, b"[" * 3000, b"{a: " * 500,
    b"null", b"~", b"|", b">", b"%", b"@", b"`", b"---", b"...", b"? ", b"\\ud800", b"=cmd", b"../", b"/etc/passwd",
)  # fmt: skip
EVIL_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**9, 10**40, -(2**70), 0.0, -0.5, 1e308, float("inf"), float("nan"),
    "", " ", "\0", "\x1b[31m\u202e", "\ud800", "a" * 5000, "../x", "/etc/passwd", "..\\x", "[/]", "[red]", "=1", "true",
    "1", "é" * 300, "0", [], {}, [[]], [None], [0], [""], {"": 0}, {"a": {"b": []}}, [1, "a", None], ["a", "a"],
)  # fmt: skip


def changed_bytes(raw: bytes, chance: random.Random) -> bytes:
    """A few changes of bytes: flips, cuts, repetitions, and tokens that mean something somewhere."""
    data = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        place = chance.randint(0, len(data))
        kind = chance.randrange(5)
        if kind == 0 and data:
            data[place % len(data)] = chance.randrange(256)
        elif kind == 1:
            data[place:place] = chance.choice(EVIL_TOKENS)
        elif kind == 2:
            del data[place : place + chance.choice((1, 2, 8, 200))]
        elif kind == 3:
            part = data[place : place + chance.randint(1, 60)]
            data[place:place] = part * chance.choice((1, 2, 50))
        else:
            del data[place:]
    return bytes(data)


def changed_value(value: Any, chance: random.Random) -> Any:
    """A copy of plain values with a few of them replaced, removed, repeated, exchanged or wrapped."""
    root = [copy.deepcopy(value)]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = list(_places(root))
        holder, key = chance.choice(places)
        kind = chance.randrange(8)
        if kind < 4:
            holder[key] = copy.deepcopy(chance.choice(EVIL_VALUES))
        elif kind == 4:
            other, where = chance.choice(places)
            holder[key] = copy.deepcopy(other[where])
        elif kind == 5:
            depth = chance.choice((3, 60, 400))
            for _ in range(depth):
                holder[key] = [holder[key]] if chance.random() < 0.5 else {"a": holder[key]}
        elif kind == 6 and isinstance(holder[key], list) and holder[key]:
            holder[key] = holder[key] * chance.choice((2, 30)) if chance.random() < 0.5 else holder[key][:-1]
        elif isinstance(holder, dict):
            moved = holder.pop(key)
            if chance.random() < 0.3:
                holder[chance.choice(("", "x", "\0", key + "s", "../x"))] = moved
        else:
            holder[key] = chance.choice((-1, 1.5, "x")) if isinstance(holder[key], int) else 0
    return root[0] if root else None


def changed_json(raw: bytes, chance: random.Random) -> bytes:
    """A JSON text with other values, or now and then with other bytes."""
    if chance.random() < 0.15:
        return changed_bytes(raw, chance)
    try:
        return json.dumps(changed_value(json.loads(raw), chance)).encode()
    except RecursionError:  # wrapped so often that Python cannot copy or write it
        return changed_bytes(raw, chance)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a value below a node: what holds it, and its key or index."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        for key in list(one) if isinstance(one, dict) else range(len(one)):
            yield one, key
            if isinstance(one[key], dict | list):
                waiting.append(one[key])
