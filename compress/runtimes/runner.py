"""Runs an ONNX model: scores it, times it, weighs it, predicts with it.

    python runner.py JOB.json RESULT.json

One file that needs Python 3.9, numpy and onnxruntime (to predict from texts tokenizers too, from images Pillow):
it is copied into bundles and onto devices, so it imports nothing of the package it lies in. A job is one of

    {"kind": "accuracy", "model": PATH, "feeds": NPZ, "outputs": NPY, "threads": 1, "device": "cpu"}
    {"kind": "latency", "models": [PATH, PATH], "load_order": [0, 1], "scenarios": [{"feeds": [NPZ, NPZ]}],
     "seconds": 0.5, "rounds": 8, "share": [0, 4], "threads": 1, "device": "cpu",
     "tokenization": {"folder": PATH, "texts": ["..."]}}
    {"kind": "memory", "model": PATH, "feeds": NPZ, "threads": 1, "device": "cpu"}

Any job may say on which `cores` it is kept. `feeds` are files of `write_batches`. Several processes may share one
latency measurement: `share` says which of how many this is, `seconds` and `rounds` are this one's. `tokenization` may
be left out. The result is JSON, written under a temporary name and renamed.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Else onnxruntime calls its maker's collector and keeps a device's id in the home folder. It looks when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

Batch = dict[str, Any]
"""Input name -> array."""
Predict = Callable[[Batch], Any]
"""A batch -> the model's output, an array (batch, ...) in host memory."""

DISABLED_OPTIMIZERS = ["SkipLayerNormFusion"]
"""The fused SkipLayerNormalization kernel is slower on CPUs than the Add and LayerNormalization it joins."""

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")

SHORTEST_TURN = 4
"""Batches that a model is timed on before another model has its turn, at least."""
TURN_NS = 20_000_000
"""More of them, where the slowest model stays below this time."""
SETTLE_NS = 3_000_000
"""Untimed running at the start of each turn, at least one run."""


class RunnerError(Exception):
    """The model cannot be run here as asked."""


class OnnxRuntime:
    """Loads and runs ONNX and ORT files; `torch_worker.py` has a class with the same methods for torch."""

    def prepare(self, threads: int, device: str) -> None:
        """Import what running needs, so that its memory is not counted as the model's."""
        import onnxruntime  # noqa: F401

        if device == "cuda":
            require_cuda()

    def open(self, path: str, threads: int, device: str) -> Predict:
        """Load a model; the function that comes back returns its first output, or the one that is chosen."""
        session = open_session(path, threads, device)
        names = chosen_output(path)
        return lambda batch: session.run(names, batch)[0]

    def gpu_peak_bytes(self) -> int | None:
        """GPU memory of this process; the arena never shrinks, so it is the peak. None where nobody knows."""
        return gpu_bytes_of(os.getpid())


def chosen_output(path: str) -> list[str] | None:
    """The output that the `task.json` beside a model chooses of several; None: the first one is read."""
    file = Path(path).with_name("task.json")
    chosen = json.loads(file.read_text(encoding="utf-8")).get("interface") if file.is_file() else None
    return [chosen["output"]] if chosen and chosen["output"] else None


def require_cuda() -> None:
    """Make sure that onnxruntime was built for CUDA.

    Raises:
        RunnerError: it was not.
    """
    import onnxruntime

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
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        providers.insert(0, "CUDAExecutionProvider")
    session = onnxruntime.InferenceSession(
        str(path), options, providers=providers, disabled_optimizers=DISABLED_OPTIMIZERS
    )
    if session.get_providers()[0] != providers[0]:
        raise RunnerError(f"onnxruntime {onnxruntime.__version__} could not load {providers[0]} for {path}")
    return session


# Batches on disk: for each input all values in one flat array, and the shape of each batch.


def write_batches(path: str, batches: Sequence[Batch]) -> None:
    """Write batches of equal input names, dtypes and ranks to an `.npz` file."""
    arrays = {}
    for name in batches[0]:
        values = [np.asarray(batch[name]) for batch in batches]
        arrays[name] = np.concatenate([value.ravel() for value in values])
        arrays[name + ".shape"] = np.asarray([value.shape for value in values], dtype=np.int64)
    np.savez(path, allow_pickle=False, **arrays)


def read_batches(path: str) -> list[Batch]:
    """The batches that `write_batches` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    names = [name for name in arrays if not name.endswith(".shape")]
    batches: list[Batch] = [{} for _ in arrays[names[0] + ".shape"]]
    for name in names:
        shapes = arrays[name + ".shape"]
        ends = np.cumsum(np.prod(shapes, axis=1))
        for batch, shape, end in zip(batches, shapes, ends):  # noqa: B905 (no `strict` before Python 3.10)
            size = int(np.prod(shape))
            batch[name] = np.ascontiguousarray(arrays[name][end - size : end].reshape(shape))
    return batches


# The jobs.


def accuracy_job(job: dict[str, Any], runtime: Any) -> dict[str, Any]:
    """Outputs of one model on all batches, in order, to the `.npy` file `outputs`."""
    runtime.prepare(job["threads"], job["device"])
    batches = read_batches(job["feeds"])
    predict = runtime.open(job["model"], job["threads"], job["device"])
    outputs = np.concatenate([np.asarray(predict(batch), dtype=np.float32) for batch in batches])
    temporary = job["outputs"] + ".tmp.npy"
    np.save(temporary, outputs)
    os.replace(temporary, job["outputs"])
    return {"examples": len(outputs)}


def latency_job(job: dict[str, Any], runtime: Any) -> dict[str, Any]:
    """Time models in turns; `samples_ns[i][j]` is model i in round j."""
    runtime.prepare(job["threads"], job["device"])
    models: list[Any] = [None] * len(job["models"])
    for index in job["load_order"]:
        models[index] = runtime.open(job["models"][index], job["threads"], job["device"])
    which, processes = job["share"]
    scenarios = []
    for scenario in job["scenarios"]:
        feeds = [read_batches(path) for path in scenario["feeds"]]
        count = len(feeds[0])
        # Together the processes begin at evenly spread batches and reach every one of them.
        first = which * count // processes
        turned = [batches[first:] + batches[:first] for batches in feeds]
        warm_up(models, turned, job["seconds"] / 4)
        cover = -(-count // processes)
        samples, inputs = time_in_turns(models, turned, job["seconds"], job["rounds"], cover)
        scenarios.append({"samples_ns": samples, "inputs": [(first + index) % count for index in inputs]})
    result: dict[str, Any] = {"scenarios": scenarios}
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


def time_in_turns(
    models: Sequence[Predict],
    feeds: Sequence[Sequence[Batch]],
    seconds: float,
    rounds: int,
    cover: int = 1,
) -> tuple[list[list[int]], list[int]]:
    """Time models A, B in turns on the same batches: A B, then B A on the next batches, and so on.

    A turn is a few batches, and it begins with untimed runs. Changing models after every single run would time
    a small model with whatever the large one left in the processor's caches, not as it runs when deployed.

    Args:
        models: functions that return when their output is there.
        feeds: for each model its own encoding of the same batches.
        seconds: go on for so long at least.
        rounds: and until so many batches are timed at least; one round is one batch on every model.
        cover: and until so many are timed, unless that takes more than twice `seconds`.

    Returns:
        Nanoseconds of each model in each round, and the index of the batch of each round.
    """
    clock = time.perf_counter_ns
    count, batches = len(models), len(feeds[0])
    samples: list[list[int]] = [[] for _ in models]
    inputs: list[int] = []
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        slowest = 1
        for model, own in zip(models, feeds):  # noqa: B905
            start = clock()
            model(own[0])
            slowest = max(slowest, clock() - start)
        length = max(SHORTEST_TURN, min(TURN_NS // slowest, batches))
        begin = clock()
        deadline, limit = begin + int(seconds * 1e9), begin + int(2 * seconds * 1e9)
        turn = 0
        while len(inputs) < rounds or clock() < (limit if len(inputs) < cover else deadline):
            done = len(inputs)
            chosen = [(done + step) % batches for step in range(length)]
            # The order changes from turn to turn, and once more each time through the batches, so that each
            # batch meets every order also where the number of turns is even.
            first = turn + done // batches
            for place in range(count):
                which = (first + place) % count
                time_turn(models[which], [feeds[which][index] for index in chosen], samples[which])
            inputs += chosen
            turn += 1
    finally:
        if was_enabled:
            gc.enable()
    return samples, inputs


def time_turn(model: Predict, batches: Sequence[Batch], samples: list[int]) -> None:
    """Run the first batch untimed, for `SETTLE_NS` at least, and then time each batch once."""
    clock = time.perf_counter_ns
    settled = clock() + SETTLE_NS
    model(batches[0])
    while clock() < settled:
        model(batches[0])
    for batch in batches:
        start = clock()
        model(batch)
        samples.append(clock() - start)


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


def keep_to(cores: Sequence[int]) -> list[int]:
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
        with open("/proc/self/clear_refs", "w") as stream:
            stream.write("5")
    except OSError:
        return False
    return True


def status_bytes(field: str) -> int | None:
    """A field of /proc/self/status (`VmRSS`, `VmHWM`) in bytes; None where there is none."""
    try:
        with open("/proc/self/status") as stream:
            for line in stream:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def peak_bytes() -> tuple[int, str]:
    """The resident peak and how it was read."""
    peak = status_bytes("VmHWM")
    if peak is not None:
        return peak, "VmHWM"
    import resource

    # On Linux ru_maxrss may be that of the process that started this one, so it comes second.
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used * (1 if sys.platform == "darwin" else 1024), "ru_maxrss"


def resident_bytes() -> int:
    """The resident size now, or the peak so far where only that is known."""
    now = status_bytes("VmRSS")
    return peak_bytes()[0] if now is None else now


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


def load_tokenizer(folder: str, max_length: int, cut: str = "right") -> Any:
    """The tokenizer of an artifact or bundle; `cut` is the end where what is beyond `max_length` tokens goes."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, direction=cut)
    return tokenizer


def encode(tokenizer: Any, texts: Sequence[str], task: dict[str, Any]) -> Batch:
    """Texts, prepared as `task` says -> the model's inputs, int64 (texts, longest), padded on the right."""
    said = task.get("texts", {})
    made = [said.get("prefix", "") + text for text in texts]
    made = [text.strip() if said.get("strip") else text for text in made]
    encoded = tokenizer.encode_batch([text.lower() if said.get("lowercase") else text for text in made])
    shape = (len(encoded), max(len(one.ids) for one in encoded))
    ids = np.full(shape, task["pad_id"], dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    for row, one in enumerate(encoded):
        ids[row, : len(one.ids)] = one.ids
        mask[row, : len(one.ids)] = 1
    known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(shape, dtype=np.int64)}
    return {name: known[name] for name in task["input_names"]}


def read_image(file: Any) -> Any:
    """An image file -> uint8 (height, width) if it is grey, else (height, width, 3), red first.

    Of several frames the first; turned as its EXIF data says; 16 bits a value become 8; what is transparent becomes
    white.

    Raises:
        RunnerError: it cannot be read as an image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file, formats=IMAGE_FORMATS) as opened:
            opened.load()
            picture = ImageOps.exif_transpose(opened)
    except (OSError, ValueError, SyntaxError, IndexError, TypeError, Image.DecompressionBombError) as error:
        raise RunnerError(f"cannot read {file} as an image: {error}") from error
    if picture.mode in ("I", "F") and opened.format == "TIFF":
        raise RunnerError(f"cannot read {file} as an image: its values have 32 bits; save it with 8 or 16")
    if picture.mode.startswith(("I", "F")):
        # Of the others only 16-bit files open so; Pillow's own conversion would clip them.
        return np.clip(np.rint(np.asarray(picture).astype(np.float64) / 257), 0, 255).astype(np.uint8)
    wanted = "L" if picture.mode in ("1", "L", "LA", "La") else "RGB"
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(picture.convert(wanted), np.uint8)


def scale_image(pixels: Any, size: Sequence[int], channels: int) -> Any:
    """uint8 (h, w) or (h, w, 1 or 3) -> (height, width, channels) of `size`, scaled bilinearly where it differs."""
    from PIL import Image

    height, width = size
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(height, width, channels)


def encode_images(images: Sequence[Any], task: dict[str, Any]) -> Batch:
    """Images -> the model's input, float32 (images, channels, height, width): (pixel / 255 - mean) / std.

    Args:
        images: files, or pixels as `scale_image` takes them.
        task: its `image` section says what the model was trained to see.

    Raises:
        RunnerError: an image cannot be read.
    """
    image = task["image"]
    pixels = [
        scale_image(one if isinstance(one, np.ndarray) else read_image(one), image["size"], image["channels"])
        for one in images
    ]
    values = np.stack(pixels).astype(np.float32) / np.float32(255)
    values = (values - np.float32(image["mean"])) / np.float32(image["std"])
    return {task["input_names"][0]: np.ascontiguousarray(values.transpose(0, 3, 1, 2))}


def require_pillow() -> None:
    """Make sure that images can be read.

    Raises:
        RunnerError: Pillow is not installed.
    """
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise RunnerError("images are read with Pillow: pip install pillow") from None


def input_maker(folder: str, task: dict[str, Any]) -> Callable[[Sequence[Any]], Batch]:
    """The function that makes a model's inputs: from images where the task has an `image` section, else from texts."""
    if "image" in task:
        require_pillow()
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

    Texts need `tokenizer.json` beside them. Images are files, or pixels as `scale_image` takes them.
    """

    def __init__(self, folder: str, threads: int = 1, device: str = "cpu", model: str = "model.onnx") -> None:
        self.task = load_task(folder)
        self.labels = load_labels(folder)
        self.encode = input_maker(folder, self.task)
        self.session = open_session(str(Path(folder) / model), threads, device)

    def outputs(self, items: Sequence[Any]) -> Any:
        """What the model gives for texts or images: float32 (items, labels or width)."""
        return self.session.run(None, self.encode(items))[0]


class Classifier(Predictor):
    """Classifies texts."""

    def __call__(self, items: Sequence[Any]) -> list[tuple[str, float]]:
        """The label of each item and its probability."""
        probabilities = softmax(self.outputs(items))
        return [(self.labels[int(row.argmax())], float(row.max())) for row in probabilities]


class ImageClassifier(Classifier):
    """Classifies images."""


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
    "image-classification": ImageClassifier,
    "sentence-embedding": SentenceEncoder,
}


def open_predictor(folder: str, threads: int = 1, device: str = "cpu", model: str = "model.onnx") -> Any:
    """The predictor of a folder's task.

    Raises:
        RunnerError: this file knows no such task.
    """
    name = load_task(folder)["task"]
    if name not in PREDICTORS:
        raise RunnerError(f"unknown task {name!r}; known: {', '.join(sorted(PREDICTORS))}")
    return PREDICTORS[name](folder, threads, device, model)


# The command.

JOBS = {"accuracy": accuracy_job, "latency": latency_job, "memory": memory_job}


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
        kept = keep_to(job["cores"]) if job.get("cores") else None
        result = JOBS[job["kind"]](job, runtime)
    except RunnerError as error:
        print(error, file=sys.stderr)
        return 5
    result["seconds"] = time.perf_counter() - started
    if kept is not None:
        result["cores"] = kept
    write_result(argv[1], result)
    return 0


def main(argv: Iterable[str] | None = None) -> int:
    """Run one job with onnxruntime."""
    return run_job(list(sys.argv[1:] if argv is None else argv), OnnxRuntime())


if __name__ == "__main__":
    sys.exit(main())
