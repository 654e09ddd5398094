"""This project's quantization beside that of its peers: the same FP32 model, the same examples, the same clock.

    python benchmarks/versus_peers.py [--only NAME ...] [--model teacher|student] [--environments FOLDER] [--quick]

The CLINC150 teacher and its 2-layer student in 8 and 4 bits, by this project and by the tools in peers/, each
installed into a virtual environment of its own and run with its default settings and with those that serve it best.
What cannot be installed, or fails, is a row with its reason. Writes reports/benchmarks/versus_peers.json and .md;
exits 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from alternation import times_in_turns
from fp32_files import plain_export, taken_apart, with_shapes
from numpy.typing import NDArray
from peer_files import Peer, PeerFailedError, shortened
from peer_rows import DEFAULT, OURS, Entry, Found, bars, ranked, table_row
from peers.calling import write_feeds
from running import ROOT, make, missing, resolve, terminal
from writing import markdown, write_rows

from compress.core.artifacts import ONNX_MODEL, Artifact
from compress.core.errors import CompressError, TargetError
from compress.core.units import megabytes
from compress.data.splits import Examples
from compress.engine.making import context_of
from compress.engine.resolve import Job
from compress.measuring.jobs import JobFolder
from compress.measuring.scoring import model_answers
from compress.measuring.timing.feeds import sample_indices
from compress.measuring.variants import VariantComparison
from compress.passes.quantize.calibration.examples import calibration_batches
from compress.passes.quantize.schemes import choose_scheme
from compress.profile.schema import MeasureSpec
from compress.store.cache import Cache
from compress.tasks.base import Truth

PROFILE = ROOT / "benchmarks" / "clinc_intents.yaml"
PEERS = tuple(map(Peer, ("onnxruntime", "olive", "neural_compressor", "nncf", "optimum")))
EXAMPLES = 300
"""Training examples for calibration: as many as NNCF takes by default, which is the most of all defaults."""
_EIGHT = {"bits": 8, "calibration": {"examples": EXAMPLES}}
OUR_SETTINGS: dict[str, dict[str, Any]] = {
    DEFAULT: _EIGHT,
    "INT8, smooth": {**_EIGHT, "smooth": True},
    "INT8 dynamic": {"bits": 8, "scheme": "dynamic"},
    "INT8 static": {**_EIGHT, "scheme": "static"},
    "INT4 RTN": {"bits": 4, "method": "rtn"},
    "INT4 RTN, zero points": {"bits": 4, "method": "rtn", "symmetric": False},
    "INT4 HQQ": {"bits": 4, "method": "hqq"},
    "INT4 HQQ, zero points": {"bits": 4, "method": "hqq", "symmetric": False},
    "INT4 GPTQ, default": {"bits": 4, "method": "gptq"},
    "INT4 GPTQ, zero points": {"bits": 4, "method": "gptq", "symmetric": False},
}
CHECKED = 8
"""Examples that a file must run on before it is compared with others."""
FP32_FILES = ("ours", "apart", "plain")
NOTE = (
    f"Profile {PROFILE.name}. Every tool reads the same FP32 model, which stands ready as three files: `ours`, with "
    "fused attention; `apart`, the same with attention's product as an operator of its own; `plain`, as torch exports "
    "it. Of what a peer makes of the three, the best on the validation split is measured (the rule of `scheme: auto`), "
    f"and the note says which. Calibration reads the same {EXAMPLES} training examples. Accuracy is over the test "
    "utterances, one at a time; all files of a model are timed in turns with each other: batch 1, real lengths, one "
    "thread. Changes, sizes and speeds are relative to our FP32 file."
)


@dataclass(frozen=True)
class Extent:
    """How much is trained, scored and timed."""

    overrides: Mapping[str, Any]
    test: int | None
    validation: int | None
    timed: MeasureSpec


FULL = Extent({}, None, None, MeasureSpec(examples=100, min_seconds=60, min_rounds=800))
QUICK = Extent(
    {
        "teacher.finetune.epochs": 0.3,
        "passes.0.distill.epochs": 0.3,
        "passes.0.distill.augment": None,
    },
    300,
    100,
    MeasureSpec(examples=20, min_seconds=4, min_rounds=40),
)


@dataclass(frozen=True)
class Subject:
    """A float model that is quantized: how the profile makes it."""

    name: str
    overrides: Mapping[str, Any]
    quantizer: str | None
    """The key of the profile that says how it is quantized; None: its only pass does."""

    def settings(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """What of the profile is replaced to quantize it as `spec` says."""
        own = {"passes": [{"quantize": spec}]} if self.quantizer is None else {self.quantizer: spec}
        return {**self.overrides, **own}

    def job(self, spec: Mapping[str, Any]) -> Job:
        """The job that quantizes it as `spec` says."""
        return resolve(PROFILE, self.settings(spec))


@dataclass(frozen=True)
class Prepared:
    """What every tool is given: the FP32 files by their names, and a folder of training examples."""

    files: Mapping[str, Path]
    calibration: Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=[peer.name for peer in PEERS], help="these peers; nothing is written"
    )
    parser.add_argument("--model", choices=("teacher", "student"), help="this model; nothing is written")
    parser.add_argument(
        "--environments", type=Path, help="where peers are installed; unset: a folder in the cache"
    )
    parser.add_argument("--quick", action="store_true", help="hardly trained models, few examples: to try it")
    options = parser.parse_args()
    if reason := missing(PROFILE):
        print(f"skipped: {reason}")
        return 0
    root = Cache.default().root.absolute()
    kept, environments = root / "peers", options.environments or root / "environments"
    chosen = [peer for peer in PEERS if not options.only or peer.name in options.only]
    extent = QUICK if options.quick else FULL
    rows: list[dict[str, Any]] = []
    reached = {}
    for subject in subjects(extent):
        if options.model not in (None, subject.name):
            continue
        entries = measured(subject, chosen, environments.absolute(), kept, extent)
        (baseline,) = (entry.found for entry in entries if (entry.tool, entry.setting) == (OURS, "FP32"))
        assert baseline is not None
        rows += [table_row(subject.name, entry, baseline) for entry in ranked(entries)]
        reached[subject.name] = bars(entries, baseline)
    teacher = reached.get("teacher", [])
    bar_lines = [f"- {'held' if bar.held else 'missed'}: {bar.text}" for bar in teacher]
    note = "\n".join([NOTE, "", f"`{OURS}`, {DEFAULT}, of the teacher:", "", *bar_lines])
    if options.only or options.model:
        print(markdown(rows), "", *bar_lines, sep="\n")
    else:
        name = "versus_peers.quick" if options.quick else "versus_peers"
        write_rows(name, rows, note=note, script="versus_peers")
    return 0 if options.quick or all(bar.held for bar in teacher) else 1


def subjects(extent: Extent) -> tuple[Subject, Subject]:
    """The teacher and its student."""
    teacher = {key: value for key, value in extent.overrides.items() if not key.startswith("passes")}
    return Subject("teacher", teacher, None), Subject("student", extent.overrides, "passes.1.quantize")


def measured(
    subject: Subject, peers: Sequence[Peer], environments: Path, kept: Path, extent: Extent
) -> list[Entry]:
    """Every file that ours and the peers make of a float model, scored and timed."""
    job = subject.job(_EIGHT)
    step = job.plan.step("quantize").inputs["model"]
    made = make(job, step)
    prepared = prepare(job, made[step], made[job.plan.step(step).inputs["model"]], kept)
    entries = [
        Entry(OURS, "FP32", made[step].model_file),
        Entry("torch", "FP32", prepared.files["plain"], "the file `plain`"),
        *ours(subject),
    ]
    validation = taken(job.splits.validation, extent.validation)
    for peer in peers:
        for entry in theirs(peer, environments, prepared, kept, Judge(job, made[step], validation)):
            print(f"{subject.name}: {entry.tool}, {entry.setting}: {entry.note}", flush=True)
            entries.append(entry)
    return with_figures(job, made[step], entries, extent)


def prepare(job: Job, fused: Artifact, torch: Artifact, kept: Path) -> Prepared:
    """The FP32 files and the examples, made once for a model."""
    folder = kept / f"fp32-{fused.digest[:32]}"
    if not folder.is_dir():
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept, prefix="making-") as name:
            work, made = Path(name), Path(name) / "made"
            calibration = made / "calibration"
            calibration.mkdir(parents=True)
            apart = taken_apart(fused.model_file, work / "apart.onnx")
            plain = plain_export(torch, work / "plain.onnx")
            for file, source in zip(FP32_FILES, (fused.model_file, apart, plain), strict=True):
                with_shapes(source, made / f"{file}.onnx")
            step = job.plan.step("quantize")
            context = context_of(
                step, job, {"model": fused}, Cache.default(), terminal(), out=work, work=work
            )
            write_feeds(calibration, list(calibration_batches(context, fused, EXAMPLES)()))
            made.rename(folder)
    files = {name: folder / f"{name}.onnx" for name in FP32_FILES}
    return Prepared(files, folder / "calibration")


def ours(subject: Subject) -> Iterator[Entry]:
    """What this project makes, through the engine."""
    for setting, spec in OUR_SETTINGS.items():
        try:
            artifact = make(subject.job(spec), "quantize")["quantize"]
        except CompressError as error:
            yield Entry(OURS, setting, None, shortened(str(error)))
            continue
        chosen = f"chose {artifact.facts['scheme']}" if "variants" in artifact.facts else ""
        yield Entry(OURS, setting, artifact.model_file, chosen)


@dataclass(frozen=True)
class Judge:
    """Tells on validation examples which of several files of one model serves best."""

    job: Job
    model: Artifact
    validation: Examples

    def best(self, files: Mapping[str, Path]) -> str:
        """The fastest file whose score is within half a point of the best.

        Raises:
            TargetError: one of them does not run.
        """
        inputs = self.job.task.encode(self.validation, self.model.path)
        truth = Truth.of(self.validation)
        contest = VariantComparison(inputs, truth, self.job.task, self.job.targets[0], seed=0)
        return choose_scheme(contest.compare(files), self.job.task.kind.metric)

    def check(self, file: Path) -> None:
        """Run a few examples, of several lengths.

        Raises:
            TargetError: the file does not run.
        """
        with tempfile.TemporaryDirectory(prefix="versus-check-") as name:
            inputs = self.job.task.encode(self.validation.take(range(CHECKED)), self.model.path)
            model_answers(job_folder(Path(name)), str(file), inputs, 1, self.job.task, {})


def theirs(peer: Peer, environments: Path, prepared: Prepared, kept: Path, judge: Judge) -> Iterator[Entry]:
    """What a peer makes in each setting of the FP32 file that serves it best."""
    try:
        python = peer.python(environments)
    except PeerFailedError as error:
        yield Entry(peer.tool, "", None, str(error))
        return
    for setting in peer.settings:
        files: dict[str, Path] = {}
        failed: dict[str, str] = {}
        for name, source in prepared.files.items():
            try:
                folder = peer.quantized(python, setting, source, prepared.calibration, kept)
                judge.check(folder / ONNX_MODEL)
                files[name] = folder / ONNX_MODEL
            except (PeerFailedError, TargetError) as error:
                failed[name] = shortened(str(error))
        if not files:
            yield Entry(peer.tool, setting, None, "; ".join(f"{name}: {why}" for name, why in failed.items()))
            continue
        best = judge.best(files) if len(files) > 1 else next(iter(files))
        without = f"; nothing from {' and '.join(failed)}" if failed else ""
        yield Entry(peer.tool, setting, files[best], f"from `{best}`{without}")


def with_figures(job: Job, model: Artifact, entries: Sequence[Entry], extent: Extent) -> list[Entry]:
    """The entries with what was measured of their files: all scored, then all timed in turns."""
    test = taken(job.splits.test, extent.test)
    inputs = job.task.encode(test, model.path)
    told = list(entries)
    hits: dict[int, NDArray[np.bool_]] = {}
    files: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="versus-peers-") as name:
        jobs = job_folder(Path(name))
        for place, entry in enumerate(entries):
            if entry.file is None:
                continue
            try:
                answers = model_answers(jobs, str(entry.file), inputs, 1, job.task, {}).answers
            except TargetError as error:
                told[place] = replace(entry, note=shortened(str(error)))
                continue
            assert answers is not None
            hits[place] = answers["label"] == test.labels
            files.append(entry.file)
        times = times_in_turns(jobs, files, inputs, extent.timed)
    for (place, right), file, ms in zip(hits.items(), files, times, strict=True):
        told[place] = replace(told[place], found=Found(right, bytes_mb(file), ms))
    return told


def taken(examples: Examples, most: int | None) -> Examples:
    """The examples, or so many of them."""
    return examples if most is None else examples.take(np.sort(sample_indices(len(examples), most, seed=0)))


def job_folder(folder: Path) -> JobFolder:
    """Jobs on one thread of this machine."""
    return JobFolder(folder, "onnxruntime", "cpu", 1, "peers")


def bytes_mb(file: Path) -> float:
    """MB of a model's file, and of the weights beside it."""
    return megabytes(sum(each.stat().st_size for each in file.parent.glob(f"{file.name}*")))


if __name__ == "__main__":
    raise SystemExit(main())
