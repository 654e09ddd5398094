"""Readers on changed inputs: `python -m tests.fuzzing.running SECONDS [TARGET...]` prints what they stumble over."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from compress.core.disk.exhaustion import is_exhaustion
from compress.core.errors import CompressError
from tests.fuzzing.targets import TARGETS, FuzzTarget

CORPUS = Path(__file__).parents[1] / "corpus"
"""Inputs that something stumbled over once: a folder a target, a file an input. New ones are kept here too, unless
`COMPRESS_FUZZ_KEEP` names another folder."""
LONGEST_S = 20.0
"""Processor time of one call; more is a hang."""


class Hang(BaseException):
    """A call took longer than any may; no `except Exception` swallows it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End what takes more processor time than this."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def stumbles(target: FuzzTarget, data: bytes, folder: Path) -> str | None:
    """What a reader does with an input that it should not: the traceback; None where it reads or refuses it."""
    try:
        with limited(LONGEST_S):
            target.read(data, folder)
    except CompressError as error:
        # The folder of an artifact is the one thing that is only ever read through the cache, which catches this.
        return None if error.exit_code != 1 else traceback.format_exc()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - panics of Rust libraries and hangs, too
        return None if is_exhaustion(error) else traceback.format_exc()
    return None


def changed_inputs(target: FuzzTarget, seeds: list[bytes], seed: int) -> Iterator[bytes]:
    """The inputs of a seed, without end: each right one first, then changes of them."""
    yield from seeds
    number = 0
    while True:
        chance = random.Random(f"{target.name} {seed} {number}")
        yield target.change(chance.choice(seeds), chance)
        number += 1


def main(seconds: float, names: list[str]) -> int:
    """Take turns among targets until the time is over; what was stumbled over is kept in the corpus, once a place."""
    resource.setrlimit(resource.RLIMIT_AS, (24 * 2**30, 24 * 2**30))
    deadline, seed = time.monotonic() + seconds, time.time_ns()
    found: dict[str, str] = {}
    keep = Path(os.environ.get("COMPRESS_FUZZ_KEEP", CORPUS))
    with tempfile.TemporaryDirectory() as name:
        running = []
        for key in names or TARGETS:
            folder = Path(name) / key
            folder.mkdir()
            running.append(
                (TARGETS[key], folder, changed_inputs(TARGETS[key], TARGETS[key].prepare(folder), seed))
            )
        calls = 0
        while time.monotonic() < deadline:
            for target, folder, inputs in running:
                for _ in range(20):
                    data = next(inputs)
                    calls += 1
                    said = stumbles(target, data, folder)
                    if said is None:
                        continue
                    place = (
                        f"{target.name}: "
                        + " <- ".join(
                            line.strip()
                            for line in reversed(said.splitlines())
                            if line.lstrip().startswith("File ")
                        )[:400]
                    )
                    if place not in found:
                        found[place] = said
                        kept = keep / target.name / hashlib.sha256(data).hexdigest()[:12]
                        kept.parent.mkdir(parents=True, exist_ok=True)
                        kept.write_bytes(data)
                        print(f"== {kept}\n{said[-1800:]}", flush=True)
        print(f"{calls} calls of {len(running)} readers, {len(found)} places where one stumbled")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
