"""The code that bundles are made with: the sha256 of every version of it that was ever released.

`verify` runs no other code without permission. After a change of `runner.py` or of a template of `predict.py`:

    python -m compress.bundles.released

adds what they are now to the list; a test fails until it stands there.
"""

from __future__ import annotations

import json
from pathlib import Path

from compress.bundles.layout import PREDICT, RUNNER, TEMPLATES
from compress.core.files import sha256_file, write_json
from compress.runtimes import runner

LIST = Path(__file__).with_name("released.json")
"""Name in a bundle -> the sha256 of its versions, the oldest first."""

_PRESENT = {
    RUNNER: (Path(runner.__file__),),
    PREDICT: (TEMPLATES / "classify.py", TEMPLATES / "embed.py"),
}


def is_released(name: str, digest: str) -> bool:
    """Whether a file of that name in a bundle is ours: a version that was released, or that of this installation."""
    return digest in (*listed().get(name, ()), *present().get(name, ()))


def listed() -> dict[str, list[str]]:
    """The list."""
    found: dict[str, list[str]] = json.loads(LIST.read_text(encoding="utf-8"))
    return found


def present() -> dict[str, list[str]]:
    """What this installation puts into bundles."""
    return {name: [sha256_file(file) for file in files] for name, files in _PRESENT.items()}


def main() -> None:
    """Add to the list what is not there yet."""
    known, now = listed(), present()
    write_json(LIST, {name: list(dict.fromkeys([*known.get(name, []), *now[name]])) for name in now})


if __name__ == "__main__":
    main()
