"""What a plan needs of the outside world before its first step: fingerprints, keys, data, targets."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from compress.data.sources import fingerprint as data_fingerprint
from compress.data.sources import load as load_data
from compress.data.splits import Examples, Splits
from compress.keys import Fingerprints, all_parts, key_of
from compress.models.sources import check_teacher
from compress.models.sources import fingerprint as model_fingerprint
from compress.numerics import Numerics, local_numerics
from compress.plan import Plan, build_plan
from compress.profile.load import LoadedProfile
from compress.targets.local import ResolvedTarget, resolve
from compress.tasks import task_of
from compress.tasks.base import Task, TrainingData


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

    @property
    def run_id(self) -> str:
        """The same plan has the same id: its steps' keys, what is measured on which targets, the budget."""
        profile = self.plan.profile
        body = [
            self.keys,
            [target.fingerprint for target in self.targets],
            [
                section.model_dump(mode="json")
                for section in (*profile.targets, profile.budget, profile.measure)
            ],
        ]
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        return f"{profile.name}-{digest[:12]}"

    @property
    def training_data(self) -> TrainingData:
        """What passes may see: no test split."""
        return TrainingData(self.splits.train, self.splits.validation, self.splits.labels)


def fingerprints(loaded: LoadedProfile) -> Fingerprints:
    """The fingerprints as far as this machine knows them, without the network."""
    profile, base = loaded.profile, loaded.source.base
    return Fingerprints(
        model_fingerprint(profile.teacher.model, profile.teacher.revision, base),
        data_fingerprint(profile.data, base),
    )


def resolve_job(loaded: LoadedProfile, *, allow_code: bool) -> Job:
    """Load and check the data, check the teacher against it, resolve the targets; before any work is done.

    Raises:
        DataError, ModelError, TargetError: what was declared cannot be used.
    """
    profile, base = loaded.profile, loaded.source.base
    targets = tuple(resolve(target) for target in profile.targets)
    splits = load_data(profile.data, base, profile.seed)
    check_teacher(profile.teacher, splits.labels, base, allow_code=allow_code)
    plan = build_plan(profile)
    known = fingerprints(loaded)
    # A hub data set that had to be downloaded has no fingerprint before that: its content stands for it.
    known = Fingerprints(known.model or profile.teacher.model, known.data or splits_digest(splits))
    parts = all_parts(plan, known, local_numerics())
    keys = {name: key for name, part in parts.items() if (key := key_of(part)) is not None}
    task = task_of(profile.task, profile.data)
    return Job(loaded, plan, keys, parts, task, splits, targets, local_numerics(), allow_code)


def splits_digest(splits: Splits) -> str:
    """sha256 over all examples of all splits."""
    return hashlib.sha256(
        "".join(examples_digest(part) for part in (splits.train, splits.validation, splits.test)).encode()
    ).hexdigest()


def examples_digest(examples: Examples) -> str:
    """sha256 over the texts and labels of one split, in their order."""
    digest = hashlib.sha256(examples.labels.tobytes())
    for text in examples.texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
