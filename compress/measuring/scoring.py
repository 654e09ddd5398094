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
    DamagedFileError,
    digest_of,
    file_entry,
    first_damaged,
    make_folder,
    read_sealed,
    replacing,
    write_sealed,
)
from compress.core.errors import ModelError, TargetError
from compress.core.plugins import import_object
from compress.core.records import Accuracy, TaskScore
from compress.core.units import MIB
from compress.data.splits import Examples, item_content
from compress.encoding.inputs import Inputs, with_reference
from compress.encoding.interface import as_model_inputs
from compress.encoding.tokens import TokenInputs, unknown_token_ratio
from compress.measuring.jobs import Job, JobFolder, model_path
from compress.measuring.protocol import PROTOCOL_VERSION
from compress.measuring.results import load_answers
from compress.measuring.timing.feeds import sequential_batches, split_by_bytes
from compress.store.checking import CHECKSUMS_SUFFIX
from compress.targets.local import ResolvedTarget
from compress.tasks.base import Answers, GenerationPrompts, Scored, Task

LOGITS_BYTES = 256 * MIB
"""Maximum bytes of the logits of a scored batch, for models with logits per token; at least one example is scored."""
PromptBuilder = Callable[[Task, Examples, Path, int], GenerationPrompts | None]
Generate = Callable[[Inputs, Mapping[str, Any]], NDArray[np.int32]]
HarnessScorer = Callable[[Task, Path, Callable[[Inputs], Answers], Generate, Path], tuple[TaskScore, ...]]


def score_artifact(
    jobs: JobFolder,
    artifact: Artifact,
    baseline: Artifact,
    baseline_accuracy: Accuracy | None,
    target: ResolvedTarget,
    task: Task,
    test: Examples,
    seed: int,
    extra_jobs: Sequence[Job] = (),
    reference_folder: Path | None = None,
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
        extra_jobs: jobs to run at the same time; scores do not depend on what else runs.
        reference_folder: folder in which the baseline's outputs are kept for later comparisons; None: they are not
            kept.
        base: folder of user code that judges answers.
        allow_code: whether that code may run.

    Returns:
        The scores, and the results of `extra_jobs`.
    """
    examples = task.scorable(test)
    batch_size = target.spec.batch_sizes[0]
    digest = _examples_digest(examples)
    reference: Answers | None = None
    reference_path: Path | None = None
    if task.kind.against_baseline and reference_folder is not None:
        reference_path = reference_folder / f"{_reference_key(baseline, target, task, digest)}.npz"
    if task.kind.against_baseline and baseline_accuracy is not None:
        reference = None if reference_path is None else _load_reference(reference_path)
        if reference is None:
            _, reference, _ = _encode_and_score(jobs, baseline, examples, target, task)
            _store_reference(reference, reference_path)
    inputs, answers, results = _encode_and_score(
        jobs, artifact, examples, target, task, extra_jobs, reference
    )
    if task.kind.against_baseline and baseline_accuracy is None:
        reference = answers
        _store_reference(reference, reference_path)

    def generate(prompts: Inputs, settings: Mapping[str, Any]) -> NDArray[np.int32]:
        return generate_answers(jobs, model_path(artifact, target), prompts, settings)

    generation_prompts = None
    if task.kind.prompts_for is not None:
        generation_prompts = cast(PromptBuilder, import_object(task.kind.prompts_for))(
            task, examples, artifact.path, seed
        )
    harness_scores: tuple[TaskScore, ...] = ()
    if task.kind.harness_scores is not None:
        harness_scores = cast(HarnessScorer, import_object(task.kind.harness_scores))(
            task,
            artifact.path,
            lambda inputs: _score_inputs(jobs, artifact, inputs, target, task)[0],
            generate,
            base,
        )
    record = cast(Callable[[Scored], Accuracy], import_object(task.kind.record))(
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
            generation_prompts,
            None
            if generation_prompts is None
            else generate(generation_prompts.inputs, generation_prompts.settings),
            base,
            allow_code,
            harness_scores,
        )
    )
    return record, results


def _encode_and_score(
    jobs: JobFolder,
    artifact: Artifact,
    examples: Examples,
    target: ResolvedTarget,
    task: Task,
    extra_jobs: Sequence[Job] = (),
    reference: Answers | None = None,
) -> tuple[Inputs, Answers, list[dict[str, Any]]]:
    """Encode examples and run the model; return the inputs, the reduced outputs and the results of `extra_jobs`."""
    inputs = as_model_inputs(with_reference(task.encode(examples, artifact.path), reference), artifact.path)
    return inputs, *_score_inputs(jobs, artifact, inputs, target, task, extra_jobs)


def _score_inputs(
    jobs: JobFolder,
    artifact: Artifact,
    inputs: Inputs,
    target: ResolvedTarget,
    task: Task,
    extra_jobs: Sequence[Job] = (),
) -> tuple[Answers, list[dict[str, Any]]]:
    """Run a model on inputs; return its reduced outputs and the results of `extra_jobs`.

    Raises:
        ModelError: its outputs do not have the shape that the task expects, or cannot be scored.
        TargetError: the same on a device, whose answers are not attributed to the model.
    """
    task_config = artifact.read_json(TASK)
    batch_size = target.spec.batch_sizes[0]
    if task.kind.generates:
        batch_size = min(
            batch_size, max(1, LOGITS_BYTES // (4 * int(task_config["words"]) * int(inputs.lengths.max())))
        )
    result = model_answers(
        jobs, model_path(artifact, target), inputs, batch_size, task, task_config, extra_jobs
    )
    where = str(artifact.model_file)
    try:
        task.check_outputs((len(inputs), *result.shape), task_config, where)
        if result.answers is None:
            raise ModelError(f"the model's outputs cannot be scored: {result.refused}", where=where)
    except ModelError as error:
        if target.device is None:
            raise
        raise TargetError(error.message, where=target.label, code="device-answer") from error
    return result.answers, result.extra_results


def generate_answers(
    jobs: JobFolder, model: str, prompts: Inputs, settings: Mapping[str, Any]
) -> NDArray[np.int32]:
    """Generate answers to prompts: tokens int32 (prompts, most), -1 after the end of an answer; `settings` as in
    `decoding.outputs`."""
    batch = prompts.batch(np.arange(len(prompts)))
    job, file = jobs.write(model, jobs.feeds("asked", [batch]), dict(settings))
    jobs.run(job)
    tokens = load_answers(file)["written"]
    if tokens.shape != (len(prompts), settings["most"]) or tokens.dtype != np.int32:
        raise TargetError(
            f"{jobs.where} gave answers of shape {tokens.shape}", where=jobs.where, code="job-result"
        )
    return tokens


class ModelAnswers(NamedTuple):
    """Reduced outputs of a model, or None and the reason if the scorer refused them; the shape of the outputs for one
    example; the results of the jobs run beside."""

    answers: Answers | None
    refused: str | None
    shape: tuple[int, ...]
    extra_results: list[dict[str, Any]]


def model_answers(
    jobs: JobFolder,
    model: str,
    inputs: Inputs,
    batch_size: int,
    task: Task,
    task_config: Mapping[str, Any],
    extra_jobs: Sequence[Job] = (),
) -> ModelAnswers:
    """Compute a model's reduced outputs for all inputs, in order; `task_config` is its `task.json`.

    Inputs that are too large to be held in memory at once are split over several consecutive processes.
    """
    part_answers: list[Answers] = []
    results: list[dict[str, Any]] = []
    shape: tuple[int, ...] = ()
    for part in split_by_bytes(sequential_batches(inputs, batch_size)):
        # Scoring a language model takes minutes on one core; that of a small classifier is no faster on several.
        job, file = jobs.score(
            model, jobs.feeds("test", part), task, task_config, on_all_cores=task.kind.generates
        )
        done, *extra_results = jobs.run(job, *extra_jobs)
        results, extra_jobs, shape = results + extra_results, (), tuple(done["shape"])
        if done["refused"] is not None:
            return ModelAnswers(None, done["refused"], shape, results)
        part_answers.append(load_answers(file))
        shapes = [
            {name: values.shape[1:] for name, values in one.items()}
            for one in (part_answers[0], part_answers[-1])
        ]
        if shapes[0] != shapes[1]:
            raise TargetError(
                f"{jobs.where} gave outputs of different shapes, {shapes[0]} and {shapes[1]}",
                where=jobs.where,
                code="job-result",
            )
    merged = {name: np.concatenate([one[name] for one in part_answers]) for name in part_answers[0]}
    return ModelAnswers(merged, None, shape, results)


def _unknown_share(artifact: Artifact, inputs: Inputs) -> float | None:
    """Return the share of unknown tokens; None if the inputs are not tokens or there is no unknown token."""
    if not isinstance(inputs, TokenInputs):
        return None
    unk_id = artifact.read_json(TASK).get("unk_id")
    return None if unk_id is None else unknown_token_ratio(inputs, int(unk_id))


def _examples_digest(examples: Examples) -> str:
    digest = hashlib.sha256()
    for item in examples.items:
        digest.update(hashlib.sha256(item_content(item)).digest())
    if examples.scores is not None:
        digest.update(examples.scores.tobytes())
    return digest.hexdigest()


def _reference_key(baseline: Artifact, target: ResolvedTarget, task: Task, examples_digest: str) -> str:
    key_parts = [
        PROTOCOL_VERSION,
        baseline.runtime_digest,
        target.fingerprint,
        task.data.scoring_settings(),
        examples_digest,
    ]
    return digest_of(key_parts)


def _load_reference(file: Path) -> Answers | None:
    """Load stored outputs; None if they do not exist or are damaged."""
    try:
        files = read_sealed(file.with_suffix(CHECKSUMS_SUFFIX))["files"]
        if first_damaged(file.parent, files) is not None:
            return None
        return load_answers(file)
    except (FileNotFoundError, DamagedFileError, KeyError):
        return None


def _store_reference(answers: Answers, file: Path | None) -> None:
    """Store outputs atomically for other runs, unless `file` is None or intact already."""
    if file is None or _load_reference(file) is not None:
        return
    make_folder(file.parent)
    with replacing(file) as temporary:
        np.savez(temporary, allow_pickle=False, **answers)
        # The checksums come first, since outputs without them count as damaged.
        write_sealed(file.with_suffix(CHECKSUMS_SUFFIX), {"files": {file.name: file_entry(temporary)}})
