"""Whether lengths, students and vocabularies fit the models of a valid profile, as far as their files show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compress.core.task_kind import TaskKind
from compress.models.anatomy.table.families import max_tokens_of
from compress.models.anatomy.table.family import Config
from compress.models.anatomy.table.smaller import SmallerDecoder
from compress.profile.model_checks.architecture import (
    EncoderSizes,
    after,
    encoder_sizes,
    smaller_decoder,
    student_config,
    vocabulary_kind,
)
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.problem import Problem, ProblemAt
from compress.profile.schema import Profile
from compress.profile.specs.student import StudentSpec
from compress.profile.yaml_lines import KeyPath
from compress.tasks.table import task_kind

_NO_TRIMMING = {
    "BPE": "its merges are written in token ids, so two tokens cannot share one",
    "Unigram": "a token's id is its position in the table, so two tokens cannot share one",
}


def fit_problems(profile: Profile, files: ModelFiles) -> Iterator[ProblemAt]:
    """Yield the sizes in a profile that exceed what a model allows; models not on this machine are skipped."""
    if task_kind(profile.task).items != "image":
        yield from _lengths(profile, files)
    model: str | None = profile.teacher.model
    config: Config | None = files.config(model)
    sizes = encoder_sizes(config)
    for index, spec in enumerate(profile.specs):
        place: KeyPath = ("passes", index, spec.kind)
        for key, student in spec.students():
            yield from _shape(student, sizes, smaller_decoder(student, config), (*place, *key))
            if not student.is_cut:
                model = student.model
            config = student_config(student, config, files)
            sizes = after(sizes, student) if config is None else encoder_sizes(config)
        trims = spec.trims()
        if trims is not None:
            yield from _trimming(model, files, (*place, *trims))


def _lengths(profile: Profile, files: ModelFiles) -> Iterator[ProblemAt]:
    kind = task_kind(profile.task)
    named: list[tuple[str, str | None]] = [("teacher", profile.teacher.model)]
    for spec in profile.specs:
        named += [("student", student.model) for _, student in spec.students()[-1:]]
    for who, source in named:
        config = files.config(source)
        most = max_tokens_of(config) if config is not None else None
        if most is not None and profile.data.max_length > most:
            yield (
                ("data", "max_length"),
                Problem(
                    f"is {profile.data.max_length}, but the {who} takes {most} tokens at most; set "
                    f"`max_length: {most}`",
                    "max-length",
                ),
            )
        for index, target in enumerate(profile.targets):
            why = too_long(kind, target.sequence_lengths, most, f"the {who}")
            if why is not None:
                place: KeyPath = ("targets", index, "sequence_lengths")
                if who == "teacher" and most is not None and kind.longest_timed(most) < 1:
                    place = ("teacher", "model")
                yield place, Problem(why, "max-length")

    if (generate := profile.data.generated) is not None:
        most = max_tokens_of(files.config(generate.model) or {})
        wanted = generate.room(profile.data.max_length)
        if most is not None and wanted > most:
            yield (
                ("data", "unlabeled", "generate", "most"),
                Problem(
                    f"needs {wanted} tokens including the prompt, and the model takes {most}",
                    "max-length",
                ),
            )


def too_long(kind: TaskKind, lengths: Sequence[int], most: int | None, who: str) -> str | None:
    """Return why a model limited to `most` tokens cannot be timed at these lengths (none: the default); None if it
    can."""
    wanted = kind.positions(lengths)
    if most is None or wanted <= most:
        return None
    room = kind.longest_timed(most)
    if room < 1:
        return f"measuring time and memory needs {kind.positions((1,))} tokens at least, but {who} takes {most} at most"
    return (
        f"measuring time and memory at {'these lengths' if lengths else 'the default length'} needs {wanted} tokens, "
        f"but {who} takes {most} at most; set `sequence_lengths: [{room}]` or shorter in `targets`"
    )


def _shape(
    student: StudentSpec, teacher: EncoderSizes | None, smaller: SmallerDecoder | None, place: KeyPath
) -> Iterator[ProblemAt]:
    if teacher is None or not student.is_cut:
        return
    layers = student.layers
    if isinstance(layers, int):
        if layers > teacher.layers:
            yield (
                (*place, "layers"),
                Problem(f"asks for {layers} layers, but the teacher has {teacher.layers}", "student-deeper"),
            )
    elif max(layers, default=0) >= teacher.layers:
        yield (
            (*place, "layers"),
            Problem(
                f"the teacher's layers are 0 to {teacher.layers - 1}, so it has no layer {max(layers)}",
                "student-deeper",
            ),
        )
    if smaller is not None:
        yield from (((*place, key), Problem(why, "student-shape")) for key, why in smaller.faults())
        return
    hidden = student.hidden_size or teacher.hidden
    if hidden > teacher.hidden:
        yield (
            (*place, "hidden_size"),
            Problem(f"{hidden} is wider than the teacher's {teacher.hidden}", "student-wider"),
        )
    if student.heads is not None and hidden % student.heads:
        yield (
            (*place, "heads"),
            Problem(f"{student.heads} heads do not divide the width {hidden}", "student-heads"),
        )


def _trimming(model: str | None, files: ModelFiles, place: KeyPath) -> Iterator[ProblemAt]:
    kind = vocabulary_kind(model, files)
    if kind is not None and kind != "WordPiece":
        why = _NO_TRIMMING.get(kind, "only WordPiece vocabularies can be")
        yield (
            place,
            Problem(
                f"the vocabulary of a {kind} tokenizer cannot be trimmed: {why}; use `vocabulary: keep`",
                "vocabulary-fixed",
            ),
        )
