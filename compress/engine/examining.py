"""Validation before a run: the faults of profile, data and models that can be found on this machine.

Nothing is downloaded, no user code is run, neither torch nor transformers is imported. What cannot be checked this way
is listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from compress.core.disk.source_uris import CODE_PREFIX, CONFIG_PREFIX, SKLEARN_PREFIX, local_path
from compress.core.errors import CompressError, DataError, DataErrors, Fault, ModelError, ProfileError
from compress.data.names import printable
from compress.data.reading.sampling import SAMPLE_SIZE
from compress.data.sources import load
from compress.data.splits import Splits
from compress.models.teacher.code_files import module_file
from compress.models.teacher.location import GGUF, check_teacher
from compress.models.teacher.presence import file_faults
from compress.planning.steps import build_plan, model_sources
from compress.profile.device import is_ssh
from compress.profile.load import LoadedProfile, named_models, read_profile
from compress.profile.model_checks.architecture import encoder_sizes, vocabulary_kind
from compress.profile.model_checks.files import ModelFiles
from compress.profile.schema import DataSpec, Profile, validate_data
from compress.profile.specs.decoder import decoder_of
from compress.profile.yaml_lines import KeyPath, ProfileSource, override, read_source
from compress.tasks.table import task_kind, task_names

_MAX_LABELS = 8
_CODE_NOTE = "which is code: it runs only with --allow-code"


@dataclass
class Examination:
    """Result of a validation: the profile (None if invalid), its faults, what was checked (`checked`), what could not
    be checked (`unchecked`), and warnings and notes."""

    profile: Profile | None = None
    faults: list[Fault] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return self.profile is not None and not self.faults


def examine(file: Path, assignments: tuple[str, ...] = ()) -> Examination:
    """Validate a profile, its data and its models.

    Raises:
        ProfileError: the file is not readable YAML.
    """
    return examine_source(override(read_source(file), assignments))


def examine_source(source: ProfileSource) -> Examination:
    """Validate a profile that was already read, as `examine`."""
    files = ModelFiles(source.base)
    profile, faults, warnings = read_profile(source, files)
    result = Examination(profile, list(faults), notes=[f"warning: {one}" for one in warnings])
    splits = _examine_data(source, profile, result)
    if profile is not None:
        result.faults += model_faults(profile, source, files)
        _examine_models(profile, files, result)
        if splits is not None and not result.faults:
            result.faults += _head_faults(profile, source, splits, files)
        for index, spec in enumerate(profile.specs):
            for code in spec.code():
                _examine_code(code, ("passes", index, spec.kind), source, result)
        result.unchecked += [
            f"{target.device}, a device" for target in profile.targets if is_ssh(target.device)
        ]
    result.faults.sort(key=lambda fault: fault.line or 0)
    return result


def check_models(loaded: LoadedProfile) -> None:
    """Check the models' files as `examine` does, before anything is loaded.

    Raises:
        ProfileError: with all faults that were found.
    """
    faults = model_faults(loaded.profile, loaded.source, ModelFiles(loaded.source.base))
    if faults:
        raise ProfileError(faults)


def model_faults(profile: Profile, source: ProfileSource, files: ModelFiles) -> list[Fault]:
    """Return the faults of missing or damaged files of the models on this machine."""
    faults = []
    for path, model, task in named_models(profile):
        folder = files.folder(model)
        if folder is not None and folder.is_dir():
            faults += [_fault(source, path, error) for error in file_faults(folder, task, files)]
    return faults


def _examine_data(source: ProfileSource, profile: Profile | None, result: Examination) -> Splits | None:
    declared = _declared_data(source, profile)
    if declared is None:
        return None
    spec, task, seed = declared
    key_path: KeyPath = ("data", "path")
    for code in spec.code():
        _examine_code(code, ("data",), source, result)
    try:
        spec.check(source.base, allow_code=True)
    except CompressError as error:
        result.faults.append(_fault(source, ("data",), error))
    if scoring_files := spec.scoring_files(source.base):
        result.unchecked.append(f"{printable(str(scoring_files[0].parent))}, {_CODE_NOTE}")
    try:
        if (remote_source := _nonlocal_source(spec.path, source.base)) is not None:
            result.unchecked.append(remote_source)
            return None
        if spec.existing_unlabeled is not None and (
            unlabeled_source := _nonlocal_or_missing(spec.existing_unlabeled.path, source.base)
        ):
            result.unchecked.append(unlabeled_source)
            spec = spec.model_copy(update={"unlabeled": None})
        splits = load(spec, source.base, seed, task, sample=True)
    except DataErrors as errors:
        result.faults += [_fault(source, key_path, error) for error in errors.shown]
        return None
    except CompressError as error:
        if not any(fault.path.startswith("data.path") for fault in result.faults):
            result.faults.append(_fault(source, key_path, error))
        return None
    result.checked += list(_data_facts(spec, splits, task))
    result.notes += splits.notes
    return splits


def _nonlocal_source(path: str, base: Path) -> str | None:
    """Describe data that is not in local files; None if it is.

    Raises:
        DataError: it does not exist.
    """
    if path.startswith(SKLEARN_PREFIX):
        return f"{printable(path)}, made by scikit-learn"
    return f"{printable(path)}, a data set of the hub" if local_path(path, base, DataError) is None else None


def _nonlocal_or_missing(path: str, base: Path) -> str | None:
    try:
        return _nonlocal_source(path, base)
    except DataError:
        # Missing data is already reported as a fault of the profile.
        return f"{printable(path)}, which does not exist"


def _declared_data(source: ProfileSource, profile: Profile | None) -> tuple[DataSpec, str, int] | None:
    """Return `data` section, task and seed, even if the profile is wrong elsewhere; None if the section is wrong."""
    if profile is not None:
        return profile.data, profile.task, profile.seed
    task = source.values.get("task")
    try:
        if task not in task_names():
            return None
        return validate_data(source.values.get("data"), task), task, 0
    except ValidationError:
        return None


def _data_facts(spec: DataSpec, splits: Splits, task: str) -> Iterator[str]:
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    counts = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
    yield f"data: {printable(spec.path)}: {counts}"
    if task_kind(task).items == "text" and not any("repeat" in note for note in splits.notes):
        repeated = sum(len(part) - len(set(map(hash, part.texts))) for part in parts.values())
        if repeated:
            yield f"{repeated} of these texts occur more than once"
    if splits.labels:
        labels = Counter(int(label) for part in parts.values() for label in part.labels)
        names = [f"{splits.labels[label]} {count}" for label, count in labels.most_common(_MAX_LABELS)]
        more = len(labels) - len(names)
        yield f"labels: {', '.join(names)}" + (f" and {more} more" if more > 0 else "")
    if task_kind(task).items == "image" and any(len(part) > SAMPLE_SIZE for part in parts.values()):
        yield f"at most about {SAMPLE_SIZE} images of each split were opened"


def _examine_models(profile: Profile, files: ModelFiles, result: Examination) -> None:
    for _, model, _ in named_models(profile):
        folder = files.folder(model)
        if model.startswith(CODE_PREFIX):
            result.unchecked.append(f"{printable(model)}, {_CODE_NOTE}")
        elif model.startswith(CONFIG_PREFIX):
            decoder = decoder_of(model)
            result.checked.append(f"model: {decoder.description}")
            if not files.is_local(model):
                result.unchecked.append(f"{printable(str(decoder.tokenizer))}, a tokenizer of the hub")
        elif folder is None:
            result.unchecked.append(f"{printable(model)}, a model of the hub")
        else:
            sizes = encoder_sizes(files.config(model))
            model_type, tokenizer_kind = files.model_type(model), vocabulary_kind(model, files)
            description = [
                model_type or ("a GGUF file" if folder.suffix.lower() == GGUF else "a module"),
                *([f"{sizes.layers} layers of width {sizes.hidden}"] if sizes else []),
                *([f"a {tokenizer_kind} tokenizer"] if tokenizer_kind else []),
            ]
            result.checked.append(f"model: {printable(model)}: {', '.join(description)}")
    if profile.teacher.adapter is not None:
        result.checked.append(f"adapter: {printable(profile.teacher.adapter)}")


def _examine_code(code: str, path: KeyPath, source: ProfileSource, result: Examination) -> None:
    try:
        module_file(code, source.base)
        result.unchecked.append(f"{printable(code)}, {_CODE_NOTE}")
    except ModelError as error:
        result.faults.append(_fault(source, path, error))


def _head_faults(
    profile: Profile, source: ProfileSource, splits: Splits, files: ModelFiles
) -> Iterator[Fault]:
    """Yield the mismatches between the labels of the data and the heads of the models."""
    paths = {model: path for path, model, _ in named_models(profile)}
    for spec, task in model_sources(build_plan(profile)):
        if spec.model.startswith(CODE_PREFIX) or files.is_local(spec.model):
            try:
                check_teacher(spec, splits.labels, source.base, allow_code=True, task=task, files=files)
            except CompressError as error:
                yield _fault(source, paths.get(spec.model, ("teacher", "model")), error)


def _fault(source: ProfileSource, path: KeyPath, error: CompressError) -> Fault:
    """Convert an error into a fault at its own profile key or file location, else at `path`."""
    message = error.message if error.hint is None else f"{error.message}\n  {error.hint}"
    where = error.where or ""
    if where.split(".")[0] in ("data", "teacher", "passes") and " " not in where and "/" not in where:
        return source.fault(tuple(where.split(".")), message, error.code, error.exit_code)
    if not where or where == ".".join(map(str, path)):
        return source.fault(path, message, error.code, error.exit_code)
    name, _, line = where.rpartition(":")
    if line.isdecimal():
        return Fault(name, int(line), "", message, error.code, error.exit_code)
    return source.fault(path, f"{where}: {message}", error.code, error.exit_code)
