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
from compress.store.locks import hold_lock
from compress.training.batches import to_tensors
from compress.training.prediction import Device, Precision, autocast_for, inference_batch_size
from compress.training.signals.averaging import Combine, MeanOfTeachers, mean_outputs, normalized_weights
from compress.training.signals.cache import Layout, SignalWriter, StoredSignal, TooLarge, open_signal
from compress.training.signals.capture import Recorder, Signals
from compress.training.signals.top_k import TopK, source_signals, with_top_k

CACHE_BUDGET_BYTES = 8 * GIB
"""Maximum disk bytes for the signals of one teacher on one set of inputs, not counting its outputs."""

CHUNK_EXAMPLES = 1024
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
        signals = {
            name: _to_float32(signal.take(indices).to(self.device)) for name, signal in self.stored.items()
        }
        return signals if self.live is None else {**signals, **self.live.take(indices)}


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
        signals = compute_signals(self.model, batch, self.names, precision=self.precision, device=self.device)
        return {name: _to_float32(signal) for name, signal in signals.items()}


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
        outputs = [(teacher.take(indices)[OUTPUTS], weight) for teacher, weight in self.teachers]
        return {OUTPUTS: mean_outputs(outputs, self.combine)}


TeacherSource = TeacherSignals | AveragedSignals
"""One teacher or several averaged ones, on one set of inputs."""


def combine_teachers(teachers: Sequence[tuple[TeacherSource, float]], combine: Combine) -> TeacherSource:
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
    budget_bytes: int = CACHE_BUDGET_BYTES,
    title: str = "teacher",
    chunk: int = CHUNK_EXAMPLES,
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
    requested = sorted(set(names) - {OUTPUTS})
    if OUTPUTS in names or not any(map(TopK.of, requested)):
        requested.insert(0, OUTPUTS)
    folder = shared / signals_key(teacher_digest, inputs, device, precision)
    offsets = _offsets(inputs)
    stored = _open_stored(folder, requested, offsets)
    live: LiveSignals | None = None
    if len(stored) < len(requested):
        model = load().to(device).eval()
        layouts = _layouts(model, inputs, requested, precision=precision, device=device)
        with _locked(folder, progress, title):
            cacheable = _cacheable(layouts, offsets, budget_bytes)
            stored = _open_stored(folder, cacheable, offsets)
            write_sealed(folder / SIGNALS_NOTE, {"title": f"{title} on {len(inputs)} examples"})
            missing = {name: layouts[name] for name in cacheable if name not in stored}
            if missing:
                _compute_missing(
                    model,
                    inputs,
                    [SignalWriter(folder, name, layout, offsets) for name, layout in missing.items()],
                    precision=precision,
                    device=device,
                    progress=progress,
                    title=f"{title}'s {_short_list([*missing])}",
                    chunk=chunk,
                )
                stored = _open_stored(folder, cacheable, offsets)
        live_names = [name for name in requested if name not in stored]
        if live_names:
            progress.say(
                f"{title}: {_short_list(live_names)} do not fit into the cache and are computed for each batch"
            )
            live = LiveSignals(model, inputs, live_names, device=device, precision=precision)
    with suppress(FileNotFoundError):
        # The cache may be pruned concurrently; mapped files stay readable.
        os.utime(folder / SIGNALS_NOTE)
    return TeacherSignals(stored, live, device=device)


def step_signals(
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


def mean_signals(
    ctx: StepContext,
    teachers: Sequence[tuple[Artifact, float]],
    combine: Combine,
    inputs: Inputs,
    names: Iterable[str],
) -> TeacherSignals:
    """`cached_signals` of the weighted mean of several teachers that run together on the same inputs.

    The top tokens of the mean cannot be derived from the top tokens of each, so the outputs are averaged first.
    """
    weights = normalized_weights([weight for _, weight in teachers])
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


def compute_signals(
    model: nn.Module, batch: dict[str, Tensor], names: Iterable[str], *, precision: Precision, device: Device
) -> Signals:
    """Return the named signals of one batch, without gradients, in the dtypes of the computation."""
    names = frozenset(names)
    with torch.no_grad(), autocast_for(precision, device), Recorder(model, source_signals(names)) as recorder:
        model(**model_inputs(batch))
        return with_top_k(recorder.take(), names)


def _layouts(
    model: nn.Module, inputs: Inputs, names: Sequence[str], *, precision: Precision, device: Device
) -> dict[str, Layout]:
    """Return the disk layouts of a model's signals, determined on its shortest example."""
    arrays = inputs.batch([int(np.argmin(inputs.lengths))])
    signals = compute_signals(model, to_tensors(arrays, device), names, precision=precision, device=device)
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


def _cacheable(layouts: Mapping[str, Layout], offsets: NDArray[np.int64], budget: int) -> list[str]:
    """Return the signals to cache: always `outputs`, the others in order while they fit the budget."""
    selected, used_bytes = [], 0
    for name, layout in layouts.items():
        size = 0 if name == OUTPUTS else layout.bytes(offsets)
        if used_bytes + size <= budget:
            selected.append(name)
            used_bytes += size
    return selected


def _compute_missing(
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
    order, batch_size = np.argsort(-inputs.lengths, kind="stable"), inference_batch_size(inputs)
    by_name = {writer.name: writer for writer in writers}
    with progress.bar(title, len(order)) as advance, torch.no_grad(), autocast_for(precision, device):
        done = min(writer.done(order) for writer in writers)
        for writer in writers:
            writer.resume(order, done)
        advance(done)
        names = frozenset(by_name)
        with Recorder(model, source_signals(names)) as recorder:
            while done < len(order):
                stop = min(done + chunk, len(order))
                try:
                    for start in range(done, stop, batch_size):
                        indices = order[start : min(start + batch_size, stop)]
                        model(**model_inputs(to_tensors(inputs.batch(indices), device)))
                        for name, signal in with_top_k(recorder.take(), names).items():
                            by_name[name].write(indices, signal)
                except TooLarge as error:
                    by_name[str(error)].restart_in_float32()
                    done = 0
                    for writer in writers:
                        writer.resume(order, done)
                    continue
                for writer in writers:
                    writer.record(stop)
                advance(stop - done)
                done = stop
    for writer in writers:
        writer.finish()


def _to_float32(signal: Tensor) -> Tensor:
    """Cast to float32, except for packed signals."""
    return signal if signal.dtype == torch.uint8 else signal.float()


def _offsets(inputs: Inputs) -> NDArray[np.int64]:
    """Return where the tokens of each example begin when concatenated: int64 (n + 1,)."""
    if isinstance(inputs, TokenInputs):
        return inputs.ragged.offsets
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(inputs.lengths)])


def _open_stored(folder: Path, names: Iterable[str], offsets: NDArray[np.int64]) -> dict[str, StoredSignal]:
    opened = ((name, open_signal(folder, name, offsets)) for name in names)
    return {name: signal for name, signal in opened if signal is not None}


@contextmanager
def _locked(folder: Path, progress: Progress, title: str) -> Iterator[None]:
    """Create and lock the folder; wait, with a message, while another process fills it."""
    make_folder(folder.parent)
    busy = f"{title}: waiting for another process that computes its outputs"
    with hold_lock(folder.with_suffix(".lock"), lambda: progress.say(busy)):
        make_folder(folder)
        yield


def _short_list(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more signals"
