"""The examples of a distillation, in one order, encoded for the student and for each teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.artifacts import Artifact
from compress.core.errors import ModelError
from compress.data.splits import UNLABELLED, Examples
from compress.encoding.inputs import Inputs, per_row
from compress.encoding.tokens import TokenInputs
from compress.models.anatomy.encoder import encoder_of
from compress.models.io.checkpoints import load_model
from compress.models.text.vocabulary import Ids
from compress.passes.distill.material import append_inputs, augmented_inputs, translate
from compress.passes.distill.spec import DistillSpec
from compress.passes.distill.written.lessons import TeacherExamples
from compress.step import StepContext
from compress.training.trimming import as_token_inputs

Origin = Literal["train", "unlabeled", "augmented", "sampled", "written"]
_ORIGINS: tuple[Origin, ...] = ("train", "unlabeled", "augmented", "sampled", "written")


@dataclass(frozen=True)
class TeacherRef:
    """A teacher on disk, its name in reports, and its weight in the mean."""

    name: str
    artifact: Artifact
    weight: float = 1.0


@dataclass(frozen=True)
class EncodedExamples:
    """Examples encoded for the student and for each teacher.

    `labels`: int64 (n,), `UNLABELLED` where only teachers label. `origin`: int8 (n,), index of each example's
    source in `_ORIGINS`.
    """

    student: Inputs
    teachers: tuple[Inputs, ...]
    labels: NDArray[np.int64]
    origin: NDArray[np.int8]

    def subset_indices(self, subset: Literal["train", "unlabeled", "all"]) -> NDArray[np.int64]:
        """Return the indices of a part; augmented and generated examples belong to `train`."""
        if subset == "all":
            return np.arange(len(self.labels), dtype=np.int64)
        unlabelled = self.origin == _ORIGINS.index("unlabeled")
        return np.flatnonzero(unlabelled if subset == "unlabeled" else ~unlabelled).astype(np.int64)

    @property
    def num_train(self) -> int:
        """Number of original training examples; for `encode_data` they come first."""
        return int((self.origin == _ORIGINS.index("train")).sum())

    def counts(self) -> dict[str, int]:
        """Return the number of examples by source."""
        counted = {name: int((self.origin == number).sum()) for number, name in enumerate(_ORIGINS)}
        return {name: count for name, count in counted.items() if count}


def encode_data(ctx: StepContext, spec: DistillSpec, teachers: Sequence[TeacherRef]) -> EncodedExamples:
    """Encode the training examples, those of `data.unlabeled`, and texts augmented from the former.

    Raises:
        ModelError: `augment` is set and student or teachers tokenize texts differently from the first teacher.
    """
    examples, unlabeled = ctx.data.train, ctx.data.unlabeled
    origin = [np.full(len(examples), _ORIGINS.index("train"), np.int8)]
    if unlabeled is not None:
        origin.append(np.full(len(unlabeled), _ORIGINS.index("unlabeled"), np.int8))
        examples = concatenate_examples(examples, unlabeled)
    folders = [*(teacher.artifact.path for teacher in teachers), ctx.out]
    inputs: list[Inputs] = [ctx.task.encode(examples, folder) for folder in folders]
    labels = [per_row(examples.labels, inputs[-1])]
    origin = [per_row(np.concatenate(origin), inputs[-1])]
    if spec.augment is not None and isinstance(inputs[-1], TokenInputs):
        train_inputs = [as_token_inputs(ctx.task.encode(ctx.data.train, folder)) for folder in folders]
        augmented = augmented_inputs(
            (folders[0], train_inputs[0]),
            list(zip(folders, train_inputs, strict=True)),
            _word_embeddings(teachers[0].artifact, ctx.allow_code),
            spec.augment,
            max_length=ctx.task.data.max_length,
            seed=ctx.seed,
        )
        inputs = [append_inputs(one, extra) for one, extra in zip(inputs, augmented, strict=True)]
        count = len(augmented[0])
        labels.append(np.full(count, UNLABELLED, np.int64))
        origin.append(np.full(count, _ORIGINS.index("augmented"), np.int8))
    return EncodedExamples(inputs[-1], tuple(inputs[:-1]), np.concatenate(labels), np.concatenate(origin))


def encode_teacher_examples(
    ctx: StepContext, teachers: Sequence[TeacherRef], teacher_examples: TeacherExamples
) -> EncodedExamples:
    """Encode the teacher's answers, followed by the data's own where those are used too."""
    folders = [*(teacher.artifact.path for teacher in teachers), ctx.out]
    inputs = [teacher_examples.task.encode(teacher_examples.examples, folder) for folder in folders]
    origin = np.full(len(teacher_examples.examples), _ORIGINS.index("written"), np.int8)
    origin[len(origin) - teacher_examples.num_data_answers :] = _ORIGINS.index("train")
    labels = per_row(teacher_examples.examples.labels, inputs[-1])
    return EncodedExamples(inputs[-1], tuple(inputs[:-1]), labels, per_row(origin, inputs[-1]))


def encode_sampled(ctx: StepContext, teachers: Sequence[TeacherRef], ids: Sequence[Ids]) -> EncodedExamples:
    """Encode sampled token sequences, given in the vocabulary of the first teacher; no data is used."""
    folders = [*(teacher.artifact.path for teacher in teachers), ctx.out]
    empty = Examples.unlabelled(("",))
    inputs = [
        translate(ids, folders[0], folder, as_token_inputs(ctx.task.encode(empty, folder)))
        for folder in folders
    ]
    count = len(ids)
    origin = np.full(count, _ORIGINS.index("sampled"), np.int8)
    return EncodedExamples(inputs[-1], tuple(inputs[:-1]), np.full(count, UNLABELLED, np.int64), origin)


def concatenate_examples(first: Examples, second: Examples) -> Examples:
    """Concatenate two sets of examples."""
    return Examples((*first.items, *second.items), np.concatenate([first.labels, second.labels]))


def _word_embeddings(teacher: Artifact, allow_code: bool) -> NDArray[np.float32]:
    embedding = encoder_of(load_model(teacher.path, allow_code=allow_code)).words
    if embedding is None:
        raise ModelError("this teacher has no word embeddings to find neighbours in", where="augment")
    embeddings: NDArray[np.float32] = embedding.weight.detach().numpy()
    return embeddings
