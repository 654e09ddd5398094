"""What a terminal shows."""

from __future__ import annotations

from rich.console import Console


def printed(*shown: object, width: int = 150) -> str:
    """What a terminal without colours, so many letters wide, shows of what rich renders."""
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(*shown)
    return capture.get()
