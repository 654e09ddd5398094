"""Released bundle code: the sha256 of every released version of each code file.

`verify` runs no other code without permission. After a change of `runner.py` or of a template of `predict.py`, run

    python -m compress.bundles.released

to add the current digests to the list; a test fails until they are listed.
"""

from __future__ import annotations

import json
from pathlib import Path

from compress.bundles.answers import bundle_code_of
from compress.bundles.layout import RUNNER
from compress.core.disk.files import sha256_file, write_json
from compress.runtimes import runner
from compress.tasks.table import TASKS

RELEASED_FILE = Path(__file__).with_name("released.json")
"""File name in a bundle -> the sha256 of its versions, oldest first."""


def is_released(name: str, digest: str) -> bool:
    """Whether a bundle file of this name is ours: a released version, or this installation's."""
    return digest in (*released_digests().get(name, ()), *current_digests().get(name, ()))


def released_digests() -> dict[str, list[str]]:
    """Return the released digests by file name."""
    found: dict[str, list[str]] = json.loads(RELEASED_FILE.read_text(encoding="utf-8"))
    return found


def current_digests() -> dict[str, list[str]]:
    """Return the digests of the code that this installation puts into bundles, by file name."""
    by_name: dict[str, list[str]] = {RUNNER: [sha256_file(Path(runner.__file__))]}
    for kind in TASKS.values():
        for name, file in bundle_code_of(kind).code().items():
            by_name.setdefault(name, []).append(sha256_file(file))
    return {name: list(dict.fromkeys(digests)) for name, digests in by_name.items()}


def main() -> None:
    """Add the digests of this installation to the list."""
    released, current = released_digests(), current_digests()
    write_json(
        RELEASED_FILE,
        {name: list(dict.fromkeys([*released.get(name, []), *current[name]])) for name in current},
    )


if __name__ == "__main__":
    main()
