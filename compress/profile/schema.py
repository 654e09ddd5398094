"""Schema of the profile, the YAML file in which a user configures a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from compress.core.disk.source_uris import CONFIG_PREFIX
from compress.core.plugins import import_object
from compress.core.spec import HubName, PassSpecBase, Positive, Seconds, Seed, Side, Spec
from compress.passes.contract import PassSpec
from compress.profile.device import LOCAL_DEVICES, SSH, checked_device, is_ssh, parse_ssh
from compress.profile.pass_entries import PassEntry
from compress.profile.specs.budget import BudgetSpec, TaskBudget
from compress.profile.specs.decoder import DecoderSpec
from compress.profile.specs.generate import GenerateSpec
from compress.profile.specs.preprocess import PreprocessSpec
from compress.profile.specs.training import FinetuneSpec
from compress.profile.specs.unlabeled import Encoding, Separator, UnlabeledSpec
from compress.tasks.table import task_kind, task_names, users_of_keys

Device = Annotated[
    str,
    AfterValidator(checked_device),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(LOCAL_DEVICES), "type": "string"},
                {"pattern": f"^{SSH}.", "type": "string"},
            ]
        }
    ),
]
if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[task_names()]


DEFAULT_TIME_LIMIT_S = 6 * 3600.0
"""Seconds that a job may take where no target says otherwise."""


class SplitsSpec(PassSpecBase):
    """The training, validation and test splits: the name of an existing split (`validation`), or for the last two the
    fraction of the training split to hold out (`0.2`)."""

    train: str = "train"
    """Name of the training split, from which fractions are taken."""
    validation: str | Annotated[float, Field(gt=0, lt=1)] | None = None
    """Name of the split, or fraction of the distinct examples of `train`; unset: the split `validation` if there is
    one, else 0.1."""
    test: str | Annotated[float, Field(gt=0, lt=1)] | None = None
    """Name of the split, or fraction of the distinct examples of `train`; unset: the split `test` if there is one, else
    0.2."""


class DataSpec(Spec):
    """Where the examples come from and how they are read."""

    path: Annotated[str, Field(min_length=1)]
    """A hub id, `package://name/folder`, a csv, tsv, json, jsonl or parquet file, a folder with such files named
    `train`, `validation` and `test`, a folder of texts or images with one sub-folder per class, or
    `sklearn://digits`."""
    name: HubName | None = None
    """Configuration of a hub data set (`sst2` of `glue`), needed if it has several."""
    revision: HubName | None = None
    """Commit or tag of a hub data set; unset: its main branch."""
    separator: Separator | None = None
    """Field separator of csv and tsv files (`";"`, `"\\t"`); unset: detected from the first rows of each file."""
    encoding: Encoding | None = None
    """Encoding of text files (`cp1252`, `gbk`, `shift_jis`, `utf-16`); unset: detected from the files, UTF-8 first."""
    text_column: str = "text"
    """Column with the text."""
    image_column: str = "image"
    """Column with the image, in a hub data set or parquet file."""
    image_size: tuple[Side, Side] | None = None
    """[height, width] in pixels that images are resized to; unset: the size in the teacher's files, else that of the
    training images (their median height and width if they differ). Excludes `preprocess`."""
    preprocess: PreprocessSpec | None = None
    """How images become the inputs of a model whose files do not say so. Required if such a model is used without
    training on the data; must not contradict the model's files."""
    unlabeled: UnlabeledSpec | None = None
    """Additional examples without labels, which the teacher labels. Those that also occur in the training, validation
    or test split are dropped."""
    label_column: str = "label"
    """Column with the label: a name, or an integer that `labels` or the data set may name."""
    labels: tuple[str, ...] | None = None
    """Classification only: names of the labels, in the order of the model's outputs. Integer labels are indices into
    them, from 0, unless the names are those integers (`["1", "2"]`); string labels must be among them. Unset: the names
    in the data set, else the labels themselves."""
    splits: SplitsSpec = SplitsSpec()
    """Which examples are for training, validation and test."""
    max_length: Annotated[int, Field(ge=2, le=8192)] = 128
    """Maximum length of a text in tokens, special tokens included. Longer texts are truncated; for language models they
    are cut into windows of this length."""

    MEASUREMENT_KEYS: ClassVar[tuple[str, ...]] = ()
    """Keys that affect only what is measured, not the models that are built."""
    SCORING_KEYS: ClassVar[tuple[str, ...]] = ()
    """Keys that affect how the test split is scored, other than its content."""

    @property
    def existing_unlabeled(self) -> UnlabeledSpec | None:
        """`unlabeled`, if it reads existing examples; None otherwise."""
        return None if self.unlabeled is None or self.unlabeled.generate is not None else self.unlabeled

    @property
    def generate_spec(self) -> GenerateSpec | None:
        """Settings of unlabeled examples that a model writes; None if there are none."""
        return None if self.unlabeled is None else self.unlabeled.generate

    @property
    def continues_texts(self) -> bool:
        """Whether the examples are plain texts to continue, rather than prompts with answers."""
        return False

    @property
    def is_chat(self) -> bool:
        """Whether the prompts are conversations."""
        return False

    def scoring_settings(self) -> dict[str, Any]:
        """Return the settings in `SCORING_KEYS` that differ from their defaults."""
        settings = self.model_dump(mode="json", exclude_defaults=True)
        return {name: settings[name] for name in self.SCORING_KEYS if name in settings}

    def scoring_files(self, base: Path) -> tuple[Path, ...]:
        """Return the user's files, other than `code`, that take part in scoring; `base` is the profile's folder."""
        return ()

    def check(self, base: Path, *, allow_code: bool) -> None:
        """Refuse settings that cannot be scored here, or would run code without permission; nothing of it is run.

        Raises:
            CompressError: what is refused, and why.
        """

    def code(self) -> tuple[str, ...]:
        """Return the `python:module:function` names in this section."""
        return ()

    @model_validator(mode="after")
    def _check_image_size(self) -> DataSpec:
        if self.image_size is not None and self.preprocess is not None:
            raise ValueError("`preprocess` already sets the image size: leave out `image_size`")
        return self


def data_spec(task: str) -> type[DataSpec]:
    """Return the schema of a task's `data` section: the keys of every task, and its own."""
    return cast(type[DataSpec], import_object(task_kind(task).keys))


def validate_data(section: Any, task: str) -> Any:
    """Validate the `data` section of a task. Keys of other tasks are dropped: `key_faults` reports them.

    Raises:
        ValidationError: it is invalid.
    """
    foreign = users_of_keys().keys() - task_kind(task).uses.keys()
    if isinstance(section, dict):
        section = {key: value for key, value in section.items() if f"data.{key}" not in foreign}
    return data_spec(task).model_validate(section)


def _validate_for_task(value: Any, info: ValidationInfo) -> Any:
    task = info.data.get("task")
    return value if task is None else validate_data(value, task)


TaskData = Annotated[SerializeAsAny[DataSpec], BeforeValidator(_validate_for_task)]
"""The section `data`; a field of this type must follow the field `task`."""


class TeacherSpec(Spec):
    """The model to compress."""

    config: DecoderSpec | None = None
    """Language models only: instead of `model`, a decoder that is created with random weights and trained by
    `finetune`."""
    model: str = Field(default="", validate_default=True)
    """Required without `config`: a hub id, a local folder, `package://name/folder`, a GGUF file (language models), or
    `python:module:function` (needs `--allow-code`). The function returns a `torch.nn.Module` or (module, labels) for
    images, and (model, tokenizer) of transformers for texts."""
    revision: HubName | None = None
    """Commit or tag of a hub model; unset: its main branch."""
    adapter: Annotated[str, Field(min_length=1)] | None = None
    """Language models only: a peft folder (a path or `package://name/folder`) with a LoRA adapter, which is merged into
    the weights of `model` before anything else."""
    labels: tuple[str, ...] | None = None
    """Names of the outputs of the model's head, in order; needed where its config does not name them."""
    finetune: FinetuneSpec | None = None
    """Train the model on the data first; unset: use it as it is, which for classification needs a head with the labels
    of the data. Not for sentence embedding."""
    pooling: Literal["mean", "cls"] | None = None
    """Sentence embedding: pool token embeddings by their mean, or take that of the first token (`cls`); unset: as the
    model's files say, else `mean`."""

    @field_validator("model")
    @classmethod
    def _check_model(cls, value: str, info: ValidationInfo) -> str:
        config: DecoderSpec | None = info.data.get("config")
        if config is None:
            if not value and "config" in info.data:
                raise PydanticCustomError("missing", "missing")
            if value.startswith(CONFIG_PREFIX):
                raise ValueError("a model is described by `config`, not by its name")
            return value
        if value and not value.startswith(CONFIG_PREFIX):
            raise ValueError("`model` names a model and `config` describes one: give one of the two")
        return CONFIG_PREFIX + config.model_dump_json(exclude_defaults=True)

    @model_validator(mode="after")
    def _check_config(self) -> TeacherSpec:
        if self.config is not None and self.finetune is None:
            raise ValueError("a model that `config` describes has random weights: add `finetune` to train it")
        if self.config is not None and self.adapter is not None:
            raise ValueError("`adapter` is for a trained model, and `config` describes an untrained one")
        return self


class TargetSpec(Spec):
    """Where the model will run."""

    name: str | None = None
    """Name in reports; unset: made of device, runtime and threads (`cpu-onnxruntime-1t`)."""
    device: Device = "cpu"
    """`cpu` or `cuda` of this machine, or another machine as `ssh://user@host[:port]`, whose CPU is measured."""
    runtime: Literal["onnxruntime", "torch"] = "onnxruntime"
    """Runtime that executes the model; `torch` on this machine only."""
    threads: Annotated[int, Field(ge=1, le=4096)] = 1
    """CPU threads per inference, as timed; language models are scored on all cores."""
    batch_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1,)
    """Batch sizes to time; accuracy and memory are measured at the first."""
    sequence_lengths: tuple[Positive, ...] = ()
    """Fixed sequence lengths to time, in tokens, in addition to the real lengths of the data. For language models: the
    prompt lengths to time; none: 128. Not for images."""
    cores: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    """CPU only: indices of the cores to pin the process to; unset: no pinning."""
    memory_limit_mb: Positive | None = None
    """CPU only: limit of the peak memory of a process that loads and runs the model, runtime included, in MB (10^6
    bytes). The run fails if the deployed model exceeds it; rows of earlier steps that do are marked."""
    time_limit_s: Seconds = DEFAULT_TIME_LIMIT_S
    """Seconds after which a job there (scoring one model, timing it or measuring its memory) is ended as hung; the run
    then fails."""
    python: str = "python3"
    """Over ssh: Python interpreter on the device (3.9 or newer, with numpy and onnxruntime); `~/` is the home folder
    (`~/venv/bin/python`)."""
    folder: str | None = None
    """Over ssh: existing folder on the device for the work folder; unset: the device's temporary folder."""
    keep: bool = False
    """Over ssh: keep the work folder on the device, for inspection."""

    @model_validator(mode="after")
    def _check_device_keys(self) -> TargetSpec:
        remote = is_ssh(self.device)
        if remote and self.runtime == "torch":
            raise ValueError(
                "a device over ssh is measured with onnxruntime; torch runs on this machine only"
            )
        for key in ("python", "folder", "keep"):
            if not remote and key in self.model_fields_set:
                raise ValueError(f"`{key}` is for a device over ssh, and this one is {self.device}")
        for key in ("cores", "memory_limit_mb"):
            if self.device == "cuda" and getattr(self, key) is not None:
                raise ValueError(f"`{key}` is for CPUs, and this device is cuda")
        for key in ("cores", "batch_sizes", "sequence_lengths"):
            listed = getattr(self, key) or ()
            if len(set(listed)) < len(listed):
                raise ValueError(
                    f"`{key}` names {next(one for one in listed if listed.count(one) > 1)} twice"
                )
        for key, path in (("python", self.python), ("folder", self.folder)):
            if path is not None and (path[:1] in ("", "-") or not path.isprintable()):
                raise ValueError(f"`{key}`: {path!r} is not a path")
        return self

    @property
    def label(self) -> str:
        """The target's name in reports."""
        where = parse_ssh(self.device).host if is_ssh(self.device) else self.device
        return self.name or f"{where}-{self.runtime}-{self.threads}t"


class MeasureSpec(PassSpecBase):
    """How latency and memory are measured."""

    examples: Positive = 100
    """Number of test examples to measure latency and memory on, drawn by the profile's `seed`."""
    min_seconds: Annotated[float, Field(gt=0)] = 2.0
    """Minimum time in seconds to time each pair of baseline and model at each batch size."""
    min_rounds: Positive = 30
    """Minimum number of rounds for each pair and batch size, in which baseline and model alternate."""
    patience_s: Annotated[float, Field(ge=0)] = 60.0
    """Total seconds that a run may spend on repeating timings disturbed by other processes. Timings that remain
    disturbed are marked, and no claim about speed is based on them."""

    def identity(self) -> dict[str, Any]:
        """Return the settings that identify a measurement, as plain JSON values; `patience_s` is not one of them."""
        return self.model_dump(mode="json", exclude={"patience_s"})


class TrainSpec(PassSpecBase):
    """Distributed training."""

    processes: Positive = 1
    """Processes per machine, launched by `torch.distributed.run`; each takes its share of every batch."""
    nodes: Positive = 1
    """Number of machines; the same command is run on each."""
    rendezvous: str | None = None
    """`host:port` where the machines meet; required if `nodes` is above 1."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """`ddp`: each process holds the whole model; `fsdp`: its weights are sharded over the processes."""

    @model_validator(mode="after")
    def _check_rendezvous(self) -> TrainSpec:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError("nodes needs `rendezvous`: host:port of one of them")
        if self.nodes == 1 and self.rendezvous is not None:
            raise ValueError("`rendezvous` is where several machines meet: set `nodes` too, or leave it out")
        return self

    @property
    def world_size(self) -> int:
        """Number of processes on all machines."""
        return self.processes * self.nodes


class ReportSpec(PassSpecBase):
    """What the report shows."""

    excerpts: bool = True
    """Show texts: excerpts of test examples whose prediction the deployed model changed, prompts with answers
    (`data.answers`) and samples of generated training texts. `false`: no texts; changed predictions are listed by their
    index in the test split."""


class Profile(Spec):
    """A compression job: data, teacher, passes, targets, budget."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name of the run and of its report folder."""
    task: TaskName
    """Task of the model."""
    seed: Seed = 0
    """Seed of splits, training, augmentation and the choice of examples to time."""
    data: TaskData
    """Where the examples come from and how they are read."""
    teacher: TeacherSpec
    """The model to compress."""
    passes: Annotated[tuple[PassEntry, ...], Field(min_length=1)]
    """Passes applied to it, in this order."""
    targets: Annotated[tuple[TargetSpec, ...], Field(min_length=1)] = (TargetSpec(),)
    """Where the model will run; every step is measured on each target."""
    budget: TaskBudget = BudgetSpec()
    """Limits that the result must meet."""
    measure: MeasureSpec = MeasureSpec()
    """How latency and memory are measured."""
    report: ReportSpec = ReportSpec()
    """What the report shows."""
    train: TrainSpec = TrainSpec()
    """Distributed training. It affects speed and, through the order of floating-point sums, the last digits of
    results."""

    @model_validator(mode="after")
    def _check_target_names(self) -> Profile:
        names = [target.label for target in self.targets]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise ValueError(f"two targets are called {duplicates[0]!r}; give each a `name`")
        return self

    @property
    def specs(self) -> tuple[PassSpec, ...]:
        """The specs of the passes, in order."""
        return tuple(entry.body for entry in self.passes)
