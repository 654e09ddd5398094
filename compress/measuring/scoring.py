"""What a saved model answers to the test split, computed and reduced in child processes, and its scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from compress.core.artifacts import TASK, Artifact
from compress.core.errors import ModelError, TargetError
from compress.core.files import (
    Damaged,
    entry_of,
    first_damaged,
    make_folder,
    read_sealed,
    replacing,
    write_sealed,
)
from compress.core.plugins import named
from compress.core.records import Accuracy
from compress.data.splits import Examples, item_bytes
from compress.encoding.inputs import Inputs
from compress.encoding.interface import as_taken
from compress.encoding.tokens import TokenInputs, unknown_share
from compress.measuring.feeds import in_order, parts
from compress.measuring.jobs import Job, JobFolder, model_path
from compress.measuring.results import load_answers
from compress.store.checking import CHECKSUMS
from compress.targets.local import ResolvedTarget
from compress.tasks.base import Answers, Scored, Task


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
) -> tuple[Accuracy, list[dict[str, Any]]]:
    """Score an artifact on the test split, as `measure` is asked to.

    Args:
        baseline_accuracy: of the baseline; None: `artifact` is the baseline.
        beside: jobs to do at the same time: scores do not depend on what else runs.
        shared: a folder where the baseline's answers are kept for its other rivals; None: they are not.

    Returns:
        The scores, and the results of `beside`.
    """
    examples = task.scored(test)
    batch_size = target.spec.batch_sizes[0]
    inputs, answers, results = _answers(jobs, artifact, examples, target, task, beside)
    digest = _digest(examples)
    reference: Answers | None = None
    if task.kind.against_baseline:
        kept = None if shared is None else shared / f"{_reference_key(baseline, target, digest)}.npz"
        stored = None if kept is None else _kept(kept, len(examples))
        reference = answers if baseline_accuracy is None else stored
        if reference is None:
            _, reference, _ = _answers(jobs, baseline, examples, target, task)
        if kept is not None and stored is None:
            _keep(reference, kept)
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
) -> tuple[Inputs, Answers, list[dict[str, Any]]]:
    """The examples as a model takes them, what is kept of its outputs, and the results of the jobs done beside.

    Raises:
        ModelError: its outputs are not of the shape that the task reads.
        TargetError: the same, said by a device: what it answers is not taken for a fault of the model.
    """
    described = artifact.read_json(TASK)
    inputs = as_taken(task.encode(examples, artifact.path), artifact.path)
    found = model_answers(
        jobs, model_path(artifact, target), inputs, target.spec.batch_sizes[0], task, described, beside
    )
    where = str(artifact.model_file)
    try:
        task.check_outputs((len(inputs), *found.shape), described, where)
        if found.answers is None:
            raise ModelError(f"the model's outputs cannot be scored: {found.refused}", where=where)
    except ModelError as error:
        if target.device is None:
            raise
        raise TargetError(error.message, where=target.label, code="device-answer") from error
    return inputs, found.answers, found.beside


class Answered(NamedTuple):
    """What is kept of a model's outputs, None where they were refused, and why; the shape of the outputs of one
    example; the results of the jobs done beside."""

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
    """What the task keeps of the outputs of a model on all inputs, in their order; `described` is its `task.json`.

    Inputs that are too many to be held at once go through several processes, one after another.
    """
    found: list[Answers] = []
    results: list[dict[str, Any]] = []
    shape: tuple[int, ...] = ()
    for part in parts(in_order(inputs, batch_size)):
        job, file = jobs.score(model, jobs.feeds("test", part), task, described)
        done, *others = jobs.run(job, *beside)
        results, beside, shape = results + others, (), tuple(done["shape"])
        if done["refused"] is not None:
            return Answered(None, done["refused"], shape, results)
        found.append(load_answers(file))
        shapes = [{name: values.shape[1:] for name, values in one.items()} for one in (found[0], found[-1])]
        if shapes[0] != shapes[1]:
            raise TargetError(
                f"{jobs.where} gave outputs of the shapes {shapes[0]} and {shapes[1]}",
                where=jobs.where,
                code="job-result",
            )
    together = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    return Answered(together, None, shape, results)


def _unknown_share(artifact: Artifact, inputs: Inputs) -> float | None:
    """Share of unknown tokens, where the inputs are tokens and the artifact names the unknown one."""
    if not isinstance(inputs, TokenInputs):
        return None
    unk_id = artifact.read_json(TASK).get("unk_id")
    return None if unk_id is None else unknown_share(inputs, int(unk_id))


def _digest(examples: Examples) -> str:
    digest = hashlib.sha256()
    for item in examples.items:
        digest.update(hashlib.sha256(item_bytes(item)).digest())
    if examples.scores is not None:
        digest.update(examples.scores.tobytes())
    return digest.hexdigest()


def _reference_key(baseline: Artifact, target: ResolvedTarget, examples: str) -> str:
    return hashlib.sha256(f"{baseline.runtime_digest} {target.fingerprint} {examples}".encode()).hexdigest()


def _kept(file: Path, examples: int) -> Answers | None:
    """The answers to so many examples that were saved; None where they were not, or where the file was damaged."""
    try:
        files = read_sealed(file.with_suffix(CHECKSUMS))["files"]
        if first_damaged(file.parent, files) is not None:
            return None
        answers = load_answers(file)
    except (FileNotFoundError, Damaged, KeyError):
        return None
    return answers if {len(values) for values in answers.values()} == {examples} else None


def _keep(answers: Answers, file: Path) -> None:
    """Save answers as a whole: another run may look for them."""
    make_folder(file.parent)
    with replacing(file) as temporary:
        np.savez(temporary, allow_pickle=False, **answers)
        # First the note: answers without one would be taken for damaged.
        write_sealed(file.with_suffix(CHECKSUMS), {"files": {file.name: entry_of(temporary)}})
