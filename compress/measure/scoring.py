"""What a saved model gives for the test split, computed in child processes, and its scores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from compress.core.records import Accuracy
from compress.data.splits import UNLABELLED, Examples, item_bytes
from compress.encoding.inputs import Inputs
from compress.encoding.interface import Interface, as_taken, in_label_order
from compress.encoding.tokens import TokenInputs, unknown_share
from compress.measure.accuracy import accuracy_record
from compress.measure.embeddings import embedding_record
from compress.measure.feeds import in_order, parts
from compress.measure.jobs import Job, JobFolder, load_outputs, model_path
from compress.store.checking import CHECKSUMS
from compress.targets.local import ResolvedTarget
from compress.tasks.base import Task, Truth


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
        shared: a folder where the baseline's embeddings are kept for its other rivals; None: they are not.

    Returns:
        The scores, and the results of `beside`.
    """
    scored = test.take(np.flatnonzero(test.labels != UNLABELLED)) if task.labelled else test
    batch_size = target.spec.batch_sizes[0]
    inputs = as_taken(task.encode(scored, artifact.path), artifact.path)
    outputs, results = model_outputs(jobs, model_path(artifact, target), inputs, batch_size, beside)
    outputs = _understood(outputs, artifact, target)
    unknown = _unknown_share(artifact, inputs)
    if task.labelled:
        accuracy = accuracy_record(task, outputs, scored.labels, baseline_accuracy, batch_size, seed, unknown)
        return accuracy, results
    is_baseline = baseline_accuracy is None
    reference = outputs if is_baseline else None
    digest = _digest(scored)
    kept = None if shared is None else shared / f"{_reference_key(baseline, target, digest)}.npy"
    stored = None if kept is None else _kept(kept, len(scored))
    if reference is None:
        reference = stored
    if reference is None:
        theirs = as_taken(task.encode(scored, baseline.path), baseline.path)
        reference, _ = model_outputs(jobs, model_path(baseline, target), theirs, batch_size)
    if kept is not None and stored is None:
        _keep(reference, kept)
    accuracy = embedding_record(
        task,
        outputs,
        Truth.of(scored, reference),
        _distinct(scored),
        is_baseline,
        batch_size,
        seed,
        unknown,
        digest,
    )
    return accuracy, results


def model_outputs(
    jobs: JobFolder, model: str, inputs: Inputs, batch_size: int, beside: Sequence[Job] = ()
) -> tuple[NDArray[np.float32], list[dict[str, Any]]]:
    """Outputs (n, ...) of a model on all inputs, in their order, and the results of the jobs done beside the first.

    Inputs that are too many to be held at once go through several processes, one after another.
    """
    found: list[NDArray[np.float32]] = []
    results: list[dict[str, Any]] = []
    for part in parts(in_order(inputs, batch_size)):
        job, file = jobs.accuracy(model, jobs.feeds("test", part))
        _, *others = jobs.run(job, *beside)
        results, beside = results + others, ()
        found.append(load_outputs(file))
        if found[-1].shape[1:] != found[0].shape[1:]:
            raise TargetError(
                f"{jobs.where} gave outputs of the shapes {found[0].shape} and {found[-1].shape}",
                where=jobs.where,
                code="job-result",
            )
    return np.concatenate(found), results


def _understood(
    outputs: NDArray[np.float32], artifact: Artifact, target: ResolvedTarget
) -> NDArray[np.float32]:
    """Outputs in the order of the labels.

    Raises:
        ModelError: they are not of the shape that the labels ask for.
        TargetError: the same, said by a device: what it answers is not taken for a fault of the model.
    """
    described = artifact.read_json(TASK)
    interface, labels = Interface.of(described), described.get("labels") or ()
    try:
        outputs = in_label_order(outputs, interface)
        if outputs.ndim != 2 or (labels and outputs.shape[1] != len(labels)):
            raise ModelError(
                f"the model's outputs have the shape {outputs.shape}; expected are {len(labels) or 'some'} numbers "
                "for each example",
                where=str(artifact.model_file),
                code="wrong-outputs",
            )
    except ModelError as error:
        if target.device is None:
            raise
        raise TargetError(error.message, where=target.label, code="device-answer") from error
    return outputs


def _unknown_share(artifact: Artifact, inputs: Inputs) -> float | None:
    """Share of unknown tokens, where the inputs are tokens and the artifact names the unknown one."""
    if not isinstance(inputs, TokenInputs):
        return None
    unk_id = artifact.read_json(TASK).get("unk_id")
    return None if unk_id is None else unknown_share(inputs, int(unk_id))


def _distinct(examples: Examples) -> NDArray[np.int64]:
    """One index of each distinct item, in their order."""
    first: dict[bytes, int] = {}
    for index, item in enumerate(examples.items):
        first.setdefault(item_bytes(item), index)
    return np.fromiter(first.values(), np.int64, len(first))


def _digest(examples: Examples) -> str:
    digest = hashlib.sha256()
    for item in examples.items:
        digest.update(hashlib.sha256(item_bytes(item)).digest())
    if examples.scores is not None:
        digest.update(examples.scores.tobytes())
    return digest.hexdigest()


def _reference_key(baseline: Artifact, target: ResolvedTarget, examples: str) -> str:
    return hashlib.sha256(f"{baseline.runtime_digest} {target.fingerprint} {examples}".encode()).hexdigest()


def _kept(file: Path, examples: int) -> NDArray[np.float32] | None:
    """The embeddings of so many examples that were saved; None where they were not, or where the file was damaged."""
    try:
        files = read_sealed(file.with_suffix(CHECKSUMS))["files"]
        if first_damaged(file.parent, files) is not None:
            return None
        outputs = load_outputs(file)
    except (FileNotFoundError, Damaged, KeyError):
        return None
    return outputs if outputs.ndim == 2 and len(outputs) == examples else None


def _keep(outputs: NDArray[np.float32], file: Path) -> None:
    """Save embeddings as a whole: another run may look for them."""
    make_folder(file.parent)
    with replacing(file) as temporary:
        np.save(temporary, outputs, allow_pickle=False)
        # First the note: outputs without one would be taken for damaged.
        write_sealed(file.with_suffix(CHECKSUMS), {"files": {file.name: entry_of(temporary)}})
