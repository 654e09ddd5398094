"""distill: build a student and train it on its teachers' signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from compress.core.artifacts import LEARNT_FROM, SAMPLES, TASK, TOKENIZER, Artifact, copy_interface, seal
from compress.core.disk.files import make_empty_folder, write_json
from compress.core.disk.reading import read_mapping
from compress.core.forms import TORCH_FLOAT
from compress.core.records import Curve
from compress.core.task_kind import TaskKind
from compress.encoding.images import PIXEL_VALUES
from compress.losses.contract import LossSpec
from compress.losses.table import LOSS_ENTRIES, LOSSES
from compress.models.anatomy.blocks import transformer_of
from compress.models.io.checkpoints import count_parameters, load_model, save_model
from compress.models.io.ensemble import Ensemble
from compress.passes.contract import UNLABELED
from compress.passes.distill.data_free import teach_without_data
from compress.passes.distill.examples import TeacherRef, encode_data, encode_teacher_examples
from compress.passes.distill.gap import gap_warnings, parameter_ratio, warn_of_gap
from compress.passes.distill.kind import GENERATED, HELD_OUT, WRITTEN
from compress.passes.distill.material import check_segmentation
from compress.passes.distill.spec import DistillSpec, losses_of
from compress.passes.distill.student import UntrainedStudent, untrained_student
from compress.passes.distill.teaching import TrainedStudent, count_steps, teach
from compress.passes.distill.written.documents import write_pairs
from compress.passes.distill.written.held_out import HeldOutScores
from compress.passes.distill.written.lessons import TeacherExamples, write_answers
from compress.profile.specs.examples import DataFreeSpec
from compress.step import StepContext, StepResult
from compress.training.state import training_steps
from compress.training.trimming import as_token_inputs
from compress.training.validation import Validation

_TEACHER_KEYS = (
    "select",
    "online",
    "ema",
    "sequence",
    "rejection",
    "reasoning",
    "synthetic",
    "data_free",
    "on_policy",
)
"""Keys of a distillation that do not apply to a student without a teacher."""


def run(ctx: StepContext) -> StepResult:
    """Distil a student, over several generations if the profile asks for them."""
    spec = ctx.spec_as(DistillSpec)
    if spec.data_free is not None and spec.sequence is None:
        trained, untrained = teach_without_data(ctx, spec, _teachers(ctx, spec)[0])
        return _save_student(ctx, spec, untrained, trained.model, [trained])
    teachers, artifacts = _teachers(ctx, spec), list[Artifact]()
    teacher_examples = _write_teacher_examples(ctx, spec)
    untrained = _build_student(ctx, spec, teacher_examples)
    warn_of_gap(_compared_teachers(ctx, spec), untrained.model, ctx.progress)
    _check_tokenizer(ctx, untrained)
    held_out_scores = (
        None
        if teacher_examples is None or teacher_examples.held_out is None
        else HeldOutScores.of(ctx, teacher_examples.held_out, untrained.model)
    )
    training_ctx = ctx if held_out_scores is None else held_out_scores.training_context(ctx)
    generations: list[TrainedStudent] = []
    for number in range(1, spec.generations + 1):
        student = untrained if number == 1 else untrained_student(ctx, spec, ctx.seed + number - 1)
        name = "distill" if spec.generations == 1 else f"generation {number}"
        encoded = (
            encode_data(ctx, spec, teachers)
            if teacher_examples is None
            else encode_teacher_examples(ctx, teachers, teacher_examples)
        )
        trained = teach(training_ctx, spec, student.model, teachers, encoded, name=name, seed=ctx.seed)
        generations.append(trained)
        if spec.generations > 1:
            artifacts.append(_save_generation(ctx, trained.model, number))
            teachers = [TeacherRef(name, artifacts[-1])]
    return _save_student(
        ctx,
        spec,
        untrained,
        _choose_result(ctx, spec, generations, artifacts),
        generations,
        teacher_examples,
        held_out_scores,
    )


def run_control(ctx: StepContext) -> StepResult:
    """Train the same student without the teacher, to measure what the teacher contributes.

    It has the same shape, initial weights, vocabulary and number of steps, those of all stages and generations
    together, and learns from labels only, without teacher-labelled examples. The control of data-free
    distillation is the same distillation with the data; that of a student that learns reasoning traces, if
    `answers_only`, the same distillation without them.
    """
    requested = ctx.spec_as(DistillSpec)
    if requested.control == "answers_only":
        return run(ctx)
    if requested.data_free is not None and requested.sequence is None:
        return run(replace(ctx, spec=_spec_with_data(ctx, requested, requested.data_free)))
    takes_images = PIXEL_VALUES in ctx.inputs["teacher"].read_json(TASK)["input_names"]
    augment = requested.augment
    spec = requested.model_copy(
        update={
            "losses": (LOSS_ENTRIES.entry(_data_loss(ctx.task.kind, requested)),),
            "stages": (),
            "data": "train",
            # Labels hold for augmented images except blends; augmented texts are left out, since only a teacher
            # labels them.
            "augment": augment.model_copy(update={"mixup": 0.0, "cutmix": 0.0})
            if takes_images and augment
            else None,
            **dict.fromkeys(_TEACHER_KEYS),
            "teachers": (),
            "generations": 1,
            "keep": "last",
        }
    )
    # The teacher's texts determine how a data-free student is cut, so they are needed for equal initial weights.
    untrained = _build_student(
        ctx, requested, _write_teacher_examples(ctx, requested) if requested.data_free else None
    )
    _check_tokenizer(ctx, untrained)
    held_out_scores = (
        HeldOutScores.for_control(ctx, untrained.model) if requested.synthetic is not None else None
    )
    encoded = encode_data(ctx, spec, ())
    per_epoch, _ = training_steps(spec, len(encoded.subset_indices("train")))
    spec = spec.model_copy(update={"epochs": _count_steps(ctx, requested) / per_epoch})
    trained = teach(ctx, spec, untrained.model, (), encoded, name="control", seed=ctx.seed)
    return _save_student(ctx, spec, untrained, trained.model, [trained], held_out_scores=held_out_scores)


def _count_steps(ctx: StepContext, spec: DistillSpec) -> int:
    """Return the number of steps of the student with its teachers.

    Examples are selected by the teachers of the first generation.
    """
    if spec.sequence is not None:
        written = sum(ctx.inputs["taught"].facts["shown"].values())
        return sum(training_steps(spec.stage_spec(stage), written)[1] for stage in spec.effective_stages)
    teachers = _teachers(ctx, spec)
    return count_steps(ctx, spec, teachers, encode_data(ctx, spec, teachers)) * spec.generations


def _write_teacher_examples(ctx: StepContext, spec: DistillSpec) -> TeacherExamples | None:
    """Return the texts that the teacher writes; None if there are none."""
    if spec.sequence is None:
        return None
    teacher = _teachers(ctx, spec)[0].artifact
    if spec.synthetic is not None:
        return write_pairs(ctx, spec, teacher)
    return write_answers(ctx, spec, teacher, final_answer_only=spec.control == "answers_only")


def _build_student(
    ctx: StepContext, spec: DistillSpec, teacher_examples: TeacherExamples | None
) -> UntrainedStudent:
    """Build the untrained student; without data, from the teacher's texts."""
    if spec.data_free is None or teacher_examples is None:
        return untrained_student(ctx, spec, ctx.seed)
    read = as_token_inputs(teacher_examples.task.encode(teacher_examples.examples, ctx.inputs["model"].path))
    return untrained_student(ctx, spec, ctx.seed, read)


def _spec_with_data(ctx: StepContext, spec: DistillSpec, data_free: DataFreeSpec) -> DistillSpec:
    """Return the spec with data, with as many steps in each stage: an epoch has another number of batches."""
    every = sum(map(len, ctx.data.training_sets))
    examples = {"all": every, "train": len(ctx.data.train), "unlabeled": every - len(ctx.data.train)}

    def epochs(stage_spec: DistillSpec) -> float:
        return (
            training_steps(stage_spec, data_free.examples)[1]
            / training_steps(stage_spec, examples[stage_spec.data])[0]
        )

    stages = tuple(
        stage.model_copy(update={"epochs": epochs(spec.stage_spec(stage))}) for stage in spec.stages
    )
    return spec.model_copy(update={"data_free": None, "epochs": epochs(spec), "stages": stages})


def _data_loss(task: TaskKind, spec: DistillSpec) -> LossSpec:
    """Return the loss that trains on the data alone, with weight 1 and otherwise as in the spec, for its control."""
    assert task.label_loss is not None
    loss_type = LOSSES[task.label_loss].spec
    found = [one for stage in spec.effective_stages for one in losses_of(stage) if type(one) is loss_type]
    return found[-1].model_copy(update={"weight": 1.0}) if found else loss_type()


def _teachers(ctx: StepContext, spec: DistillSpec) -> list[TeacherRef]:
    """Return the teachers: the profile's teacher, or the entries of `teachers`."""
    if not spec.teachers:
        return [TeacherRef("teacher", ctx.inputs["teacher"])]
    return [
        TeacherRef(entry.model or "teacher", ctx.inputs[f"teacher.{number}"], entry.weight)
        for number, entry in enumerate(spec.teachers, start=1)
    ]


def _compared_teachers(ctx: StepContext, spec: DistillSpec) -> list[TeacherRef]:
    """Return the teachers whose outputs the student learns; none if it learns only from labels or its own average."""
    compares = any(loss.needs_teacher for stage in spec.effective_stages for loss in losses_of(stage))
    return _teachers(ctx, spec) if compares and spec.ema is None else []


def _check_tokenizer(ctx: StepContext, untrained: UntrainedStudent) -> None:
    if untrained.vocabulary is not None:
        own = ctx.task.encode(ctx.data.train, ctx.out)
        check_segmentation(
            own, ctx.task.encode(ctx.data.train, ctx.inputs["model"].path), untrained.vocabulary
        )


def _save_generation(ctx: StepContext, student: nn.Module, number: int) -> Artifact:
    """Save a generation as the teacher of the next one."""
    folder = ctx.work / f"generation-{number}"
    make_empty_folder(folder)
    save_model(student.cpu(), folder)
    copy_interface(ctx.out, folder)
    return seal(folder, TORCH_FLOAT, {"parameters": count_parameters(student)})


def _choose_result(
    ctx: StepContext, spec: DistillSpec, generations: Sequence[TrainedStudent], artifacts: Sequence[Artifact]
) -> nn.Module:
    """Return the generation that is the result, or the ensemble of all."""
    if spec.keep == "ensemble":
        return Ensemble([load_model(folder.path, allow_code=ctx.allow_code) for folder in artifacts])
    if spec.keep == "best":
        return max(generations, key=lambda one: one.validation_score).model
    return generations[-1].model


def _save_student(
    ctx: StepContext,
    spec: DistillSpec,
    untrained: UntrainedStudent,
    student: nn.Module,
    trained: Sequence[TrainedStudent],
    teacher_examples: TeacherExamples | None = None,
    held_out_scores: HeldOutScores | None = None,
) -> StepResult:
    """Save the student and return the facts of its training."""
    student = student.cpu().eval()
    save_model(student, ctx.out)
    parameters = count_parameters(student)
    score = trained[-1].validation_score
    if spec.keep == "best":
        score = max(generation.validation_score for generation in trained)
    elif spec.keep == "ensemble":
        score = Validation.of(ctx, ctx.out, ctx.inputs["original"]).score(student)
    unlabeled_texts = _generated_texts(ctx, spec)
    if teacher_examples is not None:
        _record_generator(ctx.out, teacher_examples.source)
    elif unlabeled_texts is not None:
        _record_generator(ctx.out, {name: unlabeled_texts.facts[name] for name in ("model", "license")})
    samples = [*([] if teacher_examples is None else teacher_examples.samples), *trained[-1].samples]
    if unlabeled_texts is not None:
        samples += unlabeled_texts.read_json(SAMPLES)["samples"]
    if samples:
        write_json(ctx.out / SAMPLES, {"samples": samples})
    facts: dict[str, Any] = {
        "parameters": parameters,
        "initialised_from": untrained.origin,
        "layers_from": list(untrained.layers),
        "validation_score": score,
        "precision": ctx.precision,
        **trained[-1].facts,
        "times_fewer_parameters": parameter_ratio(_teachers(ctx, spec), parameters),
        **_assistant_facts(ctx),
        **({} if teacher_examples is None else {WRITTEN: teacher_examples.facts}),
        **({} if unlabeled_texts is None else {GENERATED: dict(unlabeled_texts.facts)}),
        **({} if held_out_scores is None else {HELD_OUT: held_out_scores.facts(ctx, student)}),
        **(
            {"data_free": {"shown": "prompts that the teacher wrote"}}
            if teacher_examples and spec.data_free
            else {}
        ),
    }
    warnings = gap_warnings(_compared_teachers(ctx, spec), count_parameters(untrained.model))
    if warnings:
        facts["warnings"] = warnings
    if (ctx.out / TOKENIZER).exists() and not isinstance(student, Ensemble):
        facts["vocabulary"] = transformer_of(student).get_input_embeddings().num_embeddings
    if spec.generations > 1:
        facts["generations"] = [{"validation_score": generation.validation_score} for generation in trained]
        facts["keep"] = spec.keep
    curves: list[Curve] = [curve for generation in trained for curve in generation.curves]
    return StepResult(TORCH_FLOAT, facts, tuple(curves))


def _generated_texts(ctx: StepContext, spec: DistillSpec) -> Artifact | None:
    """Return the artifact of generated texts that the student learnt from; None if there are none."""
    uses_unlabeled = spec.data_free is None and any(
        (stage.data or spec.data) != "train" for stage in spec.effective_stages
    )
    return ctx.inputs.get(UNLABELED) if uses_unlabeled else None


def _record_generator(folder: Path, source: Mapping[str, Any]) -> None:
    """Record in the student's `task.json` the model whose texts it learnt from."""
    described = read_mapping(folder / TASK)
    write_json(folder / TASK, {**described, LEARNT_FROM: [*described.get(LEARNT_FROM, ()), source]})


def _assistant_facts(ctx: StepContext) -> Mapping[str, Any]:
    """Return the facts of the assistants between the student and the profile's teacher."""
    teacher, original = ctx.inputs["teacher"], ctx.inputs["original"]
    if teacher.path == original.path:
        return {}
    own = {name: teacher.facts[name] for name in ("parameters", "validation_score")}
    return {"assistants": [*teacher.facts.get("assistants", ()), own]}
