"""How the file of a peer is called, by the interpreter of the peer's own environment, in a folder of its own:

    PYTHONPATH=benchmarks python -P -m peers.NAME SETTING MODEL CALIBRATION OUT

MODEL is an FP32 ONNX file, CALIBRATION a folder of training examples, one `.npz` of inputs each, unpadded; OUT is the
folder that gets the quantized `model.onnx`. `-P`: a peer's file may be called like the package that it imports, and so
it also imports that package only when it is called: its settings are read without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Feed = dict[str, NDArray[np.int64]]
"""The inputs of one example by name, (1, length) each."""
Quantize = Callable[[Path, Path, Path], None]
"""Reads an FP32 file and a folder of training examples, and writes a quantized file."""


def call(settings: Mapping[str, Quantize]) -> None:
    """Quantize as the command line says."""
    setting, model, calibration, out = sys.argv[1:]
    settings[setting](Path(model), Path(calibration), Path(out) / "model.onnx")


def write_feeds(folder: Path, feeds: Sequence[Mapping[str, NDArray[np.int64]]]) -> None:
    """Write examples as the files of a calibration folder."""
    for number, feed in enumerate(feeds):
        np.savez(folder / f"{number:05}.npz", allow_pickle=False, **feed)


def read_feeds(folder: Path) -> Iterator[Feed]:
    """The examples of a calibration folder in their order."""
    for file in sorted(folder.glob("*.npz")):
        with np.load(file, allow_pickle=False) as stored:
            yield {name: stored[name] for name in stored.files}


def padded(feeds: Iterable[Feed]) -> list[Feed]:
    """The examples, all as long as the longest: zeros after the end, which the mask leaves out."""
    every = list(feeds)
    longest = max(values.shape[1] for feed in every for values in feed.values())
    return [
        {name: np.pad(each, ((0, 0), (0, longest - each.shape[1]))) for name, each in feed.items()}
        for feed in every
    ]


class Reader:
    """The examples as onnxruntime's calibrators read them, and what descends from those."""

    def __init__(self, feeds: Callable[[], Iterable[Feed]]) -> None:
        self._begin = feeds
        self.rewind()

    def get_next(self) -> Feed | None:
        """The next example; None after the last."""
        return next(self._feeds, None)

    def __iter__(self) -> Iterator[Feed]:
        return self._feeds

    def rewind(self) -> None:
        """Begin again."""
        self._feeds = iter(self._begin())


def reader(folder: Path) -> Reader:
    """The examples of a calibration folder, unpadded."""
    return Reader(lambda: read_feeds(folder))
