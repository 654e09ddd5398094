"""Whether lengths, students and vocabularies fit the models of a valid profile, as far as their files show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compress.core.task_kind import TaskKind
from compress.models.anatomy.table.families import max_tokens_of
from compress.models.anatomy.table.family import Config
from compress.models.anatomy.table.smaller import SmallerDecoder
from compress.profile.model_checks.architecture import (
    EncoderSizes,
    encoder_sizes,
    smaller_decoder,
    student_config,
    student_sizes,
    vocabulary_kind,
)
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.problem import Problem, ProblemAt
from compress.profile.schema import Profile
from compress.profile.specs.student import StudentSpec
from compress.profile.yaml_lines import KeyPath
from compress.tasks.table import task_kind

_UNTRIMMABLE = {
    "BPE": "its merges are written in token ids, so two tokens cannot share one",
    "Unigram": "a token's id is its position in the table, so two tokens cannot share one",
}


def fit_problems(profile: Profile, files: ModelFiles) -> Iterator[ProblemAt]:
    """Yield the sizes in a profile that exceed what a model allows; models not on this machine are skipped."""
    if task_kind(profile.task).items != "image":
        yield from _length_problems(profile, files)
    model: str | None = profile.teacher.model
    config: Config | None = files.config(model)
    sizes = encoder_sizes(config)
    for index, spec in enumerate(profile.specs):
        path: KeyPath = ("passes", index, spec.kind)
        for key, student in spec.students():
            yield from _shape_problems(student, sizes, smaller_decoder(student, config), (*path, *key))
            if not student.is_cut_from_teacher:
                model = student.model
            config = student_config(student, config, files)
            sizes = student_sizes(sizes, student) if config is None else encoder_sizes(config)
        trim_key = spec.trimming_key()
        if trim_key is not None:
            yield from _trimming_problems(model, files, (*path, *trim_key))


def _length_problems(profile: Profile, files: ModelFiles) -> Iterator[ProblemAt]:
    kind = task_kind(profile.task)
    models: list[tuple[str, str | None]] = [("teacher", profile.teacher.model)]
    for spec in profile.specs:
        models += [("student", student.model) for _, student in spec.students()[-1:]]
    for who, source in models:
        config = files.config(source)
        max_tokens = max_tokens_of(config) if config is not None else None
        if max_tokens is not None and profile.data.max_length > max_tokens:
            yield (
                ("data", "max_length"),
                Problem(
                    f"is {profile.data.max_length}, but the {who} takes {max_tokens} tokens at most; set "
                    f"`max_length: {max_tokens}`",
                    "max-length",
                ),
            )
        for index, target in enumerate(profile.targets):
            reason = why_too_long(kind, target.sequence_lengths, max_tokens, f"the {who}")
            if reason is not None:
                path: KeyPath = ("targets", index, "sequence_lengths")
                if who == "teacher" and max_tokens is not None and kind.longest_timed(max_tokens) < 1:
                    path = ("teacher", "model")
                yield path, Problem(reason, "max-length")

    if (generate := profile.data.generate_spec) is not None:
        max_tokens = max_tokens_of(files.config(generate.model) or {})
        required = generate.needed_tokens(profile.data.max_length)
        if max_tokens is not None and required > max_tokens:
            yield (
                ("data", "unlabeled", "generate", "most"),
                Problem(
                    f"needs {required} tokens including the prompt, and the model takes {max_tokens}",
                    "max-length",
                ),
            )


def why_too_long(
    kind: TaskKind, lengths: Sequence[int], max_tokens: int | None, model_name: str
) -> str | None:
    """Return why a model limited to `max_tokens` tokens cannot be timed at these lengths (none: the default); None if
    it can."""
    required = kind.positions(lengths)
    if max_tokens is None or required <= max_tokens:
        return None
    longest = kind.longest_timed(max_tokens)
    if longest < 1:
        return (
            f"measuring time and memory needs {kind.positions((1,))} tokens at least, but {model_name} takes "
            f"{max_tokens} at most"
        )
    return (
        f"measuring time and memory at {'these lengths' if lengths else 'the default length'} needs {required} "
        f"tokens, but {model_name} takes {max_tokens} at most; set `sequence_lengths: [{longest}]` or shorter in "
        "`targets`"
    )


def _shape_problems(
    student: StudentSpec, teacher: EncoderSizes | None, smaller: SmallerDecoder | None, path: KeyPath
) -> Iterator[ProblemAt]:
    if teacher is None or not student.is_cut_from_teacher:
        return
    layers = student.layers
    if isinstance(layers, int):
        if layers > teacher.layers:
            yield (
                (*path, "layers"),
                Problem(f"asks for {layers} layers, but the teacher has {teacher.layers}", "student-deeper"),
            )
    elif max(layers, default=0) >= teacher.layers:
        yield (
            (*path, "layers"),
            Problem(
                f"the teacher's layers are 0 to {teacher.layers - 1}, so it has no layer {max(layers)}",
                "student-deeper",
            ),
        )
    if smaller is not None:
        yield from (((*path, key), Problem(reason, "student-shape")) for key, reason in smaller.faults())
        return
    hidden = student.hidden_size or teacher.hidden
    if hidden > teacher.hidden:
        yield (
            (*path, "hidden_size"),
            Problem(f"{hidden} is wider than the teacher's {teacher.hidden}", "student-wider"),
        )
    if student.heads is not None and hidden % student.heads:
        yield (
            (*path, "heads"),
            Problem(f"{student.heads} heads do not divide the width {hidden}", "student-heads"),
        )


def _trimming_problems(model: str | None, files: ModelFiles, path: KeyPath) -> Iterator[ProblemAt]:
    kind = vocabulary_kind(model, files)
    if kind is not None and kind != "WordPiece":
        reason = _UNTRIMMABLE.get(kind, "only WordPiece vocabularies can be")
        yield (
            path,
            Problem(
                f"the vocabulary of a {kind} tokenizer cannot be trimmed: {reason}; use `vocabulary: keep`",
                "vocabulary-fixed",
            ),
        )
