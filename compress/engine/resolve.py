"""Resolution of a plan's external inputs before its first step: fingerprints, keys, data, targets."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from os.path import relpath
from pathlib import Path
from typing import cast

from compress.core.disk.files import digest_of
from compress.core.disk.source_uris import CODE_PREFIX, CONFIG_PREFIX
from compress.core.disk.watched import FileDigests
from compress.core.errors import CompressError, DataError, ModelError
from compress.core.numerics import Numerics, local_numerics
from compress.data.sources import fingerprint as data_fingerprint
from compress.data.sources import load as load_data
from compress.data.splits import Splits
from compress.engine.contents import (
    examples_digest,
    reads_local_texts,
    store_content_digests,
    with_content_digests,
)
from compress.engine.deployment import resolve_for_processors
from compress.engine.examining import check_models
from compress.generation.by_label import generator_data, writing_task_of
from compress.generation.copies import contained_in, find_duplicates
from compress.models.anatomy.table.families import FAMILY_UNSUPPORTED
from compress.models.teacher.code_files import code_files, module_file
from compress.models.teacher.location import check_code_allowed, check_teacher, model_folder
from compress.models.teacher.location import fingerprint as model_fingerprint
from compress.passes.contract import PassSpec
from compress.planning.keys import Fingerprints, all_parts, key_of, task_key_parts
from compress.planning.steps import Plan, build_plan, model_sources
from compress.profile.load import LoadedProfile
from compress.profile.model_checks.families import family_faults
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.fit import fit_problems
from compress.profile.schema import DataSpec, Profile, TeacherSpec
from compress.store.cache import Cache
from compress.targets.local import ResolvedTarget
from compress.targets.resolving import resolve_all
from compress.tasks.base import GenerativeTask, Task, TrainingData, task_of


@dataclass(frozen=True)
class Job:
    """A plan with all of its inputs resolved, ready to run.

    `file_fingerprints` are the fingerprints of the files, `key_fingerprints` those that the keys are made of.
    """

    loaded: LoadedProfile
    plan: Plan
    keys: dict[str, str]
    parts: dict[str, dict[str, object]]
    task: Task
    splits: Splits
    targets: tuple[ResolvedTarget, ...]
    numerics: Numerics
    allow_code: bool
    file_fingerprints: Fingerprints = field(default_factory=lambda: Fingerprints({}, None))
    key_fingerprints: Fingerprints = field(default_factory=lambda: Fingerprints({}, None))
    file_digests: FileDigests = field(default_factory=FileDigests)

    @property
    def run_id(self) -> str:
        """Id of the run, derived from step keys, test split, targets, budget, measuring and report settings."""
        profile = self.plan.profile
        body = [
            self.keys,
            self.test_digest,
            [target.fingerprint for target in self.targets],
            [
                *(section.model_dump(mode="json") for section in (*profile.targets, profile.budget)),
                profile.measure.identity(),
                profile.report.model_dump(mode="json"),
            ],
            *filter(None, (self.scoring_parts,)),
        ]
        return f"{profile.name}-{digest_of(body)[:12]}"

    @cached_property
    def scoring_parts(self) -> dict[str, object]:
        """Parts of the measurement key that determine scoring, besides the test split."""
        profile = self.plan.profile
        return scoring_key_parts(profile.task, profile.data, self.loaded.source.base, self.file_digests)

    @cached_property
    def test_digest(self) -> str:
        """Digest of the test split; cached, since images are read for it."""
        return examples_digest(self.splits.test)

    @property
    def training_data(self) -> TrainingData:
        """Data that passes may see, without the test split."""
        splits = self.splits
        return TrainingData(splits.train, splits.validation, splits.labels, splits.unlabeled)

    @cached_property
    def writer_training(self) -> tuple[Task, TrainingData]:
        """Task and training data of the model that generates additional labeled texts."""
        data = self.plan.profile.data
        task = writing_task_of(data)
        return task.answered_task, generator_data(task, self.training_data, data)

    def is_heldout_copy(self, texts: Sequence[str]) -> list[bool]:
        """Return for each text whether it is a near-duplicate of a validation or test text; for language models,
        whether it is mostly contained in one or contains it."""
        held_out = (self.splits.validation, self.splits.test)
        if self.task.kind.generates:
            task = cast(GenerativeTask, self.task)
            return contained_in(
                texts,
                (text for split in held_out for item in split.items for text in task.questions_of(item)),
            )
        held_out_texts = [text for split in held_out for text in split.texts]
        return [
            duplicate is not None and duplicate.is_known
            for duplicate in find_duplicates(texts, held_out_texts)
        ]

    def prepare(self, cache: Cache) -> None:
        """Create the folders of the cache, and store the digests of the data that was read."""
        cache.prepare()
        store_content_digests(self.plan.profile, self.file_fingerprints, self.key_fingerprints, cache)

    def check_unchanged(self, *, models: bool, data: bool) -> None:
        """Check that the user's files are still those that the keys were computed from.

        Raises:
            DataError: one of them was changed during the run, so results must not be stored under these keys.
        """
        changed, base = self.file_digests.changed(), self.loaded.source.base
        if not set(changed).isdisjoint(judge_files(self.plan.profile.data, base).values()):
            raise _changed_error(changed)
        try:
            current = fingerprints(self.loaded, self.plan, self.file_digests)
        except CompressError as error:
            raise _changed_error(changed) from error
        data_unchanged = (current.data, current.unlabeled) == (
            self.file_fingerprints.data,
            self.file_fingerprints.unlabeled,
        )
        if (models and current.models != self.file_fingerprints.models) or (data and not data_unchanged):
            raise _changed_error(changed)


def fingerprints(loaded: LoadedProfile, plan: Plan, digests: FileDigests | None = None) -> Fingerprints:
    """Compute the fingerprints of models and data that are on this machine, without network access."""
    profile, base = loaded.profile, loaded.source.base
    sources = [source for source, _ in model_sources(plan)]
    models = {(one.model, one.revision) for one in sources}
    models |= {(one.adapter, None) for one in sources if one.adapter is not None}
    models |= {(code, None) for spec in profile.specs for code in spec.code()}
    return Fingerprints(
        {(model, revision): model_fingerprint(model, revision, base, digests) for model, revision in models},
        data_fingerprint(profile.data.model_copy(update={"unlabeled": None}), base, profile.task, digests),
        data_fingerprint(profile.data, base, profile.task, digests)
        if profile.data.existing_unlabeled
        else None,
    )


def judge_files(data: DataSpec, base: Path) -> dict[str, Path]:
    """Return the files of the user's code that judges answers, by the name that the data uses."""
    files = {relpath(file, base): file for file in data.scoring_files(base)}
    for source in data.code():
        (_, file), *imports = code_files(source, base).items()
        files |= {source: file, **{f"{source} {name}": path for name, path in imports}}
    return files


def scoring_key_parts(task: str, data: DataSpec, base: Path, digests: FileDigests) -> dict[str, object]:
    """Return the parts of the measurement key that determine scoring, besides the test split: the task of a plugin,
    keys of the data, and the user's code that judges answers."""
    code = {source: digests.sha256(file) for source, file in judge_files(data, base).items()}
    return {**task_key_parts(task), **data.scoring_settings(), **({"judges": code} if code else {})}


def check_judge_code(
    data: DataSpec, base: Path, *, allow_code: bool, passes: Sequence[PassSpec] = ()
) -> None:
    """Check that the data can be scored here, and that code that judges answers exists and is allowed.

    Raises:
        UsageError: code is not allowed.
        ModelError: there is no such code.
        DataError: a task of lm-eval is not available or cannot be scored here.
    """
    for code in (*data.code(), *(code for spec in passes for code in spec.code())):
        check_code_allowed(code, allow_code, "answers are judged")
        module_file(code, base)
    data.check(base, allow_code=allow_code)


def resolve_job(loaded: LoadedProfile, *, allow_code: bool) -> Job:
    """Load and check the data, check the models against it and resolve the targets, before any work is done.

    Raises:
        ProfileError, DataError, ModelError, TargetError: what was declared cannot be used.
    """
    profile, base = loaded.profile, loaded.source.base
    check_models(loaded)
    check_judge_code(profile.data, base, allow_code=allow_code, passes=profile.specs)
    targets = resolve_all(profile.targets, profile.measure.patience_s)
    digests = FileDigests()
    with suppress(CompressError):
        # Errors of the data are reported when it is loaded below.
        data_fingerprint(profile.data, base, profile.task, digests)
    splits = load_data(profile.data, base, profile.seed, profile.task)
    if changed := digests.changed():
        raise _changed_error(changed)
    plan = build_plan(resolve_for_processors(profile, targets))
    for source, task in model_sources(plan):
        check_teacher(source, splits.labels, base, allow_code=allow_code, task=task)
    _check_fetched(profile, base, model_sources(plan))
    raw = fingerprints(loaded, plan, digests)
    resolved = replace(raw, models={source: digest or source[0] for source, digest in raw.models.items()})
    unresolved = raw.data is None or (profile.data.existing_unlabeled is not None and raw.unlabeled is None)
    if unresolved or reads_local_texts(profile, base):
        resolved = with_content_digests(resolved, splits)
    parts = all_parts(plan, resolved, local_numerics())
    keys = {name: key for name, part in parts.items() if (key := key_of(part)) is not None}
    return Job(
        loaded,
        plan,
        keys,
        parts,
        task_of(profile.task, profile.data),
        splits,
        targets,
        local_numerics(),
        allow_code,
        raw,
        resolved,
        digests,
    )


def _changed_error(files: Sequence[Path]) -> DataError:
    return DataError(
        "this file was changed during the run"
        if files
        else "files of the data or the model were added or removed during the run",
        where=str(files[0]) if files else None,
        hint="Nothing made from it is kept. Start the run again: it uses what is there then.",
        code="source-changed",
    )


def _check_fetched(profile: Profile, base: Path, sources: Sequence[tuple[TeacherSpec, str]]) -> None:
    """Check model families, lengths, students and vocabularies again, including models of the hub, which are now on
    this machine but were not accessible to `validate`.

    Raises:
        ModelError: for the first problem.
    """
    folders = {
        spec.model: model_folder(spec.model, spec.revision, base, task)
        for spec, task in sources
        if not spec.model.startswith((CODE_PREFIX, CONFIG_PREFIX))
    }
    files = ModelFiles(base, folders)
    for path, reason in family_faults(profile, files):
        raise ModelError(reason, where=".".join(map(str, path)), code=FAMILY_UNSUPPORTED)
    for path, problem in fit_problems(profile, files):
        raise problem.error(".".join(map(str, path)))
