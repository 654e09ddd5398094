"""The untrained student of a step; its tokenizer and `task.json` are written to the step's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.core.artifacts import TASK, TOKENIZER, copy_interface
from compress.core.disk.files import copy_file, write_json
from compress.core.disk.reading import read_mapping
from compress.core.errors import ModelError
from compress.encoding.inputs import Inputs, model_inputs
from compress.encoding.subset import InputSubset
from compress.encoding.tokens import TokenInputs
from compress.models.anatomy.blocks import transformer_of
from compress.models.anatomy.decoder import decoder_of
from compress.models.anatomy.table.fresh import FreshDecoder
from compress.models.io.checkpoints import load_for_labels, load_model
from compress.models.io.plain import UserModule
from compress.models.students.cut import make_student, student_shape
from compress.models.students.decoder import new_decoder
from compress.models.students.decoder_cut import cut_decoder
from compress.models.students.vision import new_vision_transformer
from compress.models.text.vocabulary import Ids, trim_embeddings
from compress.passes.distill.spec import DistillSpec
from compress.step import StepContext
from compress.training.batches import to_tensors
from compress.training.trimming import TrimmedVocabulary, training_tokens, write_tokenizer

NUM_CALIBRATION_EXAMPLES = 256
"""Number of training examples whose hidden states decide which dimensions and layers a student keeps."""
CALIBRATION_BATCH_SIZE = 32


@dataclass(frozen=True)
class UntrainedStudent:
    """An untrained student, and its vocabulary if that is trimmed.

    `origin`: where its weights come from; `layers`: the teacher's layers that it is built from.
    """

    model: nn.Module
    vocabulary: TrimmedVocabulary | None
    origin: str
    layers: tuple[int, ...] = ()


def untrained_student(
    ctx: StepContext, spec: DistillSpec, seed: int, sampled: TokenInputs | None = None
) -> UntrainedStudent:
    """Build or fetch the student; equal arguments give equal weights.

    Args:
        sampled: generated texts, encoded for the model that the student is derived from; they replace the training
            texts if those must not be used.

    Raises:
        ModelError: the teacher cannot be cut into such a student, or a ready-made one does not fit the task.
    """
    if "student" in ctx.inputs:
        return _load_ready_student(ctx, seed)
    source = ctx.inputs["model"].path
    if spec.student.decoder is not None:
        return _build_decoder(ctx, spec.student.decoder, spec.student.positions, seed)
    if spec.student.architecture is not None:
        copy_file(source / TASK, ctx.out / TASK)
        image = read_mapping(source / TASK)["image"]
        height, width = image["size"]
        model = new_vision_transformer(
            spec.student,
            image_size=(height, width),
            channels=image["channels"],
            labels=ctx.data.labels,
            seed=seed,
        )
        return UntrainedStudent(model, None, "scratch")
    teacher = load_model(source, attention="eager", allow_code=ctx.allow_code)
    if isinstance(teacher, UserModule):
        raise ModelError(
            "a student cannot be cut from your own module: its layers are not known",
            where="student",
            hint="Name another with `student.model: python:...`, use `student.architecture`, or `prune` this one.",
        )
    kept_tokens = _tokens_to_keep(ctx, spec, sampled)
    vocabulary = write_tokenizer(source, ctx.out, spec.vocabulary_trimming, kept_tokens, ctx.data.labels)
    is_decoder = decoder_of(teacher) is not None
    batches = _batches(ctx, spec, sampled, ctx.device if is_decoder else "cpu")
    if is_decoder:
        teacher.to(ctx.device)
        smaller, layers = cut_decoder(transformer_of(teacher), spec.student, seed, batches)
        return UntrainedStudent(smaller, vocabulary, spec.student.from_, layers)
    student_spec = (
        spec.student if batches is not None else spec.student.model_copy(update={"basis": "embeddings"})
    )
    # Fix the layers, so that a choice that requires running the teacher is made only once.
    layers = student_shape(teacher, student_spec, batches).layers
    model = make_student(teacher, student_spec.model_copy(update={"layers": layers}), seed, batches)
    if vocabulary is not None:
        trim_embeddings(model, vocabulary.table, vocabulary.kept_ids)
    return UntrainedStudent(model, vocabulary, spec.student.from_, layers)


def _build_decoder(
    ctx: StepContext, decoder: FreshDecoder, positions: int | None, seed: int
) -> UntrainedStudent:
    """Build a randomly initialized decoder with the tokenizer and interface of the source model."""
    source = ctx.inputs["model"].path
    copy_interface(source, ctx.out)
    task_json = read_mapping(source / TASK)
    model = new_decoder(
        decoder,
        vocabulary_size=task_json["words"],
        max_positions=positions or ctx.task.kind.default_positions(ctx.task.data.max_length),
        bos_id=task_json["begin_id"],
        eos_id=task_json["end_id"],
        seed=seed,
    )
    return UntrainedStudent(model, None, "scratch")


def _load_ready_student(ctx: StepContext, seed: int) -> UntrainedStudent:
    """Load a ready-made student: with its own tokenizer, and a new head if its labels differ."""
    source = ctx.inputs["student"].path
    declared = read_mapping(source / TASK)
    write_json(ctx.out / TASK, {**declared, "labels": list(ctx.data.labels)})
    if (source / TOKENIZER).exists():
        copy_file(source / TOKENIZER, ctx.out / TOKENIZER)
    if ctx.task.kind.head == "classifier":
        model: nn.Module = load_for_labels(
            source, ctx.data.labels, seed, attention="eager", allow_code=ctx.allow_code
        )
    else:
        model = load_model(source, attention="eager", allow_code=ctx.allow_code)
    return UntrainedStudent(model, None, "ready")


def _tokens_to_keep(ctx: StepContext, spec: DistillSpec, sampled: TokenInputs | None) -> Iterable[Ids]:
    """Return token ids whose tokens a trimmed vocabulary must keep."""
    if spec.vocabulary_trimming is None:
        return []
    if sampled is not None:
        return sampled.ids
    return training_tokens(ctx, ctx.inputs["model"].path)


def _batches(
    ctx: StepContext, spec: DistillSpec, sampled: TokenInputs | None, device: str
) -> Callable[[], Iterable[dict[str, Tensor]]] | None:
    """Return a function that iterates over batches of some examples; None if no examples may be used.

    They are encoded for the model that the student is derived from.
    """
    if sampled is None and spec.data_free is not None:
        return None
    available = len(ctx.data.train) if sampled is None else len(sampled)
    count = min(NUM_CALIBRATION_EXAMPLES, available)
    indices = np.sort(np.random.default_rng(ctx.seed).permutation(available)[:count])

    def start() -> Iterable[dict[str, Tensor]]:
        inputs: Inputs = (
            InputSubset(sampled, indices) if sampled is not None else _encode_training(ctx, indices)
        )
        return (
            to_tensors(
                model_inputs(inputs.batch(range(first, min(first + CALIBRATION_BATCH_SIZE, count)))), device
            )
            for first in range(0, count, CALIBRATION_BATCH_SIZE)
        )

    return start


def _encode_training(ctx: StepContext, indices: NDArray[np.int64]) -> Inputs:
    return ctx.task.encode(ctx.data.train.take(indices), ctx.inputs["model"].path)
