"""The profile: what the user asked for."""

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

from compress.core.disk.package_paths import CONFIG
from compress.core.plugins import named
from compress.core.spec import HubName, PassSpecBase, Positive, Side, Spec
from compress.passes.contract import PassSpec
from compress.profile.device import LOCAL, SSH, checked_device, is_ssh, parse_ssh
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
        {"anyOf": [{"enum": list(LOCAL), "type": "string"}, {"pattern": f"^{SSH}.", "type": "string"}]}
    ),
]
if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[task_names()]


class SplitsSpec(PassSpecBase):
    """The three splits: the name of one that exists (`validation`), or the fraction to make (`0.2`)."""

    train: str = "train"
    """Name of the training split of the data; what is made for the others is taken from it."""
    validation: str | Annotated[float, Field(gt=0, lt=1)] | None = None
    """Name, or fraction of the distinct texts of `train`; unset: the split `validation` if there is one, else 0.1."""
    test: str | Annotated[float, Field(gt=0, lt=1)] | None = None
    """Name, or fraction of the distinct texts of `train`; unset: the split `test` if there is one, else 0.2."""


class DataSpec(Spec):
    """Where the examples come from."""

    path: Annotated[str, Field(min_length=1)]
    """A hub id, `package://name/folder`, a csv / jsonl / parquet file, a folder with files `train`,
    `validation` and `test` of those kinds, a text or image folder with one sub-folder a class, or `sklearn://digits`."""
    name: HubName | None = None
    """Configuration of a hub data set (`sst2` of `glue`)."""
    revision: HubName | None = None
    """Commit or tag of a hub data set."""
    separator: Separator | None = None
    """The character between the fields of csv and tsv files (`";"`, `"\\t"`); unset: as their first rows tell."""
    encoding: Encoding | None = None
    """How files of text are encoded (`cp1252`, `gbk`, `shift_jis`, `utf-16`); unset: as each file itself tells, UTF-8
    first."""
    text_column: str = "text"
    """Column that holds the text."""
    image_column: str = "image"
    """Column that holds the image of a hub or parquet data set."""
    image_size: tuple[Side, Side] | None = None
    """Height and width that images are scaled to; unset: what the teacher's files say, else the size of the training
    images, or its median where they have several."""
    preprocess: PreprocessSpec | None = None
    """How images become the inputs of a model whose files do not say it: needed where such a model is used as it
    stands, without training on the data."""
    unlabeled: UnlabeledSpec | None = None
    """Further examples that the teacher labels; those that stand in validation or test are dropped."""
    label_column: str = "label"
    """Column that holds the label: its name, or its number when `labels` or the data set name the numbers."""
    labels: tuple[str, ...] | None = None
    """Names of the labels, where the data holds numbers: 0 is the first."""
    splits: SplitsSpec = SplitsSpec()
    """Which examples train, validate and test."""
    max_length: Annotated[int, Field(ge=2, le=8192)] = 128
    """Longer texts are cut to so many tokens."""

    MEASURED: ClassVar[tuple[str, ...]] = ()
    """Keys that say what is measured, and nothing of what a model is made of."""
    SCORED_BY: ClassVar[tuple[str, ...]] = ()
    """Keys that decide how the test split is scored, beside what is in it."""

    @property
    def further(self) -> UnlabeledSpec | None:
        """Examples without labels that there are."""
        return None if self.unlabeled is None or self.unlabeled.generate is not None else self.unlabeled

    @property
    def generated(self) -> GenerateSpec | None:
        """Those that a model writes."""
        return None if self.unlabeled is None else self.unlabeled.generate

    @property
    def goes_on(self) -> bool:
        """Whether the examples are texts that are gone on with, and hold no prompts with answers."""
        return False

    @property
    def converses(self) -> bool:
        """Whether the prompts are conversations."""
        return False

    def scored_by(self) -> dict[str, Any]:
        """Those that differ from their defaults."""
        said = self.model_dump(mode="json", exclude_defaults=True)
        return {name: said[name] for name in self.SCORED_BY if name in said}

    def judging(self, base: Path) -> tuple[Path, ...]:
        """Files of the user, beside `code`, by which models are scored; `base` is the profile's folder."""
        return ()

    def check(self, base: Path, *, allow_code: bool) -> None:
        """Refuse what cannot be scored here, or runs code that nobody allowed; nothing of it is run.

        Raises:
            CompressError: what and why.
        """

    def code(self) -> tuple[str, ...]:
        """The `python:module:function` that it names."""
        return ()

    @model_validator(mode="after")
    def _one_size(self) -> DataSpec:
        if self.image_size is not None and self.preprocess is not None:
            raise ValueError("`preprocess` has the size of images already: leave out `image_size`")
        return self


def data_spec(task: str) -> type[DataSpec]:
    """The keys that a task has for its data: those of all, and its own."""
    return cast(type[DataSpec], named(task_kind(task).keys))


def data_of(written: Any, task: str) -> Any:
    """The section `data` of a task. What other tasks alone have a use for is left out: `key_faults` tells of it.

    Raises:
        ValidationError: it is wrong.
    """
    foreign = users_of_keys().keys() - task_kind(task).uses.keys()
    if isinstance(written, dict):
        written = {key: value for key, value in written.items() if f"data.{key}" not in foreign}
    return data_spec(task).model_validate(written)


def _by_its_task(value: Any, info: ValidationInfo) -> Any:
    task = info.data.get("task")
    return value if task is None else data_of(value, task)


TaskData = Annotated[SerializeAsAny[DataSpec], BeforeValidator(_by_its_task)]
"""The section `data`, which stands behind `task`."""


class TeacherSpec(Spec):
    """The model to compress."""

    config: DecoderSpec | None = None
    """Instead of `model`: a decoder that is made here, with random weights, and trained by `finetune`."""
    model: str = Field(default="", validate_default=True)
    """A hub id, a local folder, `package://name/folder`, or `python:module:function` (needs `--allow-code`). The
    function returns a module, or (module, labels), for images; (model, tokenizer) of transformers for texts."""
    revision: HubName | None = None
    """Commit or tag of a hub model."""
    adapter: Annotated[str, Field(min_length=1)] | None = None
    """A folder of peft (a path or `package://name/folder`) whose LoRA adapter is added to the weights of `model` before
    anything else is done."""
    labels: tuple[str, ...] | None = None
    """Names of the outputs of the model's head in order, where its config does not name them."""
    finetune: FinetuneSpec | None = None
    """Train the model on the data first; unset: it is a classifier of these labels already."""
    pooling: Literal["mean", "cls"] | None = None
    """Sentence embedding: how token vectors become one; unset: what the model's folder says, else the mean."""

    @field_validator("model")
    @classmethod
    def _named_or_described(cls, value: str, info: ValidationInfo) -> str:
        described: DecoderSpec | None = info.data.get("config")
        if described is None:
            if not value and "config" in info.data:
                raise PydanticCustomError("missing", "missing")
            if value.startswith(CONFIG):
                raise ValueError("a model is described by `config`, not by its name")
            return value
        if value and not value.startswith(CONFIG):
            raise ValueError("`model` names a model and `config` describes one: give one of the two")
        return CONFIG + described.model_dump_json(exclude_defaults=True)

    @model_validator(mode="after")
    def _is_trained(self) -> TeacherSpec:
        if self.config is not None and self.finetune is None:
            raise ValueError("a model that `config` describes has random weights: add `finetune` to train it")
        if self.config is not None and self.adapter is not None:
            raise ValueError(
                "`adapter` corrects a model that was trained, and `config` describes one that was not"
            )
        return self


class TargetSpec(Spec):
    """Where the model will run."""

    name: str | None = None
    """What reports call the target; unset: device and runtime."""
    device: Device = "cpu"
    """A processor of this machine, or another machine as `ssh://user@host[:port]`, whose CPU is measured."""
    runtime: Literal["onnxruntime", "torch"] = "onnxruntime"
    """What loads the model."""
    threads: Annotated[int, Field(ge=1, le=4096)] = 1
    """Threads that one inference may use."""
    batch_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1,)
    """Batch sizes timed; accuracy is measured at the first one."""
    sequence_lengths: tuple[Positive, ...] = ()
    """Fixed lengths timed beside the real lengths of the data."""
    cores: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    """CPU only: numbers of the cores that the model is kept on; unset: the system chooses."""
    memory_limit_mb: Positive | None = None
    """CPU only: memory that a process may hold at its peak which loads and runs the model, runtime included, MB of
    10^6 bytes; the deployed model must fit; rows before it that do not are marked."""
    python: str = "python3"
    """Over ssh: the device's Python (3.9 or newer) that has numpy and onnxruntime; a path may start at the home folder
    (`~/venv/bin/python`)."""
    folder: str | None = None
    """Over ssh: an existing folder of the device in which the work folder is made; unset: its temporary folder."""
    keep: bool = False
    """Over ssh: leave the work folder on the device, to look into it."""

    @model_validator(mode="after")
    def _fits_the_device(self) -> TargetSpec:
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
        if self.cores is not None and len(set(self.cores)) < len(self.cores):
            raise ValueError("`cores` names a core twice")
        for key, path in (("python", self.python), ("folder", self.folder)):
            if path is not None and (path[:1] in ("", "-") or not path.isprintable()):
                raise ValueError(f"`{key}`: {path!r} is no path")
        return self

    @property
    def label(self) -> str:
        """What reports call the target."""
        where = parse_ssh(self.device).host if is_ssh(self.device) else self.device
        return self.name or f"{where}-{self.runtime}-{self.threads}t"


class MeasureSpec(PassSpecBase):
    """How long and on what to measure."""

    examples: Positive = 100
    """Examples of the test split that latency and memory are measured on, drawn once a seed."""
    min_seconds: Annotated[float, Field(gt=0)] = 2.0
    """Time spent on each pair of models and batch size, at least."""
    min_rounds: Positive = 30
    """Alternated rounds over each pair of models and batch size, at least."""
    patience_s: Annotated[float, Field(ge=0)] = 60.0
    """Seconds that a run may spend in all on timing again what other processes disturbed; what stays disturbed is
    marked, and nothing is claimed of its speed."""

    def identity(self) -> dict[str, Any]:
        """What tells one measurement from another, as plain JSON values: patience does not."""
        return self.model_dump(mode="json", exclude={"patience_s"})


class TrainSpec(PassSpecBase):
    """How training steps are run."""

    processes: Positive = 1
    """Processes on this machine, started by `torch.distributed.run`; each takes its share of every batch."""
    nodes: Positive = 1
    """Machines; each runs the same command."""
    rendezvous: str | None = None
    """`host:port` where the machines meet, for more than one."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Whole copies of the model in each process, or its parts spread over them."""

    @model_validator(mode="after")
    def _meets(self) -> TrainSpec:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError("nodes needs `rendezvous`: host:port of one of them")
        return self

    @property
    def world(self) -> int:
        """Processes on all machines."""
        return self.processes * self.nodes


class ReportSpec(PassSpecBase):
    """What the report shows."""

    excerpts: bool = True
    """The beginnings of test texts whose answer the deployed model changed; `false`: only their places in the split."""


class Profile(Spec):
    """A compression job: data, teacher, passes, targets, budget."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Names the run and the folder of its report."""
    task: TaskName
    """The kind of problem."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds splits, training, augmentation and the choice of latency inputs."""
    data: TaskData
    """Where the examples come from."""
    teacher: TeacherSpec
    """The model to compress."""
    passes: Annotated[tuple[PassEntry, ...], Field(min_length=1)]
    """What is done to it, in this order."""
    targets: Annotated[tuple[TargetSpec, ...], Field(min_length=1)] = (TargetSpec(),)
    """Where it will run; every step is measured on each."""
    budget: TaskBudget = BudgetSpec()
    """Limits that the result must hold."""
    measure: MeasureSpec = MeasureSpec()
    """How long and on what to measure."""
    report: ReportSpec = ReportSpec()
    """What the report shows."""
    train: TrainSpec = TrainSpec()
    """How training steps are run; it changes their speed and, by the order of sums, their last digits."""

    @model_validator(mode="after")
    def _distinct_targets(self) -> Profile:
        names = [target.label for target in self.targets]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two targets are called {twice[0]!r}; give each a `name`")
        return self

    @property
    def specs(self) -> tuple[PassSpec, ...]:
        """The specs of the passes, in order."""
        return tuple(entry.body for entry in self.passes)
