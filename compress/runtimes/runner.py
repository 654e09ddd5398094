"""Runs an ONNX model: scores it, times it, weighs it, predicts with it.

    python runner.py JOB.json RESULT.json

One file that needs Python 3.9, numpy and onnxruntime (to predict from texts tokenizers too, from images Pillow):
it is copied into bundles and onto devices, so it imports nothing of the package it lies in. A job is one of

    {"kind": "score", "model": PATH, "feeds": NPZ, "scorer": PY, "settings": {}, "outputs": NPZ, "threads": 1,
     "device": "cpu"}
    {"kind": "latency", "models": [PATH, PATH], "load_order": [0, 1], "scenarios": [{"feeds": [NPZ, NPZ]}],
     "seconds": 0.5, "rounds": 8, "share": [0, 4], "patience_s": 0.0, "threads": 1, "device": "cpu",
     "tokenization": {"folder": PATH, "texts": ["..."]}}
    {"kind": "memory", "model": PATH, "feeds": NPZ, "threads": 1, "device": "cpu"}

Any job may say on which `cores` it is kept. `feeds` are files of `write_batches`. Several processes may share one
latency measurement: `share` says which of how many this is, `seconds` and `rounds` are this one's, and for `patience_s`
more it may time again what other processes disturbed. `tokenization` and `patience_s` may be left out. A `scorer` is
a file of Python that needs numpy alone: its `answers(outputs, batch, settings)` says what is kept of the outputs of a
batch, and its `outputs(model, batch, settings)`, where it has one, makes these of several runs. The result is JSON,
written under a temporary name and renamed.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Else onnxruntime calls its maker's collector and keeps a device's id in the home folder. It looks when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

Batch = dict[str, Any]
"""Input name -> array."""
Predict = Callable[[Batch], Any]
"""A batch -> the model's output, an array (batch, ...) in host memory."""

DISABLED_OPTIMIZERS = ["SkipLayerNormFusion"]
"""The fused SkipLayerNormalization kernel is slower on CPUs than the Add and LayerNormalization it joins."""

HUGE_PAGE, MADV_COLLAPSE = 2**21, 25
"""Bytes of a large page, and how Linux is asked to gather memory in such (linux/mman.h)."""

PAST_PREFIX = "past_key_values."
"""What the inputs are called that a decoder keeps keys and values in."""
PRESENT_PREFIX = "present."
"""What it calls them as outputs."""
LOGIT_POSITIONS = "logit_positions"
"""The input of a decoder that says for which of the new tokens it gives logits."""
CACHE_CAPACITY = "cache_room"
"""Beside a decoder's inputs (rows,): how many tokens its cache holds, where that is more than the mask's."""

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")

MIN_TURN_BATCHES = 4
"""Batches that a model is timed on before another model has its turn, at least."""
TURN_NS = 20_000_000
"""More of them, where the slowest model stays below this time."""
SETTLE_NS = 3_000_000
"""Untimed running at the start of each turn, at least one run."""
MAX_CLEAN_WAIT_SHARE = 0.02
"""A batch was disturbed where the threads waited for a core longer than this share of its time, all waits added up: on
a quiet machine they wait for 0.001 of it, beside other work for 0.1 to 0.9."""
MAX_CLEAN_WAIT_NS = 5_000
"""And longer than this: waking a thread takes so long on a free core."""
TOLERATED_SHARE = 0.1
"""A share of disturbed rounds that is left out and not timed again; where more stay disturbed, the whole timing is."""
PAUSES_S = (0.1, 1.0)
"""The first and the longest pause before what was disturbed is timed again, while nothing but disturbed comes."""


class RunnerError(Exception):
    """The model cannot be run here as asked."""


class OnnxRuntime:
    """Loads and runs ONNX and ORT files; `torch_worker.py` has a class with the same methods for torch."""

    def prepare(self, threads: int, device: str) -> None:
        """Import what running needs, so that its memory is not counted as the model's."""
        import onnxruntime  # noqa: F401 (that is all for a CPU)

        if device == "cuda":
            require_cuda()

    def open(self, path: str, threads: int, device: str) -> Predict:
        """Load a model; the function that comes back returns its first output, or the one that is chosen."""
        session = open_session(path, threads, device)
        if any(node.name.startswith(PAST_PREFIX) for node in session.get_inputs()):
            return CachedSession(session)
        names, inputs = selected_output(path), [node.name for node in session.get_inputs()]

        def predict(batch: Batch) -> Any:
            return session.run(names, batch if len(batch) == len(inputs) else select_inputs(batch, inputs))[0]

        return predict

    def gpu_peak_bytes(self) -> int | None:
        """GPU memory of this process; the arena never shrinks, so it is the peak. None where nobody knows."""
        return gpu_bytes_of(os.getpid())


class CachedSession:
    """A decoder's session (see `decoding.py`), run as any other: a batch says how many tokens stand in the cache.

    `attention_mask` (rows, tokens in the cache and new ones) is longer than `input_ids` where some do; they are zeros,
    which take as long as what was read before. `logit_positions` (rows, wanted) may be left out: all new tokens.
    The cache is one buffer for past and present, kept from run to run.
    """

    def __init__(self, session: Any) -> None:
        self.session, self.goes_on = session, True  # a batch may say that tokens stand in the cache
        self.past = [node for node in session.get_inputs() if node.name.startswith(PAST_PREFIX)]
        self.vocab_size = session.get_outputs()[0].shape[2]
        self.cache_shape = (0, 0)
        self.buffers: list[Any] = []
        self.cache: Any = None
        use_huge_pages()

    def __call__(self, batch: Batch) -> Any:
        """Logits float32 (rows, wanted, words)."""
        ids = batch["input_ids"]
        shape = len(ids), max(batch["attention_mask"].shape[1], *batch.get(CACHE_CAPACITY, (0,)))
        if shape != self.cache_shape:
            # One size at a time, as texts of many lengths would fill the memory; a binding need not keep its buffers.
            self.cache_shape, self.buffers = shape, self.allocate_cache(*shape)
            self.cache = self.bind_cache(self.buffers)
        positions = batch.get(LOGIT_POSITIONS)
        if positions is None:
            positions = np.tile(np.arange(ids.shape[1]), (len(ids), 1))
        return self.run({**batch, LOGIT_POSITIONS: positions}, self.cache)

    def run(self, batch: Batch, cache: Any) -> Any:
        """The same, of a batch that says which logits are wanted; keys and values of the new tokens go into `cache`."""
        logits = np.empty((*batch[LOGIT_POSITIONS].shape, self.vocab_size), np.float32)
        for name in ("input_ids", "attention_mask", LOGIT_POSITIONS):
            cache.bind_cpu_input(name, batch[name])
        cache.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self.session.run_with_iobinding(cache)
        return logits

    def allocate_cache(self, rows: int, tokens: int) -> list[Any]:
        """A cache of zeros for so many rows of so many tokens."""
        dtypes = {"tensor(int8)": np.int8, "tensor(float)": np.float32}
        return [
            np.zeros((rows, node.shape[1], tokens, node.shape[3]), dtypes[node.type]) for node in self.past
        ]

    def bind_cache(self, cache: Sequence[Any]) -> Any:
        """A cache as `run` takes it: not a copy. All that stays the same from token to token is said here, once."""
        import onnxruntime

        binding = self.session.io_binding()
        for node, array in zip(self.past, cache):  # noqa: B905 (no `strict` before Python 3.10)
            buffer = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_input(node.name, buffer)
            binding.bind_ortvalue_output(node.name.replace(PAST_PREFIX, PRESENT_PREFIX, 1), buffer)
        return binding


def use_huge_pages() -> int:
    """Move large memory that is in use to pages of 2 MB, where Linux can (6.1 and later); how many bytes were moved.

    A decoder reads all its weights for every token: in pages of 4 kB a quarter of that time goes into finding them.
    """
    moved, start, end = 0, 0, 0
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
        advise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError, TypeError):
        return moved
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in lines:
        words = line.split()
        if not words[0].endswith(":"):
            start, end = (int(address, 16) for address in words[0].split("-"))
            # Of files there is nothing to move.
            end = end if words[1] == "rw-p" and words[4] == "0" else start
        elif words[0] == "Rss:" and 2048 * int(words[1]) > end - start >= 2 * HUGE_PAGE:
            first = -(-start // HUGE_PAGE) * HUGE_PAGE
            length = end // HUGE_PAGE * HUGE_PAGE - first
            moved += 0 if advise(first, length, MADV_COLLAPSE) else length
    return moved


def select_inputs(batch: Batch, names: Sequence[str]) -> Batch:
    """The inputs that a model takes, without what stands beside them for a scorer."""
    return {name: batch[name] for name in names}


def selected_output(path: str) -> list[str] | None:
    """The output that the `task.json` beside a model chooses of several; None: the first one is read."""
    file = Path(path).with_name("task.json")
    interface = json.loads(file.read_text(encoding="utf-8")).get("interface") if file.is_file() else None
    return [interface["output"]] if interface and interface["output"] else None


def require_cuda() -> None:
    """Let onnxruntime find the libraries of CUDA, and make sure that it was built for it.

    Raises:
        RunnerError: it was not.
    """
    import onnxruntime

    # First: where the provider is a plugin, it is there once they are.
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise RunnerError("this onnxruntime has no CUDAExecutionProvider: onnxruntime-gpu replaces it")


def open_session(path: str, threads: int = 1, device: str = "cpu") -> Any:
    """An onnxruntime session: `threads` threads that do not spin, one operator after another.

    Raises:
        RunnerError: `device` is cuda and onnxruntime cannot use it (it would fall back to the CPU in silence).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    if device == "cuda":
        require_cuda()
        providers.insert(0, "CUDAExecutionProvider")
    session = onnxruntime.InferenceSession(
        str(path), options, providers=providers, disabled_optimizers=DISABLED_OPTIMIZERS
    )
    if session.get_providers()[0] != providers[0]:
        raise RunnerError(f"onnxruntime {onnxruntime.__version__} could not load {providers[0]} for {path}")
    return session


# Batches on disk: for each input all values in one flat array, and the shape of each batch.


def write_batches(path: str, batches: Sequence[Batch]) -> None:
    """Write batches of equal input names, dtypes and ranks to an `.npz` file.

    Inputs are numbered there, as a model may call them anything: `names`, and for each `values.N` and `shapes.N`.
    """
    arrays = {"names": np.asarray(list(batches[0]))}
    for number, name in enumerate(batches[0]):
        values = [np.asarray(batch[name]) for batch in batches]
        arrays[f"values.{number}"] = np.concatenate([value.ravel() for value in values])
        arrays[f"shapes.{number}"] = np.asarray([value.shape for value in values], dtype=np.int64)
    np.savez(path, allow_pickle=False, **arrays)


def read_batches(path: str) -> list[Batch]:
    """The batches that `write_batches` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    batches: list[Batch] = [{} for _ in arrays["shapes.0"]]
    for number, name in enumerate(arrays["names"]):
        shapes = arrays[f"shapes.{number}"]
        ends = np.cumsum(np.prod(shapes, axis=1))
        for batch, shape, end in zip(batches, shapes, ends):  # noqa: B905 (no `strict` before Python 3.10)
            size = int(np.prod(shape))
            values = arrays[f"values.{number}"][end - size : end]
            batch[str(name)] = np.ascontiguousarray(values.reshape(shape))
    return batches


# The jobs.


def score_job(job: dict[str, Any], runtime: Any) -> dict[str, Any]:
    """What the scorer keeps of the outputs of one model on all batches, in order, to the `.npz` file `outputs`.

    `shape` is that of the outputs of one example; `refused` why the scorer took none, and then there is no file.
    """
    runtime.prepare(job["threads"], job["device"])
    scorer, settings = load_file(job["scorer"]), job["settings"]
    compute = getattr(scorer, "outputs", lambda model, batch, settings: np.asarray(model(batch), np.float32))
    batches = read_batches(job["feeds"])
    predict = runtime.open(job["model"], job["threads"], job["device"])
    batch_answers, examples, shape = [], 0, []
    for batch in batches:
        outputs = compute(predict, batch, settings)
        examples, shape = examples + outputs.shape[0], list(outputs.shape[1:])
        try:
            batch_answers.append(scorer.answers(outputs, batch, settings))
        except (ValueError, IndexError) as error:
            num_examples = sum(len(next(iter(part.values()))) for part in batches)
            return {"examples": num_examples, "shape": shape, "refused": str(error)}
    temporary = job["outputs"] + ".tmp.npz"
    answers = {name: concatenate_padded([part[name] for part in batch_answers]) for name in batch_answers[0]}
    np.savez(temporary, allow_pickle=False, **answers)
    os.replace(temporary, job["outputs"])
    return {"examples": examples, "shape": shape, "refused": None}


def concatenate_padded(parts: Sequence[Any]) -> Any:
    """Arrays (n, ...) of several batches as one, with zeros after the end of what is shorter than the longest."""
    shape = np.max([part.shape[1:] for part in parts], axis=0)
    ends = [[(0, 0), *((0, size) for size in shape - part.shape[1:])] for part in parts]
    return np.concatenate([np.pad(part, end) if np.any(end) else part for part, end in zip(parts, ends)])  # noqa: B905


def load_file(path: str) -> Any:
    """The module that a file of Python is."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise RunnerError(f"{path} is no file of Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def latency_job(job: dict[str, Any], runtime: Any) -> dict[str, Any]:
    """Time models in turns; `load_ns[i]` is how long model i took to load, `samples_ns[i][j]` how long it took in round
    j, `waited_ns` the time its threads waited."""
    runtime.prepare(job["threads"], job["device"])
    models: list[Any] = [None] * len(job["models"])
    loads = [0] * len(models)
    for index in job["load_order"]:
        loads[index] -= time.perf_counter_ns()
        models[index] = runtime.open(job["models"][index], job["threads"], job["device"])
        loads[index] += time.perf_counter_ns()
    (process, processes), patience = job["share"], job.get("patience_s", 0.0)
    scenarios = []
    for scenario in job["scenarios"]:
        feeds = [read_batches(path) for path in scenario["feeds"]]
        count = len(feeds[0])
        # Together the processes begin at evenly spread batches and reach every one of them.
        first = process * count // processes
        rotated = [batches[first:] + batches[:first] for batches in feeds]
        warm_up(models, rotated, job["seconds"] / 4)
        cover = -(-count // processes)
        before = machine_counters()
        with CoreWaits(job["threads"]) as waits:
            rounds = time_in_turns(
                models, rotated, job["seconds"], job["rounds"], cover, waits.read, patience_s=patience
            )
        patience = max(0.0, patience - rounds.patient_s)
        scenarios.append(
            {
                "samples_ns": rounds.samples_ns,
                "inputs": [(first + index) % count for index in rounds.inputs],
                "waited_ns": None if waits.source == "unknown" else rounds.waited_ns,
                "waited_by": waits.source,
                "wanted": rounds.wanted,
                "patient_s": rounds.patient_s,
                "machine": counters_since(before),
            }
        )
    result: dict[str, Any] = {"scenarios": scenarios, "load_ns": loads}
    if job.get("tokenization"):
        result["tokenization_ns"] = time_tokenization(**job["tokenization"])
    return result


def warm_up(models: Sequence[Predict], feeds: Sequence[Sequence[Batch]], seconds: float) -> None:
    """Run every batch once on every model, as far as the time allows, and two batches in any case."""
    deadline = time.perf_counter() + seconds
    for index in range(max(2, len(feeds[0]))):
        for model, batches in zip(models, feeds):  # noqa: B905
            model(batches[index % len(batches)])
        if index > 0 and time.perf_counter() > deadline:
            return


class Rounds(NamedTuple):
    """What was timed: `samples_ns[i][j]` is model i in round j, `waited_ns[i][j]` how long its threads waited for a
    core meanwhile, `inputs[j]` the batch. `wanted`: how many rounds would do; those beyond them were taken again in
    place of disturbed ones, which took `patient_s` seconds."""

    samples_ns: list[list[int]]
    waited_ns: list[list[int]]
    inputs: list[int]
    wanted: int
    patient_s: float


def time_in_turns(
    models: Sequence[Predict],
    feeds: Sequence[Sequence[Batch]],
    seconds: float,
    rounds: int,
    cover: int = 1,
    waited: Callable[[], int] = lambda: 0,
    patience_s: float = 0.0,
) -> Rounds:
    """Time models A, B in turns on the same batches: A B, then B A on the next batches, and so on.

    A turn is a few batches, and it begins with untimed runs. Changing models after every single run would time
    a small model with whatever the large one left in the processor's caches, not as it runs when deployed.

    Args:
        models: functions that return when their output is there.
        feeds: for each model its own encoding of the same batches.
        seconds: go on for so long at least.
        rounds: and until so many batches are timed at least; one round is one batch on every model.
        cover: and until so many are timed, unless that takes more than twice `seconds`.
        waited: nanoseconds that the threads of this process have waited for a core so far.
        patience_s: time rounds that were disturbed again, on the same batches, for so long at most.
    """
    clock = time.perf_counter_ns
    count, batches = len(models), len(feeds[0])
    timed = Rounds([[] for _ in models], [[] for _ in models], [], 0, 0.0)
    inputs = timed.inputs
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        slowest_ns = 1
        for model, model_batches in zip(models, feeds):  # noqa: B905
            start = clock()
            model(model_batches[0])
            slowest_ns = max(slowest_ns, clock() - start)
        turn_length = max(MIN_TURN_BATCHES, min(TURN_NS // slowest_ns, batches))

        def time_batches(chosen: Sequence[int], first: int) -> None:
            for which in ((first + place) % count for place in range(count)):
                own = [feeds[which][index] for index in chosen]
                time_turn(models[which], own, timed.samples_ns[which], timed.waited_ns[which], waited)
            inputs.extend(chosen)

        begin = clock()
        deadline, limit = begin + int(seconds * 1e9), begin + int(2 * seconds * 1e9)
        turn = 0
        while len(inputs) < rounds or clock() < (limit if len(inputs) < cover else deadline):
            num_timed = len(inputs)
            # The order changes from turn to turn, and once more each time through the batches, so that each
            # batch meets every order also where the number of turns is even.
            indices = [(num_timed + step) % batches for step in range(turn_length)]
            time_batches(indices, turn + num_timed // batches)
            turn += 1
        wanted, begin = len(inputs), clock()
        retime_disturbed(timed, time_batches, turn_length, begin + int(patience_s * 1e9))
    finally:
        if was_enabled:
            gc.enable()
    return timed._replace(wanted=wanted, patient_s=(clock() - begin) / 1e9)


def retime_disturbed(
    timed: Rounds, time_batches: Callable[[Sequence[int], int], None], turn_length: int, deadline: int
) -> None:
    """Time disturbed rounds again on their batches until few enough are left, or the clock reads `deadline`.

    `time_batches` adds rounds of some batches to those in `timed`, starting with some model.
    """
    wanted = len(timed.inputs)
    clean = clean_rounds(timed.samples_ns, timed.waited_ns)
    pending = [index for index, is_clean in zip(timed.inputs, clean.all(axis=0)) if not is_clean]  # noqa: B905
    clean_counts, pause, turn = clean.sum(axis=1), PAUSES_S[0], 0
    while clean_counts.min() < (1 - TOLERATED_SHARE) * wanted and time.perf_counter_ns() < deadline:
        indices, num_timed = pending[:turn_length], len(timed.inputs)
        time_batches(indices, turn)
        clean = clean_rounds(*([row[num_timed:] for row in rows] for rows in timed[:2]))
        clean_counts = clean_counts + clean.sum(axis=1)
        is_clean = clean.all(axis=0)
        pending = pending[turn_length:] + [index for index, ok in zip(indices, is_clean) if not ok]  # noqa: B905
        turn += 1
        if is_clean.any():
            pause = PAUSES_S[0]
        elif time.perf_counter_ns() < deadline:
            # Whoever keeps the cores busy is left alone for a moment.
            time.sleep(min(pause, max(0.0, (deadline - time.perf_counter_ns()) / 1e9)))
            pause = min(2 * pause, PAUSES_S[1])


def time_turn(
    model: Predict, batches: Sequence[Batch], samples: list[int], waits: list[int], waited: Callable[[], int]
) -> None:
    """Run the first batch untimed, for `SETTLE_NS` at least, and then time each batch once."""
    clock = time.perf_counter_ns
    settle_until = clock() + SETTLE_NS
    model(batches[0])
    while clock() < settle_until:
        model(batches[0])
    before = waited()
    for batch in batches:
        start = clock()
        model(batch)
        samples.append(clock() - start)
        after = waited()
        waits.append(max(0, after - before))
        before = after


# What else the machine did meanwhile.


def clean_rounds(samples_ns: Sequence[Sequence[int]], waited_ns: Sequence[Sequence[int]]) -> Any:
    """Which timings nothing disturbed: bool (models, rounds)."""
    samples, waits = (np.asarray(rows, dtype=np.float64) for rows in (samples_ns, waited_ns))
    return waits <= np.maximum(MAX_CLEAN_WAIT_SHARE * samples, MAX_CLEAN_WAIT_NS)


class CoreWaits:
    """Reads how long the threads of this process have waited for a core; open it when all of them are there.

    `source` says how. `schedstat`: the kernel counts it for each thread. `processor time`: the wall time that the
    processor did not spend on the process, which with one thread is what it waited. `unknown`: nobody tells.
    """

    def __init__(self, threads: int) -> None:
        self._waited_by_file = dict.fromkeys(schedstat_files(), 0)
        self._ended_ns = 0
        self.source = "unknown"
        if self._waited_by_file:
            self.source = "schedstat"
        elif threads == 1 and time.get_clock_info("process_time").resolution < 1e-5:
            self.source = "processor time"

    def __enter__(self) -> CoreWaits:
        return self

    def __exit__(self, *_: Any) -> None:
        for file in self._waited_by_file:
            os.close(file)
        self._waited_by_file = {}

    def read(self) -> int:
        """Nanoseconds so far; only differences mean something."""
        if self.source == "schedstat":
            return self._ended_ns + sum(map(self._read_waited, list(self._waited_by_file)))
        if self.source == "processor time":
            return time.perf_counter_ns() - time.process_time_ns()
        return 0

    def _read_waited(self, file: int) -> int:
        try:
            self._waited_by_file[file] = int(os.pread(file, 100, 0).split()[1])
        except (OSError, IndexError, ValueError):
            # The thread has ended; what it waited stays waited.
            self._ended_ns += self._waited_by_file.pop(file)
            os.close(file)
            return 0
        return self._waited_by_file[file]


def schedstat_files() -> list[int]:
    """Open files with what the kernel counts of each thread of this process; none where it counts nothing."""
    opened: list[int] = []
    counted = 0
    try:
        for thread in os.listdir("/proc/self/task"):
            opened.append(os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY))
            # Time run, time waited, and how often it was given a core; zeros where it is not counted.
            counted += int(os.pread(opened[-1], 100, 0).split()[2])
    except (OSError, IndexError, ValueError, AttributeError):
        counted = 0
    if counted:
        return opened
    for file in opened:
        os.close(file)
    return []


def machine_counters() -> dict[str, Any]:
    """Counters of the machine that only grow, None where there are none: seconds of wall time, seconds in which some
    thread of the machine waited for a core (pressure), seconds of cores of this process that the hypervisor gave to
    others (stolen), and how often this process lost its core."""
    return {
        "wall": time.perf_counter(),
        "pressure": pressure_seconds(),
        "stolen": stolen_seconds(),
        "switches": involuntary_switches(),
    }


def counters_since(before: dict[str, Any]) -> dict[str, Any]:
    """What `machine_counters` counted since: `switches` and `wall` as they are, the others as shares of the time."""
    after = machine_counters()
    wall = after["wall"] - before["wall"]
    deltas: dict[str, Any] = {"wall": wall}
    for name in ("pressure", "stolen", "switches"):
        known = before[name] is not None and after[name] is not None
        deltas[name] = after[name] - before[name] if known else None
        if known and name != "switches":
            deltas[name] = max(0.0, deltas[name] / max(wall, 1e-9))
    return deltas


def pressure_seconds() -> float | None:
    """Seconds in which some thread waited for a core since the start of the system (Linux' PSI); None: not counted."""
    try:
        return int(Path("/proc/pressure/cpu").read_text().splitlines()[0].rsplit("total=", 1)[1]) / 1e6
    except (OSError, IndexError, ValueError):
        return None


def stolen_seconds() -> float | None:
    """Seconds that the hypervisor took from the cores this process may use; None: not counted."""
    try:
        usable = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        with open("/proc/stat") as stream:
            lines = [line.split() for line in stream if line.startswith("cpu")]
        return sum(int(words[8]) for words in lines if words[0] in usable) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError, AttributeError):
        return None


def involuntary_switches() -> int | None:
    """How often a thread of this process had to leave its core to another one; None: not counted."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def time_tokenization(folder: str, texts: Sequence[str]) -> list[int]:
    """Nanoseconds to encode each text alone with the tokenizer of `folder`."""
    task = load_task(folder)
    tokenizer = load_tokenizer(folder, task["max_length"], task.get("texts", {}).get("cut", "right"))
    encode(tokenizer, texts[:1], task)
    samples = []
    for text in texts:
        start = time.perf_counter_ns()
        encode(tokenizer, [text], task)
        samples.append(time.perf_counter_ns() - start)
    return samples


def memory_job(job: dict[str, Any], runtime: Any) -> dict[str, Any]:
    """Resident bytes before the model is loaded, and their peak while it is loaded and run on all batches."""
    runtime.prepare(job["threads"], job["device"])
    batches = read_batches(job["feeds"])
    gc.collect()
    reset = reset_peak()
    before = resident_bytes()
    predict = runtime.open(job["model"], job["threads"], job["device"])
    for batch in batches:
        predict(batch)
    peak, method = peak_bytes()
    return {
        "before_load_bytes": before,
        "peak_bytes": peak,
        "method": method + (", reset after the imports" if reset else ", imports included"),
        "gpu_peak_bytes": runtime.gpu_peak_bytes() if job["device"] == "cuda" else None,
    }


def pin_to_cores(cores: Sequence[int]) -> list[int]:
    """Keep this process and all threads that it starts from now on to some cores; those that it then may use.

    Raises:
        RunnerError: they are not there, or this system cannot do it.
    """
    try:
        os.sched_setaffinity(0, cores)
        return sorted(os.sched_getaffinity(0))
    except (AttributeError, OSError) as error:
        raise RunnerError(f"cannot keep to the cores {list(cores)}: {error}") from error


def reset_peak() -> bool:
    """Set the kernel's peak counter back to the present size; False where that is not allowed."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def status_bytes(field: str) -> int | None:
    """A field of /proc/self/status (`VmRSS`, `VmHWM`) in bytes; None where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), None)


def peak_bytes() -> tuple[int, str]:
    """The resident peak and how it was read."""
    peak = status_bytes("VmHWM")
    if peak is not None:
        return peak, "VmHWM"
    import resource

    # On Linux ru_maxrss may be that of the process that started this one, so it comes second.
    max_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max_rss * (1 if sys.platform == "darwin" else 1024), "ru_maxrss"


def resident_bytes() -> int:
    """The resident size now, or the peak so far where only that is known."""
    return status_bytes("VmRSS") or peak_bytes()[0]


def gpu_bytes_of(pid: int) -> int | None:
    """GPU memory of a process as nvidia-smi sees it; None where it does not see it."""
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_compute_apps(answer, pid)


def parse_compute_apps(answer: str, pid: int) -> int | None:
    """`4711, 312` lines (pid, MiB) -> bytes of `pid` over all GPUs; None if it is not listed."""
    found = [line.split(",") for line in answer.splitlines() if line.count(",") == 1]
    used = [int(mib) for who, mib in found if who.strip() == str(pid) and mib.strip().isdigit()]
    return sum(used) * 2**20 if used else None


# Prediction from texts and images.


def load_task(folder: str) -> dict[str, Any]:
    """The `task.json` of an artifact or bundle: the task, labels, input names, and how inputs are made."""
    task: dict[str, Any] = json.loads((Path(folder) / "task.json").read_text(encoding="utf-8"))
    return task


def load_labels(folder: str) -> list[str]:
    """The names of the outputs: `labels.json` of a bundle, else those of `task.json`."""
    file = Path(folder) / "labels.json"
    labels = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else load_task(folder)["labels"]
    return list(labels)


def load_tokenizer(folder: str, max_length: int, truncation_side: str = "right") -> Any:
    """The tokenizer of an artifact or bundle; what is beyond `max_length` tokens goes, at the `truncation_side`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, direction=truncation_side)
    return tokenizer


def encode(tokenizer: Any, texts: Sequence[str], task: dict[str, Any]) -> Batch:
    """Texts, prepared as `task` says -> the model's inputs, int64 (texts, longest), padded on the right."""
    settings = task.get("texts", {})
    prepared = [settings.get("prefix", "") + text for text in texts]
    prepared = [text.strip() if settings.get("strip") else text for text in prepared]
    prepared = [text.lower() if settings.get("lowercase") else text for text in prepared]
    encoded = tokenizer.encode_batch(prepared)
    shape = (len(encoded), max(len(encoding.ids) for encoding in encoded))
    ids = np.full(shape, task["pad_id"], dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    for row, encoding in enumerate(encoded):
        ids[row, : len(encoding.ids)] = encoding.ids
        mask[row, : len(encoding.ids)] = 1
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(shape, dtype=np.int64)}
    return {name: arrays[name] for name in task["input_names"]}


def read_image(file: Any, transparency: str = "white") -> Any:
    """An image file -> uint8 (height, width) if it is grey, else (height, width, 3), red first.

    Of several frames the first; turned as its EXIF data says; 16 bits a value become 8; what is transparent is laid on
    white, or with `drop` shows the colours that it hides.

    Raises:
        RunnerError: it cannot be read as an image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file, formats=IMAGE_FORMATS) as image_file:
            image_file.load()
            picture = ImageOps.exif_transpose(image_file)
    except (OSError, ValueError, SyntaxError, IndexError, TypeError, Image.DecompressionBombError) as error:
        raise RunnerError(f"cannot read {file} as an image: {error}") from error
    if picture.mode in ("I", "F") and image_file.format == "TIFF":
        raise RunnerError(f"cannot read {file} as an image: its values have 32 bits; save it with 8 or 16")
    if picture.mode.startswith(("I", "F")):
        # Of the others only 16-bit files open so; Pillow's own conversion would clip them.
        return np.clip(np.rint(np.asarray(picture).astype(np.float64) / 257), 0, 255).astype(np.uint8)
    mode = "L" if picture.mode in ("1", "L", "LA", "La") else "RGB"
    is_transparent = picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info
    if is_transparent and transparency == "white":
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(picture.convert(mode), np.uint8)


def target_size(height: int, width: int, image: dict[str, Any]) -> tuple[int, int]:
    """Height and width that an image is scaled to before it is cropped or padded; `image` as `frame_image` takes it."""
    resize, resize_to = image.get("resize", "squash"), image.get("resize_to", [])
    if resize == "none":
        return height, width
    if resize == "squash":
        size = resize_to or image["size"]
        return int(size[0]), int(size[1])
    if resize == "within":
        scale = min(resize_to[0] / height, resize_to[1] / width)
        return max(1, int(height * scale)), max(1, int(width * scale))
    short, long = min(height, width), max(height, width)
    edge, rounded = resize_to[0], resize_to[0]
    if len(resize_to) == 2 and long / short * edge > resize_to[1]:
        edge = resize_to[1] * short / long
        rounded = round(edge)
    sides = max(1, rounded), max(1, long if short == rounded else int(edge * long / short))
    return sides if height <= width else (sides[1], sides[0])


def crop_image(pixels: Any, size: Sequence[int]) -> Any:
    """The middle of (h, w, channels) of `size` (height, width), on black where the image is smaller."""
    out = np.zeros((size[0], size[1], pixels.shape[2]), np.uint8)
    target_slices, source_slices = [], []
    for side, target in zip(pixels.shape[:2], size):  # noqa: B905
        start = -((target - side + 1) // 2) if side < target else (side - target) // 2
        target_slices.append(slice(max(0, -start), max(0, -start) + min(side, target)))
        source_slices.append(slice(max(0, start), max(0, start) + min(side, target)))
    out[target_slices[0], target_slices[1]] = pixels[source_slices[0], source_slices[1]]
    return out


def frame_image(pixels: Any, image: dict[str, Any]) -> Any:
    """uint8 (h, w) or (h, w, 1 or 3), red first -> (height, width, channels) as the model sees it.

    Args:
        image: the `image` section of a task: `size` and `channels`; how an image is scaled (`resize`: squash, shortest,
            within or none; `resize_to`; `interpolation`), whether it is then cropped or to be padded (`fit`: it comes
            out smaller than `size` then), and the `order` of the channels (rgb or bgr).
    """
    from PIL import Image

    size, channels = image["size"], image["channels"]
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
    picture = picture.convert("L" if channels == 1 else "RGB")
    height, width = target_size(picture.height, picture.width, image)
    if picture.size != (width, height):
        resampling = image.get("interpolation", "bilinear").upper()
        picture = picture.resize((width, height), Image.Resampling[resampling])
    framed = np.asarray(picture, np.uint8).reshape(height, width, channels)
    framed = framed[: size[0], : size[1]] if image.get("fit") == "pad" else crop_image(framed, size)
    return framed[..., ::-1] if image.get("order") == "bgr" else framed


def encode_images(images: Sequence[Any], task: dict[str, Any]) -> Batch:
    """Images -> the model's input, float32 (images, channels, height, width): (pixel / 255 - mean) / std.

    Args:
        images: files, or pixels as `frame_image` takes them.
        task: its `image` section says what the model was trained to see.

    Raises:
        RunnerError: an image cannot be read.
    """
    image = task["image"]
    mean, std = np.float32(image["mean"]), np.float32(image["std"])
    transparency = image.get("transparency", "white")
    values = np.zeros((len(images), image["channels"], *image["size"]), np.float32)
    for row, item in enumerate(images):
        pixels = item if isinstance(item, np.ndarray) else read_image(item, transparency)
        normalized = (frame_image(pixels, image).astype(np.float32) / np.float32(255) - mean) / std
        values[row, :, : normalized.shape[0], : normalized.shape[1]] = normalized.transpose(2, 0, 1)
    return {task["input_names"][0]: values}


def make_encoder(folder: str, task: dict[str, Any]) -> Callable[[Sequence[Any]], Batch]:
    """The function that makes a model's inputs: from images where the task has an `image` section, else from texts."""
    if "image" in task:
        if importlib.util.find_spec("PIL") is None:
            raise RunnerError("images are read with Pillow: pip install pillow")
        return lambda images: encode_images(images, task)
    tokenizer = load_tokenizer(folder, task["max_length"], task.get("texts", {}).get("cut", "right"))
    return lambda texts: encode(tokenizer, texts, task)


def softmax(logits: Any) -> Any:
    """Probabilities along the last axis."""
    powers = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return powers / np.sum(powers, axis=-1, keepdims=True)


def cosine(first: Any, second: Any) -> float:
    """The cosine of the angle between two vectors (width,)."""
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


class Predictor:
    """A model and what makes its inputs, of a folder with `model.onnx` and `task.json`.

    Texts need `tokenizer.json` beside them. Images are files, or pixels as `frame_image` takes them.
    """

    def __init__(self, folder: str, threads: int = 1, device: str = "cpu", model: str = "model.onnx") -> None:
        self.task = load_task(folder)
        self.labels = load_labels(folder)
        self.encode = make_encoder(folder, self.task)
        self.session = open_session(str(Path(folder) / model), threads, device)

    def outputs(self, items: Sequence[Any]) -> Any:
        """What the model gives for texts or images: float32 (items, labels or width)."""
        return self.session.run(None, self.encode(items))[0]


class Classifier(Predictor):
    """Classifies texts or images."""

    def __call__(self, items: Sequence[Any]) -> list[tuple[str, float]]:
        """The label of each item and its probability."""
        probabilities = softmax(self.outputs(items))
        return [(self.labels[int(row.argmax())], float(row.max())) for row in probabilities]


class SentenceEncoder(Predictor):
    """Embeds texts."""

    def __call__(self, items: Sequence[str]) -> Any:
        """The embedding of each text: float32 (texts, width)."""
        return self.outputs(items)

    def similarity(self, first: str, second: str) -> float:
        """The cosine of two texts' embeddings, each computed alone."""
        return cosine(self.outputs([first])[0], self.outputs([second])[0])


PREDICTORS = {
    "text-classification": Classifier,
    "image-classification": Classifier,
    "sentence-embedding": SentenceEncoder,
}


def open_predictor(folder: str, threads: int = 1, device: str = "cpu", model: str = "model.onnx") -> Any:
    """The predictor of a folder's task: that of a `predictor.py` in it, where there is one.

    Raises:
        RunnerError: this file knows no such task.
    """
    custom_file = Path(folder) / "predictor.py"
    if custom_file.is_file():
        # It imports this file by that name, also where this one is called otherwise.
        sys.modules.setdefault("runner", sys.modules[__name__])
        return load_file(str(custom_file)).Predictor(folder, threads, device, model)
    name = load_task(folder)["task"]
    if name not in PREDICTORS:
        raise RunnerError(f"unknown task {name!r}; known: {', '.join(sorted(PREDICTORS))}")
    return PREDICTORS[name](folder, threads, device, model)


# The commands.


def in_words(error: Exception) -> str:
    """An error in one line, with its kind where its words were not written for users."""
    words = " ".join(str(error).split())
    return words if isinstance(error, RunnerError) else f"{type(error).__name__}: {words}"


def command(main: Callable[[], int]) -> int:
    """The exit code of a script's `main`; no traceback where it is interrupted, or a stream fails or is not read on."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="strict")
    try:
        code = main()
        print(end="", flush=True)
    except KeyboardInterrupt:
        return 130
    except (OSError, UnicodeError) as error:
        if not isinstance(error, BrokenPipeError):
            print(f"cannot read the input or write the output: {in_words(error)}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        return 1
    return code


JOBS = {"score": score_job, "latency": latency_job, "memory": memory_job}


def write_result(path: str, result: dict[str, Any]) -> None:
    """Write JSON under a temporary name and rename it."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as stream:
        json.dump(result, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def run_job(argv: Sequence[str], runtime: Any) -> int:
    """Do the job of the file `argv[0]` and write its result to `argv[1]`; returns the exit code."""
    if len(argv) != 2:
        print("usage: runner.py JOB.json RESULT.json", file=sys.stderr)
        return 2
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    if job["kind"] not in JOBS:
        print(f"unknown kind of job {job['kind']!r}; known: {', '.join(sorted(JOBS))}", file=sys.stderr)
        return 2
    started = time.perf_counter()
    try:
        pinned_cores = pin_to_cores(job["cores"]) if job.get("cores") else None
        result = JOBS[job["kind"]](job, runtime)
    except RunnerError as error:
        print(error, file=sys.stderr)
        return 5
    result["seconds"] = time.perf_counter() - started
    result |= {} if pinned_cores is None else {"cores": pinned_cores}
    write_result(argv[1], result)
    return 0


def main(argv: Iterable[str] | None = None) -> int:
    """Run one job with onnxruntime."""
    return run_job(list(sys.argv[1:] if argv is None else argv), OnnxRuntime())


if __name__ == "__main__":
    sys.exit(main())
