"""Signals of frozen teachers on fixed inputs: computed once for all epochs, steps and runs, and cached on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.core.artifacts import Artifact
from compress.core.disk.files import digest_of, make_folder, write_sealed
from compress.core.terminal.progress import Progress
from compress.core.units import GIB
from compress.encoding.inputs import Inputs, model_inputs
from compress.encoding.tokens import ATTENTION_MASK, TokenInputs
from compress.models.io.checkpoints import load_model
from compress.step import StepContext
from compress.store.cache import SIGNALS_NOTE
from compress.store.locks import held
from compress.training.batches import to_tensors
from compress.training.prediction import Device, Precision, autocast_for, examples_at_once
from compress.training.signals.averaging import Combine, MeanOfTeachers, mean_outputs, shares
from compress.training.signals.cache import Layout, SignalWriter, StoredSignal, TooLarge, open_signal
from compress.training.signals.capture import Recorder, Signals
from compress.training.signals.top_k import TopK, taken_from, with_top_k

BUDGET = 8 * GIB
"""Maximum disk bytes for the signals of one teacher on one set of inputs, not counting its outputs."""

CHUNK = 1024
"""Examples in a chunk: a kill loses the work on at most one."""

OUTPUTS = "outputs"

_FORMAT = 1
_LIBRARIES = ("torch", "transformers", "numpy")


@dataclass(frozen=True)
class TeacherSignals:
    """The signals of one teacher on one set of inputs.

    `stored` are the cached ones, including `outputs`; `live` computes the rest, None if there is none.
    """

    stored: Mapping[str, StoredSignal]
    live: LiveSignals | None
    device: Device

    @property
    def outputs(self) -> NDArray[np.float32]:
        """The teacher's outputs on all examples, float32 (n, labels or width), memory-mapped and read-only."""
        return self.stored[OUTPUTS].values.values

    def take(self, indices: NDArray[np.int64]) -> Signals:
        """Return the signals of the examples at `indices`, on the training device in float32 (packed ones: uint8).

        `outputs` (len(indices), k), token signals (len(indices), longest, d) padded at the end, others
        (len(indices), ...).
        """
        found = {name: _numbers(signal.take(indices).to(self.device)) for name, signal in self.stored.items()}
        return found if self.live is None else {**found, **self.live.take(indices)}


@dataclass(frozen=True)
class LiveSignals:
    """The signals of a teacher that runs for every batch."""

    model: nn.Module
    inputs: Inputs
    names: Sequence[str]
    device: Device
    precision: Precision

    def take(self, indices: NDArray[np.int64]) -> Signals:
        """As `TeacherSignals.take`, but padding positions have the values that the model returned."""
        batch = to_tensors(self.inputs.batch(indices), self.device)
        found = observe(self.model, batch, self.names, precision=self.precision, device=self.device)
        return {name: _numbers(signal) for name, signal in found.items()}


@dataclass(frozen=True)
class AveragedSignals:
    """Several teachers with separate signals as one: the weighted mean of their outputs (`mean_outputs`)."""

    teachers: Sequence[tuple[TeacherSource, float]]
    combine: Combine

    @property
    def outputs(self) -> NDArray[np.float32]:
        """The mean of all teachers on all examples, float32 (n, labels or width), in memory."""
        parts = [(torch.from_numpy(np.array(teacher.outputs)), weight) for teacher, weight in self.teachers]
        return mean_outputs(parts, self.combine).numpy()

    def take(self, indices: NDArray[np.int64]) -> Signals:
        """Return the mean of their outputs on the examples at `indices`, (len(indices), k)."""
        said = [(teacher.take(indices)[OUTPUTS], weight) for teacher, weight in self.teachers]
        return {OUTPUTS: mean_outputs(said, self.combine)}


TeacherSource = TeacherSignals | AveragedSignals
"""One teacher or several averaged ones, on one set of inputs."""


def averaged(teachers: Sequence[tuple[TeacherSource, float]], combine: Combine) -> TeacherSource:
    """Combine several weighted teachers into one; a single one is returned unchanged."""
    return teachers[0][0] if len(teachers) == 1 else AveragedSignals(teachers, combine)


def cached_signals(
    load: Callable[[], nn.Module],
    inputs: Inputs,
    names: Iterable[str],
    shared: Path,
    *,
    teacher_digest: str,
    device: Device,
    precision: Precision,
    progress: Progress,
    budget_bytes: int = BUDGET,
    title: str = "teacher",
    chunk: int = CHUNK,
) -> TeacherSignals:
    """Return the named signals of a frozen teacher on `inputs`, and `outputs` unless `TopK` signals replace them.

    They are stored in `shared/<key>/`, one file each, in float16 (`outputs` in float32); the key covers the
    teacher, the inputs, the precision and the libraries, so that no step or run computes them again. Missing
    signals are computed together, under a file lock, longest examples first; finished chunks survive a kill. A
    signal that does not fit into `budget_bytes` beside the others is recomputed for each batch instead.

    Args:
        load: loads the teacher; called only if something is left to compute.
        names: as in `compress.training.signals.capture`.
        shared: cache folder of all teachers.
        teacher_digest: identifies the teacher: the digest of its artifact.
        title: name of the teacher in cache listings and messages.
        chunk: number of examples between two records of progress.

    Raises:
        PassError: the teacher does not have a signal, or returns one that is not finite.
    """
    wanted = sorted(set(names) - {OUTPUTS})
    if OUTPUTS in names or not any(map(TopK.of, wanted)):
        wanted.insert(0, OUTPUTS)
    folder = shared / signals_key(teacher_digest, inputs, device, precision)
    offsets = _offsets(inputs)
    stored = _stored(folder, wanted, offsets)
    live: LiveSignals | None = None
    if len(stored) < len(wanted):
        model = load().to(device).eval()
        layouts = _layouts(model, inputs, wanted, precision=precision, device=device)
        with _locked(folder, progress, title):
            kept = _within(layouts, offsets, budget_bytes)
            stored = _stored(folder, kept, offsets)
            write_sealed(folder / SIGNALS_NOTE, {"title": f"{title} on {len(inputs)} examples"})
            missing = {name: layouts[name] for name in kept if name not in stored}
            if missing:
                _fill(
                    model,
                    inputs,
                    [SignalWriter(folder, name, layout, offsets) for name, layout in missing.items()],
                    precision=precision,
                    device=device,
                    progress=progress,
                    title=f"{title}'s {_few([*missing])}",
                    chunk=chunk,
                )
                stored = _stored(folder, kept, offsets)
        rest = [name for name in wanted if name not in stored]
        if rest:
            progress.say(f"{title}: {_few(rest)} do not fit into the cache and are computed for each batch")
            live = LiveSignals(model, inputs, rest, device=device, precision=precision)
    with suppress(FileNotFoundError):
        # The cache may be pruned concurrently; mapped files stay readable.
        os.utime(folder / SIGNALS_NOTE)
    return TeacherSignals(stored, live, device=device)


def signals_in(
    ctx: StepContext, teacher: Artifact, inputs: Inputs, names: Iterable[str] = (), title: str = "teacher"
) -> TeacherSignals:
    """`cached_signals` of a teacher in a step."""
    return cached_signals(
        lambda: load_model(teacher.path, allow_code=ctx.allow_code),
        inputs,
        names,
        ctx.shared,
        teacher_digest=teacher.digest,
        device=ctx.device,
        precision=ctx.precision,
        progress=ctx.progress,
        title=title,
    )


def signals_of_mean(
    ctx: StepContext,
    teachers: Sequence[tuple[Artifact, float]],
    combine: Combine,
    inputs: Inputs,
    names: Iterable[str],
) -> TeacherSignals:
    """`cached_signals` of the weighted mean of several teachers that run together on the same inputs.

    The top tokens of the mean cannot be derived from the top tokens of each, so the outputs are averaged first.
    """
    weights = shares([weight for _, weight in teachers])
    paths = [teacher.path for teacher, _ in teachers]
    members = [[teacher.digest, weight] for (teacher, _), weight in zip(teachers, weights, strict=True)]
    return cached_signals(
        lambda: MeanOfTeachers(
            [load_model(path, allow_code=ctx.allow_code) for path in paths], weights, combine
        ),
        inputs,
        names,
        ctx.shared,
        teacher_digest=digest_of({"members": members, "combine": combine}),
        device=ctx.device,
        precision=ctx.precision,
        progress=ctx.progress,
        title=f"the mean of {len(teachers)} teachers",
    )


def signals_key(teacher_digest: str, inputs: Inputs, device: Device, precision: Precision) -> str:
    """Return the cache key: sha256 over everything that the signals depend on."""
    parts = {
        "format": _FORMAT,
        "teacher": teacher_digest,
        "inputs": inputs.digest(),
        "device": device,
        "precision": precision,
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    }
    return digest_of(parts)


def observe(
    model: nn.Module, batch: dict[str, Tensor], names: Iterable[str], *, precision: Precision, device: Device
) -> Signals:
    """Return the named signals of one batch, without gradients, in the dtypes of the computation."""
    names = frozenset(names)
    with torch.no_grad(), autocast_for(precision, device), Recorder(model, taken_from(names)) as recorder:
        model(**model_inputs(batch))
        return with_top_k(recorder.take(), names)


def _layouts(
    model: nn.Module, inputs: Inputs, names: Sequence[str], *, precision: Precision, device: Device
) -> dict[str, Layout]:
    """Return the disk layouts of a model's signals, determined on its shortest example."""
    arrays = inputs.batch([int(np.argmin(inputs.lengths))])
    signals = observe(model, to_tensors(arrays, device), names, precision=precision, device=device)
    layouts = {}
    for name in names:
        shape = tuple(signals[name].shape)
        # The number of tokens differs between texts; every image has the same number of patches.
        ragged = len(shape) == 3 and ATTENTION_MASK in arrays
        dtype: Literal["float32", "float16", "uint8"] = "float32" if name == OUTPUTS else "float16"
        if TopK.of(name) is not None:
            dtype = "uint8"
        layouts[name] = Layout(dtype, shape[2:] if ragged else shape[1:], ragged)
    return layouts


def _within(layouts: Mapping[str, Layout], offsets: NDArray[np.int64], budget: int) -> list[str]:
    """Return the signals to cache: always `outputs`, the others in order while they fit the budget."""
    kept, used = [], 0
    for name, layout in layouts.items():
        size = 0 if name == OUTPUTS else layout.bytes(offsets)
        if used + size <= budget:
            kept.append(name)
            used += size
    return kept


def _fill(
    model: nn.Module,
    inputs: Inputs,
    writers: Sequence[SignalWriter],
    *,
    precision: Precision,
    device: Device,
    progress: Progress,
    title: str,
    chunk: int,
) -> None:
    """Compute what the writers lack, longest examples first so that batches need little padding."""
    order, size = np.argsort(-inputs.lengths, kind="stable"), examples_at_once(inputs)
    by_name = {writer.name: writer for writer in writers}
    with progress.bar(title, len(order)) as advance, torch.no_grad(), autocast_for(precision, device):
        done = min(writer.done(order) for writer in writers)
        for writer in writers:
            writer.go_on(order, done)
        advance(done)
        names = frozenset(by_name)
        with Recorder(model, taken_from(names)) as recorder:
            while done < len(order):
                stop = min(done + chunk, len(order))
                try:
                    for first in range(done, stop, size):
                        places = order[first : min(first + size, stop)]
                        model(**model_inputs(to_tensors(inputs.batch(places), device)))
                        for name, signal in with_top_k(recorder.take(), names).items():
                            by_name[name].put(places, signal)
                except TooLarge as error:
                    by_name[str(error)].widen()
                    done = 0
                    for writer in writers:
                        writer.go_on(order, done)
                    continue
                for writer in writers:
                    writer.note(stop)
                advance(stop - done)
                done = stop
    for writer in writers:
        writer.finish()


def _numbers(signal: Tensor) -> Tensor:
    """Cast to float32, except for packed signals."""
    return signal if signal.dtype == torch.uint8 else signal.float()


def _offsets(inputs: Inputs) -> NDArray[np.int64]:
    """Return where the tokens of each example begin when concatenated: int64 (n + 1,)."""
    if isinstance(inputs, TokenInputs):
        return inputs.ragged.offsets
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(inputs.lengths)])


def _stored(folder: Path, names: Iterable[str], offsets: NDArray[np.int64]) -> dict[str, StoredSignal]:
    found = ((name, open_signal(folder, name, offsets)) for name in names)
    return {name: signal for name, signal in found if signal is not None}


@contextmanager
def _locked(folder: Path, progress: Progress, title: str) -> Iterator[None]:
    """Create and lock the folder; wait, with a message, while another process fills it."""
    make_folder(folder.parent)
    busy = f"{title}: waiting for another process that computes its outputs"
    with held(folder.with_suffix(".lock"), lambda: progress.say(busy)):
        make_folder(folder)
        yield


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more signals"
