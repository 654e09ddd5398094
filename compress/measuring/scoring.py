"""Scoring of a saved model on the test split; outputs are computed and reduced in child processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from compress.core.artifacts import TASK, Artifact
from compress.core.disk.files import (
    Damaged,
    digest_of,
    entry_of,
    first_damaged,
    make_folder,
    read_sealed,
    replacing,
    write_sealed,
)
from compress.core.errors import ModelError, TargetError
from compress.core.plugins import named
from compress.core.records import Accuracy, TaskScore
from compress.core.units import MIB
from compress.data.splits import Examples, item_content
from compress.encoding.inputs import Inputs, with_reference
from compress.encoding.interface import as_model_inputs
from compress.encoding.tokens import TokenInputs, unknown_share
from compress.measuring.jobs import Job, JobFolder, model_path
from compress.measuring.protocol import PROTOCOL_VERSION
from compress.measuring.results import load_answers
from compress.measuring.timing.feeds import in_order, parts
from compress.store.checking import CHECKSUMS
from compress.targets.local import ResolvedTarget
from compress.tasks.base import Answers, GenerationPrompts, Scored, Task

LOGITS_BYTES = 256 * MIB
"""Maximum bytes of the logits of a scored batch, for models with logits per token; at least one example is scored."""
Asks = Callable[[Task, Examples, Path, int], GenerationPrompts | None]
Writes = Callable[[Inputs, Mapping[str, Any]], NDArray[np.int32]]
ScoredIn = Callable[[Task, Path, Callable[[Inputs], Answers], Writes, Path], tuple[TaskScore, ...]]


def score_artifact(
    jobs: JobFolder,
    artifact: Artifact,
    baseline: Artifact,
    baseline_accuracy: Accuracy | None,
    target: ResolvedTarget,
    task: Task,
    test: Examples,
    seed: int,
    beside: Sequence[Job] = (),
    shared: Path | None = None,
    base: Path = Path(),
    allow_code: bool = False,
) -> tuple[Accuracy, list[dict[str, Any]]]:
    """Score an artifact on the test split.

    Args:
        jobs: runs the scoring jobs.
        artifact: the model to score.
        baseline: the model to compare with.
        baseline_accuracy: scores of the baseline; None if `artifact` is the baseline.
        target: the target; its first batch size is used.
        task: the task that encodes and scores the examples.
        test: the examples of the test split.
        seed: seed of the bootstrap and of the prompts.
        beside: jobs to run at the same time; scores do not depend on what else runs.
        shared: folder in which the baseline's outputs are kept for later comparisons; None: they are not kept.
        base: folder of user code that judges answers.
        allow_code: whether that code may run.

    Returns:
        The scores, and the results of `beside`.
    """
    examples = task.scored(test)
    batch_size = target.spec.batch_sizes[0]
    digest = _digest(examples)
    reference: Answers | None = None
    kept: Path | None = None
    if task.kind.against_baseline and shared is not None:
        kept = shared / f"{_reference_key(baseline, target, task, digest)}.npz"
    if task.kind.against_baseline and baseline_accuracy is not None:
        reference = None if kept is None else _kept(kept)
        if reference is None:
            _, reference, _ = _answers(jobs, baseline, examples, target, task)
            _keep(reference, kept)
    inputs, answers, results = _answers(jobs, artifact, examples, target, task, beside, reference)
    if task.kind.against_baseline and baseline_accuracy is None:
        reference = answers
        _keep(reference, kept)

    def write(prompts: Inputs, settings: Mapping[str, Any]) -> NDArray[np.int32]:
        return written_answers(jobs, model_path(artifact, target), prompts, settings)

    asked = None
    if task.kind.asks is not None:
        asked = cast(Asks, named(task.kind.asks))(task, examples, artifact.path, seed)
    further: tuple[TaskScore, ...] = ()
    if task.kind.scored_in is not None:
        further = cast(ScoredIn, named(task.kind.scored_in))(
            task,
            artifact.path,
            lambda inputs: _scored(jobs, artifact, inputs, target, task)[0],
            write,
            base,
        )
    record = cast(Callable[[Scored], Accuracy], named(task.kind.record))(
        Scored(
            task,
            answers,
            examples,
            baseline_accuracy,
            reference,
            batch_size,
            seed,
            digest,
            _unknown_share(artifact, inputs),
            asked,
            None if asked is None else write(asked.inputs, asked.settings),
            base,
            allow_code,
            further,
        )
    )
    return record, results


def _answers(
    jobs: JobFolder,
    artifact: Artifact,
    examples: Examples,
    target: ResolvedTarget,
    task: Task,
    beside: Sequence[Job] = (),
    reference: Answers | None = None,
) -> tuple[Inputs, Answers, list[dict[str, Any]]]:
    """Encode examples and run the model; return the inputs, the reduced outputs and the results of `beside`."""
    inputs = as_model_inputs(with_reference(task.encode(examples, artifact.path), reference), artifact.path)
    return inputs, *_scored(jobs, artifact, inputs, target, task, beside)


def _scored(
    jobs: JobFolder,
    artifact: Artifact,
    inputs: Inputs,
    target: ResolvedTarget,
    task: Task,
    beside: Sequence[Job] = (),
) -> tuple[Answers, list[dict[str, Any]]]:
    """Run a model on inputs; return its reduced outputs and the results of `beside`.

    Raises:
        ModelError: its outputs do not have the shape that the task expects, or cannot be scored.
        TargetError: the same on a device, whose answers are not attributed to the model.
    """
    described = artifact.read_json(TASK)
    rows = target.spec.batch_sizes[0]
    if task.kind.writes:
        rows = min(rows, max(1, LOGITS_BYTES // (4 * int(described["words"]) * int(inputs.lengths.max()))))
    found = model_answers(jobs, model_path(artifact, target), inputs, rows, task, described, beside)
    where = str(artifact.model_file)
    try:
        task.check_outputs((len(inputs), *found.shape), described, where)
        if found.answers is None:
            raise ModelError(f"the model's outputs cannot be scored: {found.refused}", where=where)
    except ModelError as error:
        if target.device is None:
            raise
        raise TargetError(error.message, where=target.label, code="device-answer") from error
    return found.answers, found.beside


def written_answers(
    jobs: JobFolder, model: str, prompts: Inputs, settings: Mapping[str, Any]
) -> NDArray[np.int32]:
    """Generate answers to prompts: tokens int32 (prompts, most), -1 after the end of an answer; `settings` as in
    `decoding.outputs`."""
    every = prompts.batch(np.arange(len(prompts)))
    job, file = jobs.write(model, jobs.feeds("asked", [every]), dict(settings))
    jobs.run(job)
    found = load_answers(file)["written"]
    if found.shape != (len(prompts), settings["most"]) or found.dtype != np.int32:
        raise TargetError(
            f"{jobs.where} gave answers of shape {found.shape}", where=jobs.where, code="job-result"
        )
    return found


class Answered(NamedTuple):
    """Reduced outputs of a model, or None and the reason if the scorer refused them; the shape of the outputs for one
    example; the results of the jobs run beside."""

    answers: Answers | None
    refused: str | None
    shape: tuple[int, ...]
    beside: list[dict[str, Any]]


def model_answers(
    jobs: JobFolder,
    model: str,
    inputs: Inputs,
    batch_size: int,
    task: Task,
    described: Mapping[str, Any],
    beside: Sequence[Job] = (),
) -> Answered:
    """Compute a model's reduced outputs for all inputs, in order; `described` is its `task.json`.

    Inputs that are too large to be held in memory at once are split over several consecutive processes.
    """
    found: list[Answers] = []
    results: list[dict[str, Any]] = []
    shape: tuple[int, ...] = ()
    for part in parts(in_order(inputs, batch_size)):
        # Scoring a language model takes minutes on one core; that of a small classifier is no faster on several.
        job, file = jobs.score(
            model, jobs.feeds("test", part), task, described, on_all_cores=task.kind.writes
        )
        done, *others = jobs.run(job, *beside)
        results, beside, shape = results + others, (), tuple(done["shape"])
        if done["refused"] is not None:
            return Answered(None, done["refused"], shape, results)
        found.append(load_answers(file))
        shapes = [{name: values.shape[1:] for name, values in one.items()} for one in (found[0], found[-1])]
        if shapes[0] != shapes[1]:
            raise TargetError(
                f"{jobs.where} gave outputs of different shapes, {shapes[0]} and {shapes[1]}",
                where=jobs.where,
                code="job-result",
            )
    together = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    return Answered(together, None, shape, results)


def _unknown_share(artifact: Artifact, inputs: Inputs) -> float | None:
    """Return the share of unknown tokens; None if the inputs are not tokens or there is no unknown token."""
    if not isinstance(inputs, TokenInputs):
        return None
    unk_id = artifact.read_json(TASK).get("unk_id")
    return None if unk_id is None else unknown_share(inputs, int(unk_id))


def _digest(examples: Examples) -> str:
    digest = hashlib.sha256()
    for item in examples.items:
        digest.update(hashlib.sha256(item_content(item)).digest())
    if examples.scores is not None:
        digest.update(examples.scores.tobytes())
    return digest.hexdigest()


def _reference_key(baseline: Artifact, target: ResolvedTarget, task: Task, examples: str) -> str:
    said = [PROTOCOL_VERSION, baseline.runtime_digest, target.fingerprint, task.data.scored_by(), examples]
    return digest_of(said)


def _kept(file: Path) -> Answers | None:
    """Load stored outputs; None if they do not exist or are damaged."""
    try:
        files = read_sealed(file.with_suffix(CHECKSUMS))["files"]
        if first_damaged(file.parent, files) is not None:
            return None
        return load_answers(file)
    except (FileNotFoundError, Damaged, KeyError):
        return None


def _keep(answers: Answers, file: Path | None) -> None:
    """Store outputs atomically for other runs, unless `file` is None or intact already."""
    if file is None or _kept(file) is not None:
        return
    make_folder(file.parent)
    with replacing(file) as temporary:
        np.savez(temporary, allow_pickle=False, **answers)
        # The checksums come first, since outputs without them count as damaged.
        write_sealed(file.with_suffix(CHECKSUMS), {"files": {file.name: entry_of(temporary)}})
