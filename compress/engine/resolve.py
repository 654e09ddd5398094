"""What a plan needs of the outside world before its first step: fingerprints, keys, data, targets."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from os.path import relpath
from pathlib import Path
from typing import cast

from compress.core.disk.files import digest_of
from compress.core.disk.source_uris import CODE, CONFIG
from compress.core.disk.watched import Watched
from compress.core.errors import CompressError, DataError, ModelError
from compress.core.numerics import Numerics, local_numerics
from compress.data.sources import fingerprint as data_fingerprint
from compress.data.sources import load as load_data
from compress.data.splits import Splits
from compress.engine.contents import are_texts_of_files, examples_digest, keep, of_splits
from compress.engine.deployment import decided
from compress.engine.examining import check_models
from compress.generation.by_label import lessons, writing_task_of
from compress.generation.copies import originals, standing_in
from compress.models.anatomy.table.families import FAMILY_UNSUPPORTED
from compress.models.teacher.code_files import code_files, module_file
from compress.models.teacher.location import check_code_allowed, check_teacher, model_folder
from compress.models.teacher.location import fingerprint as model_fingerprint
from compress.passes.contract import PassSpec
from compress.planning.keys import Fingerprints, all_parts, key_of, measured_by
from compress.planning.steps import Plan, build_plan, model_sources
from compress.profile.load import LoadedProfile
from compress.profile.model_checks.families import family_faults
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.fit import fit_problems
from compress.profile.schema import DataSpec, Profile, TeacherSpec
from compress.store.cache import Cache
from compress.targets.local import ResolvedTarget
from compress.targets.resolving import resolve_all
from compress.tasks.base import Task, TrainingData, WritingTask, task_of


@dataclass(frozen=True)
class Job:
    """A plan with everything resolved that it needs: its run may start."""

    loaded: LoadedProfile
    plan: Plan
    keys: dict[str, str]
    parts: dict[str, dict[str, object]]
    task: Task
    splits: Splits
    targets: tuple[ResolvedTarget, ...]
    numerics: Numerics
    allow_code: bool
    known: Fingerprints = field(default_factory=lambda: Fingerprints({}, None))
    read: Fingerprints = field(default_factory=lambda: Fingerprints({}, None))
    watched: Watched = field(default_factory=Watched)

    @property
    def run_id(self) -> str:
        """The same plan has the same id: the keys of its steps, what is measured on which targets, what is shown."""
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
            *filter(None, (self.measured_by,)),
        ]
        return f"{profile.name}-{digest_of(body)[:12]}"

    @cached_property
    def measured_by(self) -> dict[str, object]:
        """What decides the measuring beside the test split."""
        profile = self.plan.profile
        return scored_with(profile.task, profile.data, self.loaded.source.base, self.watched)

    @cached_property
    def test_digest(self) -> str:
        """What tells the test split from any other; found once, for images are read for it."""
        return examples_digest(self.splits.test)

    @property
    def training_data(self) -> TrainingData:
        """What passes may see: no test split."""
        splits = self.splits
        return TrainingData(splits.train, splits.validation, splits.labels, splits.unlabeled)

    @cached_property
    def lesson(self) -> tuple[Task, TrainingData]:
        """What a model learns that writes further texts of each label, and as which task."""
        data = self.plan.profile.data
        task = writing_task_of(data)
        return task.answered, lessons(task, self.training_data, data)

    def copied(self, texts: Sequence[str]) -> list[bool]:
        """Of texts, which of them are near copies of texts of the validation or the test split; of a language model,
        which stand for the most part in one, or hold it."""
        judged_by = (self.splits.validation, self.splits.test)
        if self.task.kind.writes:
            task = cast(WritingTask, self.task)
            return standing_in(
                texts, (text for split in judged_by for item in split.items for text in task.asked_in(item))
            )
        known = [text for split in judged_by for text in split.texts]
        return [one is not None and one.known for one in originals(texts, known)]

    def prepare(self, cache: Cache) -> None:
        """Make the folders of the cache, and note there what was read of the data."""
        cache.prepare()
        keep(self.plan.profile, self.known, self.read, cache)

    def check_unchanged(self, *, models: bool, data: bool) -> None:
        """Compare the user's files with what the keys were made of.

        Raises:
            DataError: one of them was changed meanwhile; what was read of it must not stand under these keys.
        """
        changed, base = self.watched.changed(), self.loaded.source.base
        if not set(changed).isdisjoint(judges(self.plan.profile.data, base).values()):
            raise _changed(changed)
        try:
            now = fingerprints(self.loaded, self.plan, self.watched)
        except CompressError as error:
            raise _changed(changed) from error
        same = (now.data, now.unlabeled) == (self.known.data, self.known.unlabeled)
        if (models and now.models != self.known.models) or (data and not same):
            raise _changed(changed)


def fingerprints(loaded: LoadedProfile, plan: Plan, watched: Watched | None = None) -> Fingerprints:
    """The fingerprints as far as this machine knows them, without the network."""
    profile, base = loaded.profile, loaded.source.base
    sources = [source for source, _ in model_sources(plan)]
    models = {(one.model, one.revision) for one in sources}
    models |= {(one.adapter, None) for one in sources if one.adapter is not None}
    models |= {(code, None) for spec in profile.specs for code in spec.code()}
    return Fingerprints(
        {(model, revision): model_fingerprint(model, revision, base, watched) for model, revision in models},
        data_fingerprint(profile.data.model_copy(update={"unlabeled": None}), base, profile.task, watched),
        data_fingerprint(profile.data, base, profile.task, watched) if profile.data.further else None,
    )


def judges(data: DataSpec, base: Path) -> dict[str, Path]:
    """The files of the user's code that judges answers, by what the data calls them."""
    own = {relpath(file, base): file for file in data.judging(base)}
    for source in data.code():
        (_, file), *others = code_files(source, base).items()
        own |= {source: file, **{f"{source} {name}": beside for name, beside in others}}
    return own


def scored_with(task: str, data: DataSpec, base: Path, watched: Watched) -> dict[str, object]:
    """What decides the measuring beside the test split: a task that a distribution adds, keys of the data, and the
    user's code that judges answers."""
    code = {source: watched.sha256(file) for source, file in judges(data, base).items()}
    return {**measured_by(task), **data.scored_by(), **({"judges": code} if code else {})}


def check_judges(data: DataSpec, base: Path, *, allow_code: bool, passes: Sequence[PassSpec] = ()) -> None:
    """Refuse what cannot be scored here, and code that judges answers where nobody allowed it or where there is none.

    Raises:
        UsageError: it is not allowed.
        ModelError: there is no such code.
        DataError: a task of lm-eval cannot be had or scored here.
    """
    for code in (*data.code(), *(code for spec in passes for code in spec.code())):
        check_code_allowed(code, allow_code, "answers are judged")
        module_file(code, base)
    data.check(base, allow_code=allow_code)


def resolve_job(loaded: LoadedProfile, *, allow_code: bool) -> Job:
    """Load and check the data, check the teacher against it, resolve the targets; before any work is done.

    Raises:
        ProfileError, DataError, ModelError, TargetError: what was declared cannot be used.
    """
    profile, base = loaded.profile, loaded.source.base
    check_models(loaded)
    check_judges(profile.data, base, allow_code=allow_code, passes=profile.specs)
    targets = resolve_all(profile.targets, profile.measure.patience_s)
    watched = Watched()
    with suppress(CompressError):
        # What is wrong with the data is told by those who read it.
        data_fingerprint(profile.data, base, profile.task, watched)
    splits = load_data(profile.data, base, profile.seed, profile.task)
    if changed := watched.changed():
        raise _changed(changed)
    plan = build_plan(decided(profile, targets))
    for source, task in model_sources(plan):
        check_teacher(source, splits.labels, base, allow_code=allow_code, task=task)
    _check_fetched(profile, base, model_sources(plan))
    found = fingerprints(loaded, plan, watched)
    known = replace(found, models={source: one or source[0] for source, one in found.models.items()})
    unknown = found.data is None or (profile.data.further is not None and found.unlabeled is None)
    if unknown or are_texts_of_files(profile, base):
        known = of_splits(known, splits)
    parts = all_parts(plan, known, local_numerics())
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
        found,
        known,
        watched,
    )


def _changed(files: Sequence[Path]) -> DataError:
    return DataError(
        "this file was changed during the run"
        if files
        else "files of the data or the model were added or removed during the run",
        where=str(files[0]) if files else None,
        hint="Nothing made from it is kept. Start the run again: it uses what is there then.",
        code="source-changed",
    )


def _check_fetched(profile: Profile, base: Path, sources: Sequence[tuple[TeacherSpec, str]]) -> None:
    """Refuse families that a pass or a target cannot take, and lengths, students and vocabularies that a model has no
    room for: of those of the hub too, which `validate` could not look at and which are here now.

    Raises:
        ModelError: naming the first of them.
    """
    places = {
        one.model: model_folder(one.model, one.revision, base, task)
        for one, task in sources
        if not one.model.startswith((CODE, CONFIG))
    }
    files = ModelFiles(base, places)
    for path, why in family_faults(profile, files):
        raise ModelError(why, where=".".join(map(str, path)), code=FAMILY_UNSUPPORTED)
    for path, problem in fit_problems(profile, files):
        raise problem.error(".".join(map(str, path)))
