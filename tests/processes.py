"""Fresh processes that need not import torch: forks of a server that did nothing but import what a run needs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from compress.models.io.checkpoints import load_model
from compress.models.io.outputs import outputs_of
from compress.runtimes import torch_worker
from compress.runtimes.launching import Command
from tests.timings import shorten_measuring

T = TypeVar("T")

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "transformers.models.bert.modeling_bert",
        "compress.engine.running",
        "compress.passes.distill.step",
        "compress.passes.prune.step",
        "torch.distributed.fsdp",
    ]
)


def in_a_fresh_process(function: Callable[..., T], *arguments: object) -> T:
    """What a function of a module gives in a process that has computed nothing before."""
    with FORKS.Pool(1) as pool:
        return pool.apply(function, arguments)


def outputs_in_a_fresh_process(folder: Path, **inputs: Tensor) -> Tensor:
    """The outputs of a saved model, from a process that knows nothing but its folder, with as many threads as this one:
    another number sums in another order."""
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    return torch.from_numpy(in_a_fresh_process(_outputs, folder, arrays, torch.get_num_threads()))


def _outputs(folder: Path, inputs: dict[str, np.ndarray], threads: int) -> np.ndarray:
    torch.set_num_threads(threads)
    model = load_model(folder, allow_code=True)
    with torch.inference_mode():
        return outputs_of(model(**{name: torch.from_numpy(array) for name, array in inputs.items()})).numpy()


def start(function: Callable[..., object], *arguments: object) -> BaseProcess:
    """A process that runs a function of a module, to wait for or to kill."""
    process = FORKS.Process(target=function, args=arguments)
    process.start()
    return process


def ends_of(running: Sequence[BaseProcess]) -> list[int | None]:
    """How processes that wait for each other end."""
    for process in running:
        process.join(100)
        # Where one was stopped, nobody answers the others any more.
        if process.exitcode != 0:
            for other in running:
                other.kill()
    return [process.exitcode for process in running]


def start_compress(*words: str | Path, folder: Path, cache: Path, errors: Path) -> BaseProcess:
    """`compress WORDS` started in `folder`; what it says of errors goes to the file `errors`."""
    return start(_compress, list(map(str, words)), folder, cache, errors)


def _compress(words: list[str], folder: Path, cache: Path, errors: Path) -> None:
    from compress.cli.root import main

    shorten_measuring()
    # Where the tests run in the background, the shell has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ["COMPRESS_CACHE"] = str(cache)
    for number, file in ((1, Path(os.devnull)), (2, errors)):
        with file.open("ab") as stream:
            os.dup2(stream.fileno(), number)
    main(words)


def run_all_in_forks(commands: Sequence[Command], where: str) -> None:
    """What `launching.run_all` does with jobs for torch, which takes seconds to import in each of them."""
    running = [start(_torch_job, command.argv) for command in commands]
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * len(running), where


def _torch_job(argv: Sequence[str]) -> None:
    sys.exit(torch_worker.main(list(argv[argv.index(torch_worker.__name__) + 1 :])))
