"""Rank the methods of 4-bit weights by what they cost a real model, beside onnxruntime's own quantizers.

    python benchmarks/int4_methods.py [--profile benchmarks/clinc_intents.yaml] [--examples 512] [--quick]

Takes the FP32 ONNX file of the profile's fine-tuned teacher (or `--model`, the folder of one), quantizes it by every
method, block size and kind of zero point, and compares with the float model on the test split: accuracy,
Kullback-Leibler divergence of the probabilities, cosine of the logits; size; median latency of all files in turns, at
batch 1 and one thread. onnxruntime's quantizers know plain products only, so they get the same model with its fused
attention taken apart. Writes reports/benchmarks/int4_methods.json and .md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from alternation import PROCESSES, times_in_turns
from fp32_files import taken_apart
from numpy.typing import NDArray
from peers.calling import Quantize
from peers.onnxruntime import best_round_to_nearest, half_quadratic
from running import ROOT, missing, resolve, teacher_of
from writing import write_rows

from compress.core.artifacts import ONNX_MODEL
from compress.core.units import megabytes
from compress.encoding.inputs import Batch, Inputs
from compress.engine.resolve import Job
from compress.lowering.files import save_onnx
from compress.measuring.jobs import JobFolder
from compress.measuring.timing.feeds import sample_indices, sequential_batches
from compress.passes.quantize.weight_only.methods import quantize_weights
from compress.passes.quantize.weight_only.spec import WeightOnlySpec
from compress.profile.schema import MeasureSpec
from compress.runtimes.runner import open_session

METHODS = ("rtn", "hqq", "gptq", "awq")
BLOCK_SIZES = (32, 128)
BATCH = 8
Write = Callable[[Path], None]
"""Writes a quantized model into a folder."""


@dataclass(frozen=True)
class Subject:
    """The float model, the job that it was made in, and the inputs that it is calibrated and judged on."""

    folder: Path
    job: Job
    test: Inputs
    labels: NDArray[np.int64]

    def batches(self, examples: int) -> Callable[[], Iterator[Batch]]:
        """Training examples, one by one and unpadded."""
        train = self.job.training_data.train
        drawn = np.sort(np.random.default_rng(0).permutation(len(train))[:examples])
        inputs = self.job.task.encode(train.take(drawn), self.folder)
        return lambda: sequential_batches(inputs, 1)

    def logits(self, model: Path) -> NDArray[np.float32]:
        """(examples, labels) of a file on the test split."""
        session = open_session(str(model))
        return np.concatenate(
            [session.run(None, dict(batch))[0] for batch in sequential_batches(self.test, BATCH)]
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", type=Path, default=ROOT / "benchmarks" / "clinc_intents.yaml")
    parser.add_argument(
        "--model", type=Path, help="a folder with the float model.onnx, if it is made already"
    )
    parser.add_argument("--examples", type=int, default=512, help="training examples that gptq and awq read")
    parser.add_argument("--quick", action="store_true", help="block size 32 and 300 test examples, to try it")
    options = parser.parse_args()
    if reason := missing(options.profile):
        print(f"skipped: {reason}")
        return 0
    subject = _subject(options.profile, options.model, 300 if options.quick else None)
    block_sizes = BLOCK_SIZES[:1] if options.quick else BLOCK_SIZES
    with tempfile.TemporaryDirectory(prefix="int4-") as name:
        apart = taken_apart(subject.folder / ONNX_MODEL, Path(name) / "apart.onnx")
        rows = _rows(subject, variants(subject, block_sizes, options.examples, apart), Path(name))
    model = "a float file given by --model" if options.model else "its teacher"
    note = (
        f"Profile {options.profile.name}, {model}: {len(subject.test)} test examples, {options.examples} training "
        "examples for gptq and awq. KL and cosine compare with the float model, best first. Latency: batch 1, real "
        f"lengths, one thread, all files in turns in {PROCESSES} processes. onnxruntime's HQQ has floating-point zero "
        "points, and leaves embeddings floating; its RTN takes products and embeddings."
    )
    write_rows(
        "int4_methods.quick" if options.quick else "int4_methods", rows, note=note, script="int4_methods"
    )
    return 0


def variants(
    subject: Subject, block_sizes: tuple[int, ...], examples: int, apart: Path
) -> dict[tuple[str, int | None, str], Write]:
    """How each file is written, by method, block size and kind of zero point."""
    source = subject.folder / ONNX_MODEL
    made: dict[tuple[str, int | None, str], Write] = {}
    for size in block_sizes:
        for symmetric in (True, False):
            zero = "none" if symmetric else "integer"
            for method in METHODS:
                spec = WeightOnlySpec.model_validate(
                    {"bits": 4, "method": method, "block_size": size, "symmetric": symmetric}
                )
                made[method, size, zero] = _ours(source, spec, subject.batches(examples))
            made["onnxruntime RTN", size, zero] = _theirs(
                apart, partial(best_round_to_nearest, block_size=size, symmetric=symmetric)
            )
        made["onnxruntime HQQ", size, "float"] = _theirs(apart, partial(half_quadratic, block_size=size))
    return made


def _subject(profile: Path, model: Path | None, most: int | None) -> Subject:
    job = resolve(profile)
    folder = model or teacher_of(job, "onnxruntime").path
    test = job.splits.test
    if most is not None:
        test = test.take(np.sort(sample_indices(len(test), most, seed=0)))
    return Subject(folder, job, job.task.encode(test, folder), test.labels)


def _ours(source: Path, spec: WeightOnlySpec, batches: Callable[[], Iterator[Batch]]) -> Write:
    def write(folder: Path) -> None:
        model = ir.load(source)
        quantize_weights(model, source, spec, batches, folder)
        save_onnx(model, folder)

    return write


def _theirs(source: Path, quantize: Quantize) -> Write:
    return lambda folder: quantize(source, None, folder / ONNX_MODEL)


def _rows(
    subject: Subject, variants: dict[tuple[str, int | None, str], Write], work: Path
) -> list[dict[str, Any]]:
    wanted = subject.logits(subject.folder / ONNX_MODEL)
    rows = [{"method": "float", "block": None, "zero point": "", **_judged(subject, wanted, wanted)}]
    files = [subject.folder / ONNX_MODEL]
    for (method, size, zero), write in variants.items():
        folder = work / f"{len(files)}"
        folder.mkdir()
        started = time.perf_counter()
        write(folder)
        seconds = time.perf_counter() - started
        files.append(folder / ONNX_MODEL)
        row = {"method": method, "block": size, "zero point": zero}
        found = _judged(subject, wanted, subject.logits(files[-1]))
        rows.append({**row, **found, "quantizing, s": round(seconds, 1)})
        print(rows[-1], flush=True)
    medians = _medians(subject, files, work)
    for row, file, median in zip(rows, files, medians, strict=True):
        row["MB"] = round(megabytes(file.stat().st_size), 2)
        row["p50, ms"] = round(median, 3)
        row["times faster"] = round(medians[0] / median, 2)
    return sorted(rows, key=lambda row: row["KL"])


def _judged(subject: Subject, wanted: NDArray[np.float32], got: NDArray[np.float32]) -> dict[str, float]:
    """What the outputs (examples, labels) are worth beside those of the float model."""
    return {
        "accuracy": round(float((got.argmax(axis=1) == subject.labels).mean()), 4),
        "same answer": round(float((got.argmax(axis=1) == wanted.argmax(axis=1)).mean()), 4),
        "KL": round(subject.job.task.divergence(wanted, got), 6),
        "cosine": round(float(np.mean(_cosines(wanted, got))), 5),
    }


def _cosines(wanted: NDArray[np.float32], got: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(got, axis=1)
    return (wanted * got).sum(axis=1) / lengths


def _medians(subject: Subject, files: list[Path], work: Path) -> list[float]:
    """Median milliseconds of each file at batch 1, all timed in turns."""
    jobs = JobFolder(work, "onnxruntime", "cpu", 1, "4-bit variants")
    spec = MeasureSpec(examples=100, min_seconds=1.0 * len(files), min_rounds=60)
    times = times_in_turns(jobs, files, subject.test, spec)
    return [float(np.median(np.concatenate(each))) for each in times]


if __name__ == "__main__":
    raise SystemExit(main())
