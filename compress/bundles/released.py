"""The code that bundles are made with: the sha256 of every version of it that was ever released.

`verify` runs no other code without permission. After a change of `runner.py` or of a template of `predict.py`:

    python -m compress.bundles.released

adds what they are now to the list; a test fails until it stands there.
"""

from __future__ import annotations

import json
from pathlib import Path

from compress.bundles.answers import answers_of
from compress.bundles.layout import RUNNER
from compress.core.disk.files import sha256_file, write_json
from compress.runtimes import runner
from compress.tasks.table import TASKS

LIST = Path(__file__).with_name("released.json")
"""Name in a bundle -> the sha256 of its versions, the oldest first."""


def is_released(name: str, digest: str) -> bool:
    """Whether a file of that name in a bundle is ours: a version that was released, or that of this installation."""
    return digest in (*listed().get(name, ()), *present().get(name, ()))


def listed() -> dict[str, list[str]]:
    """The list."""
    found: dict[str, list[str]] = json.loads(LIST.read_text(encoding="utf-8"))
    return found


def present() -> dict[str, list[str]]:
    """What this installation puts into bundles."""
    found: dict[str, list[str]] = {RUNNER: [sha256_file(Path(runner.__file__))]}
    for kind in TASKS.values():
        for name, file in answers_of(kind).code().items():
            found.setdefault(name, []).append(sha256_file(file))
    return {name: list(dict.fromkeys(digests)) for name, digests in found.items()}


def main() -> None:
    """Add to the list what is not there yet."""
    known, now = listed(), present()
    write_json(LIST, {name: list(dict.fromkeys([*known.get(name, []), *now[name]])) for name in now})


if __name__ == "__main__":
    main()
