"""Checks of a distillation: combinations that are impossible, with the reasons, and warnings."""

from __future__ import annotations

from collections.abc import Iterator

from compress.core.errors import ModelError
from compress.core.spec import Spec
from compress.passes.distill.lesson_checks import pairing_faults
from compress.passes.distill.spec import DistillSpec, loss_fault, losses_of, losses_path
from compress.passes.distill.student_checks import student_faults
from compress.profile.combination_checks import (
    NO_OUTPUT_LOSS,
    KeyFault,
    input_kind,
    outputs_embeddings,
    training_setting_of,
    why_not_packed,
)
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.tokenizers import has_chat_template
from compress.profile.pass_checks import PassCheck
from compress.profile.schema import Profile
from compress.profile.specs.examples import DataFreeSpec
from compress.profile.specs.license import why_forbidden
from compress.profile.specs.server import ServerSpec
from compress.profile.specs.writing import PASSAGE, SequenceSpec, SyntheticSpec
from compress.profile.yaml_lines import KeyPath
from compress.tasks.table import task_kind

_KEYS_BY_EXAMPLE_TYPE = {
    "augment": {
        "texts": ("copies", "replace", "delete", "splice", "neighbours"),
        "images": ("flip", "crop", "mixup", "cutmix"),
    },
    "data_free": {
        "texts": ("length", "words", "rounds"),
        "images": ("generator_rate", "student_steps", "statistics", "balance"),
        "language models": ("most", "temperature", "top_p", "seed"),
    },
}
"""Keys of a section that apply only to one type of examples, or only to language models."""


def faults(check: PassCheck) -> Iterator[KeyFault]:
    """Yield the keys below the pass that exclude each other, do not fit the task, or contradict the models' files."""
    assert isinstance(check.spec, DistillSpec)
    yield from _distill_faults(check.profile, check.spec)
    yield from pairing_faults(check)
    yield from _template_faults(check.profile, check.spec, check.files)


def warnings(check: PassCheck) -> Iterator[str]:
    """Yield warnings about a valid profile that is likely to give poor results, one sentence each."""
    spec, finetune = check.spec, check.profile.teacher.finetune
    assert isinstance(spec, DistillSpec)
    losses = [loss for stage in spec.effective_stages for loss in losses_of(stage)]
    if any(loss.uses_soft_targets for loss in losses) and finetune is not None and finetune.smoothing > 0:
        yield (
            "teacher.finetune.smoothing: a teacher trained with label smoothing may distil worse, as its logits "
            "distinguish wrong classes less (Mueller et al. 2019); on CLINC150 no difference was found, so measure it"
        )
    for why in dict.fromkeys(loss.likely_problem(task_kind(check.profile.task)) for loss in losses):
        if why is not None:
            written = "losses" in spec.model_fields_set
            yield f"passes.{check.index}.distill{'.losses' if written else ''}: {why}"
    if spec.data_free is not None and not spec.control:
        yield (
            f"passes.{check.index}.distill.data_free: the loss from not using training data will not be measured; "
            "with `control: true` the same student is also trained on the data, and the report compares them"
        )


def _distill_faults(profile: Profile, spec: DistillSpec) -> Iterator[KeyFault]:
    yield from student_faults(profile, spec)
    yield from _keys_of_other_types(profile, spec)
    yield from _data_free_faults(profile, spec)
    yield from _teacher_faults(profile, spec)
    yield from _sequence_faults(profile, spec)
    setting = training_setting_of(
        profile, teachers=max(1, len(spec.teachers)), generated=spec.data_free is not None
    )
    for index, stage in enumerate(spec.effective_stages):
        key_path = losses_path(spec, index)
        for number, entry in enumerate(stage.losses):
            why = entry.body.fault(setting)
            if why is not None:
                yield loss_fault(key_path, number, entry, why)
        subset = stage.data or spec.data
        if subset == "unlabeled" and profile.data.unlabeled is None:
            yield (key_path[:-1] or ("data",)), "`unlabeled` needs `data.unlabeled` in the profile"
        if subset == "unlabeled" and all(loss.uses_labels for loss in losses_of(stage)):
            yield key_path, "unlabelled examples have no labels to learn from: add a loss against the teacher"
    yield from dict.fromkeys(_on_policy_faults(profile, spec))
    if not any(loss.reaches_outputs for loss in losses_of(spec.effective_stages[-1])):
        last = "the last stage has" if spec.stages else "there is"
        yield ("stages",) if spec.stages else losses_path(spec, 0), f"{last} {NO_OUTPUT_LOSS}"


def _keys_of_other_types(profile: Profile, spec: DistillSpec) -> Iterator[KeyFault]:
    """Yield keys that are set but apply only to other types of examples."""
    example_type = "language models" if task_kind(profile.task).generates else input_kind(profile)
    for section, keys in _KEYS_BY_EXAMPLE_TYPE.items():
        section_spec: Spec | None = getattr(spec, section)
        for other_type, name in ((other_type, name) for other_type, names in keys.items() for name in names):
            if (
                section_spec is not None
                and name in section_spec.model_fields_set
                and other_type != example_type
                and example_type in keys
            ):
                why = (
                    f"only for {other_type}; the keys for {example_type} are {', '.join(keys[example_type])}"
                )
                yield (section, name), why


def _data_free_faults(profile: Profile, spec: DistillSpec) -> Iterator[KeyFault]:
    if spec.data_free is None:
        return
    if task_kind(profile.task).generates:
        yield from _prompt_faults(profile, spec, spec.data_free)
        return
    if input_kind(profile) == "images":
        if spec.stages:
            yield (
                ("stages",),
                "training with generated images has exactly one stage; leave `stages` out and give `losses`",
            )
        for name in ("accumulate", "gradient_checkpointing"):
            if getattr(spec, name) != type(spec).model_fields[name].default:
                yield (
                    (name,),
                    "not available with generated images: generator and student alternate, one whole batch per step",
                )
        return
    min_tokens, max_length = spec.data_free.length[0], profile.data.max_length
    if min_tokens > max_length:
        yield (
            ("data_free", "length"),
            f"no text of {min_tokens} tokens fits into `data.max_length`, which is {max_length}",
        )


def _prompt_faults(profile: Profile, spec: DistillSpec, data_free: DataFreeSpec) -> Iterator[KeyFault]:
    """Yield faults of prompts written by the teacher."""
    if spec.sequence is None:
        yield (
            ("data_free",),
            "the teacher writes prompts and answers them: add `sequence`, which sets how and under which licence",
        )
        return
    max_prompt_tokens = profile.data.max_length - spec.sequence.most
    if "most" in data_free.model_fields_set and data_free.most > max_prompt_tokens > 0:
        yield (
            ("data_free", "most"),
            f"with `sequence.most` it must fit into `data.max_length`, which leaves {max_prompt_tokens}",
        )
    if profile.data.continues_texts and "prompt_tokens" in spec.sequence.model_fields_set:
        yield (
            ("sequence", "prompt_tokens"),
            "no prompts are taken from the data: `data_free.most` sets the length of the generated ones",
        )


def _template_faults(profile: Profile, spec: DistillSpec, files: ModelFiles) -> Iterator[KeyFault]:
    """Yield a fault if the teacher's files lack the chat template that is needed to write user messages."""
    teacher = profile.teacher
    if (
        spec.data_free is None
        or spec.sequence is None
        or profile.data.continues_texts
        or teacher.adapter
        or teacher.config
    ):
        return
    folder = files.folder(teacher.model)
    if folder is not None and folder.is_dir() and not has_chat_template(folder, files):
        yield (
            ("data_free",),
            "the teacher has no chat template, which marks where a user's message begins; without one it can write "
            "plain texts (`text_column`)",
        )


def _sequence_faults(profile: Profile, spec: DistillSpec) -> Iterator[KeyFault]:
    """Yield faults of texts written by the teacher."""
    if spec.sequence is None:
        return
    if not task_kind(profile.task).generates:
        yield ("sequence",), f"models for {profile.task} cannot generate text"
        return
    server = spec.sequence.server
    teacher = (spec.teachers[0].model if spec.teachers else None) or profile.teacher.model
    writer = teacher if server is None else server.model
    made_from_it = spec.student.is_cut_from_teacher and server is None and not spec.teachers
    if (why := why_forbidden(spec.sequence.license, writer, derived=made_from_it)) is not None:
        yield ("sequence", "license"), why
    if spec.sequence.most >= profile.data.max_length:
        yield (
            ("sequence", "most"),
            f"it must be below `data.max_length`, which is {profile.data.max_length}",
        )
    if profile.train.nodes > 1:
        yield ("sequence",), "with several machines (`train.nodes`) each would write different texts"
    if server is not None:
        yield from _server_faults(
            server, profile, writes_pairs=spec.synthetic is not None, is_data_free=spec.data_free is not None
        )
        yield from _probability_faults(spec)
    continues_texts = profile.data.continues_texts
    if spec.synthetic is not None:
        yield from _pair_faults(profile, spec.sequence, spec.synthetic)
        return
    if not continues_texts and "prompt_tokens" in spec.sequence.model_fields_set:
        yield (
            ("sequence", "prompt_tokens"),
            "the data already has prompts; only plain texts are cut into prompts",
        )
    if (
        continues_texts
        and spec.data_free is None
        and spec.sequence.prompt_tokens + spec.sequence.most > profile.data.max_length
    ):
        yield (
            ("sequence", "prompt_tokens"),
            f"together with `most` it must be at most `data.max_length`, which is {profile.data.max_length}",
        )
    for name in ("rejection", "reasoning"):
        if continues_texts and getattr(spec, name) is not None:
            yield (
                (name,),
                "plain texts have no answers: name `prompt_column` and `completion_column`, or `messages_column`",
            )


def _probability_faults(spec: DistillSpec) -> Iterator[KeyFault]:
    """Yield the losses that need the probabilities of a generating model that is behind a server."""
    for index, stage in enumerate(spec.effective_stages):
        for number, entry in enumerate(stage.losses):
            if entry.body.needs_teacher and not spec.teachers:
                yield loss_fault(
                    losses_path(spec, index),
                    number,
                    entry,
                    "a server gives texts, but no probabilities for the student's tokens: use `next_token` only, or "
                    "name in `teachers` a model that scores what it writes (`teachers: [{}]`: the profile's teacher)",
                )


def _pair_faults(profile: Profile, sequence: SequenceSpec, pairs: SyntheticSpec) -> Iterator[KeyFault]:
    if not profile.data.continues_texts:
        yield (
            ("synthetic",),
            "pairs are written from documents, but the data holds prompts or conversations: give plain texts",
        )
        return
    max_passage_tokens, max_length = pairs.passage_tokens[1], profile.data.max_length
    if PASSAGE in pairs.prompt and max_passage_tokens + 2 * sequence.most > max_length:
        yield (
            ("synthetic", "passage_tokens"),
            f"a passage of {max_passage_tokens} tokens with a question and an answer of `sequence.most` "
            "each does not fit into "
            f"`data.max_length`, which is {max_length}",
        )


def _on_policy_faults(profile: Profile, spec: DistillSpec) -> Iterator[KeyFault]:
    """Yield faults of on-policy steps, stage by stage."""
    for index, stage in enumerate(spec.effective_stages):
        stage_spec = spec.stage_spec(stage)
        if stage_spec.on_policy is None:
            continue
        stage_path: KeyPath = ("stages", index) if spec.stages else ()
        key_path: KeyPath = (*(stage_path if stage.on_policy else ()), "on_policy")
        if not task_kind(profile.task).generates:
            yield key_path, f"models for {profile.task} cannot generate text"
            continue
        if profile.train.strategy == "fsdp" and profile.train.world_size > 1:
            yield (
                key_path,
                "each process needs all weights to write, but `train.strategy: fsdp` shards them: use `ddp`",
            )
        yield from _comparison_faults(stage_spec, losses_path(spec, index))
        max_new_tokens, max_length = stage_spec.on_policy.most, profile.data.max_length
        if max_new_tokens >= max_length:
            yield (*key_path, "most"), f"it must be below `data.max_length`, which is {max_length}"
        elif profile.data.continues_texts and stage_spec.prompt_tokens + max_new_tokens > max_length:
            yield (
                (*key_path, "prompt_tokens"),
                f"together with `most` it must be at most `data.max_length`, which is {max_length}",
            )
        if not profile.data.continues_texts and stage_spec.on_policy.prompt_tokens is not None:
            yield (
                (*key_path, "prompt_tokens"),
                "the data already has prompts; only plain texts are cut into prompts",
            )


def _comparison_faults(spec: DistillSpec, losses_path: KeyPath) -> Iterator[KeyFault]:
    """Yield the losses of a stage, at `losses_path`, that have nothing to learn from on-policy steps."""
    assert spec.on_policy is not None
    if not any(entry.body.needs_teacher for entry in spec.losses):
        stage_hint = ", or set `on_policy: false` here" if losses_path[:-1] else ""
        yield (
            losses_path,
            f"none of them compares with a teacher, which has to judge what the student writes: add logits{stage_hint}",
        )
        return
    for number, entry in enumerate(spec.losses):
        if spec.on_policy.share == 1 and not entry.body.needs_teacher:
            yield loss_fault(
                losses_path,
                number,
                entry,
                f"with `on_policy.lambda: 1` no text of the data is used, so {entry.key} has nothing to learn: lower "
                "`lambda`, or leave the loss out",
            )


def _server_faults(
    server: ServerSpec, profile: Profile, *, writes_pairs: bool, is_data_free: bool
) -> Iterator[KeyFault]:
    key_path = ("sequence", "server")
    if profile.data.continues_texts and server.api == "chat" and not writes_pairs:
        yield (
            (*key_path, "api"),
            "the data holds plain texts to continue, not prompts: use `api: completions`",
        )
    if profile.data.is_chat and server.api == "completions" and server.template is None:
        yield (
            (*key_path, "api"),
            "`completions` continues plain texts, but the data holds conversations: use `api: chat`",
        )
    if not profile.data.continues_texts and is_data_free and server.template is None:
        yield (
            (*key_path, "api"),
            "`chat` answers prompts but cannot write them: use `api: completions` and `template: teacher`, with a "
            "teacher that has the chat template and the tokenizer of the server's model",
        )
    if profile.data.continues_texts and server.template is not None:
        yield (*key_path, "template"), "the data holds plain texts to continue, not prompts"
    try:
        server.key()
    except ModelError as error:
        yield (*key_path, "key_env"), error.message


def _teacher_faults(profile: Profile, spec: DistillSpec) -> Iterator[KeyFault]:
    for number, entry in enumerate(spec.teachers):
        if entry.finetune is not None and (why := why_not_packed(entry.finetune, profile.task)) is not None:
            yield ("teachers", number, "finetune", "pack"), why
    if spec.keep == "ensemble" and task_kind(profile.task).generates:
        yield ("keep",), "several language models cannot be stored as one file: keep the `last` or the `best`"
    losses = [loss for stage in spec.effective_stages for loss in losses_of(stage)]
    compares_teacher = any(loss.needs_teacher for loss in losses)
    writer_keys: tuple[str, ...] = () if spec.sequence is None else ("data_free",)
    if spec.sequence is not None and spec.sequence.server is None:
        writer_keys = (*writer_keys, "teachers")
    if not compares_teacher:
        for name in ("teachers", "select", "online", "ema", "data_free", "assistants"):
            if getattr(spec, name) and name not in writer_keys:
                yield (name,), "every loss uses only the labels, so there is no teacher"
        if spec.generations > 1:
            yield (
                ("generations",),
                "every loss uses only the labels: a further generation would learn nothing new",
            )
    if spec.ema is not None and not any(loss.uses_labels for loss in losses):
        yield ("ema",), "a student that only follows its own average learns nothing: add a labels loss"
    if not training_setting_of(profile).is_classifier and not outputs_embeddings(profile):
        for name in ("online",) if task_kind(profile.task).generates else ("select", "online"):
            if getattr(spec, name) is not None:
                yield (name,), f"it needs labels, which {profile.task} does not have"
    if not outputs_embeddings(profile):
        return
    if spec.control and spec.data_free is None:
        yield (
            ("control",),
            "embeddings have no labels, so the same student cannot be trained without the teacher",
        )
    if len(spec.teachers) > 1:
        yield ("teachers",), "embeddings of different models do not share axes, so they cannot be averaged"
    for name in ("select", "online", "ema"):
        if getattr(spec, name) is not None:
            yield (name,), "it needs probabilities or labels, which embeddings do not have"
