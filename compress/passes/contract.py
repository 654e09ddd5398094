"""The contract of a pass: its spec, and all that other packages know of it.

Implementations are referenced by name, not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

from compress.core.forms import Form
from compress.core.numerics import Precision, Processor
from compress.core.records import Role
from compress.core.spec import PassSpecBase, Spec
from compress.profile.specs.student import StudentSpec

InputRole = Literal["model", "teacher"]
UNLABELED = "unlabeled"
"""Role of the step that generates `data.unlabeled` with a model; an input of every step that reads unlabeled data."""
Keys = tuple[str | int, ...]
"""Path of keys in a profile, relative to the pass."""


@dataclass(frozen=True)
class NamedModel:
    """A model that a pass names: its place in the profile, source and revision, and whether it keeps its own head."""

    key: Keys
    model: str
    keeps_head: bool = False
    revision: str | None = None


class PassSpec(PassSpecBase):
    """The body of a pass: its settings, the forms it accepts and produces."""

    kind: ClassVar[str]
    """Name of the pass in profiles."""
    accepts: ClassVar[str]
    """Description of the accepted inputs."""

    def needs(self) -> str:
        """Return a description of the inputs that this spec accepts."""
        return self.accepts

    def fits(self, form: Form) -> bool:
        """Return whether the pass accepts this form."""
        raise NotImplementedError

    def produces(self, form: Form) -> Form:
        """Return the form of the result."""
        raise NotImplementedError

    def students(self) -> Sequence[tuple[Keys, StudentSpec]]:
        """Return the students that it trains to replace the input model, each derived from the previous one."""
        return ()

    def named_models(self) -> Sequence[NamedModel]:
        """Return the models that it names in addition to the profile's model."""
        return ()

    def code(self) -> tuple[str, ...]:
        """Return the user functions, `python:module:function`, that its step calls."""
        return ()

    @property
    def generates_texts(self) -> bool:
        """Whether its step generates texts, so that it needs to know which of them occur in evaluation splits."""
        return False

    def trimming_key(self) -> Keys | None:
        """Return the key that asks for a smaller vocabulary; None: the vocabulary is kept."""
        return None

    def removal_keys(self, family: str) -> Sequence[Keys]:
        """Return the keys that remove parts of a model of this family (`bert`), so that its layout must be known."""
        return ()

    def onnx_fault(self) -> str | None:
        """Return why its result cannot be exported to ONNX; None if it can."""
        return None

    def returns_ensemble(self) -> bool | None:
        """Return whether its result is an average of several models; None: the same as its input."""
        return None

    def ensemble_fault(self) -> tuple[str, str] | None:
        """Return the key that rules out an average of models as input, and why, with `{}` for its origin."""
        return None

    @property
    def depends_on_timing(self) -> bool:
        """Whether the result depends on times measured on the first target that runs onnxruntime."""
        return False

    def training_precision(self) -> Precision:
        """Return the training precision that is asked for."""
        return "auto"

    def machine_facts(self) -> dict[str, object]:
        """Return what the result depends on of this machine, besides training numerics, as plain JSON values."""
        return {}

    @property
    def depends_on_processors(self) -> bool:
        """Whether the target processors determine something that the profile leaves open."""
        return False

    def resolved_for(self, processors: Sequence[Processor]) -> Self:
        """Return this spec with that determined: one processor that needs it is enough."""
        return self


@dataclass(frozen=True)
class StepKind:
    """How the steps of a kind are run, and what their results depend on.

    `run` and `trial` are `module:function`s of a `StepContext`; `trial` detects on the untrained architecture
    that the step cannot be done. `libraries` are the distributions whose versions the result depends on;
    `reads_data` and `trains`: whether it depends on data, on seed and numerics. Only a step that
    `reads_unlabeled` gets `data.unlabeled`, and only one that `generates_texts` learns which texts duplicate
    held-out ones. `open_form_fields`: fields of the result's form that are known only after the step.
    `architecture_from`: role of the input whose architecture the result has; None: its own. The training curves of a
    step that `is_preparation` another one are reported with that one.
    """

    run: str
    libraries: tuple[str, ...]
    reads_data: bool = True
    reads_unlabeled: bool = False
    generates_texts: bool = False
    trains: bool = False
    trial: str | None = None
    open_form_fields: tuple[str, ...] = ("structure",)
    architecture_from: str | None = None
    is_preparation: bool = False


class PlanBuilder(Protocol):
    """Interface to which a pass adds its steps. Steps are identified by name, which also stands for their results."""

    @property
    def devices(self) -> Collection[tuple[str, str]]:
        """Device and runtime of each target."""

    def form(self, step: str) -> Form:
        """Return the form of a step's result."""

    def add(self, name: str, kind: str, spec: Spec, inputs: Mapping[str, str], form: Form) -> str:
        """Add a step unless one of that name exists; return its name."""

    def add_row(self, name: str, role: Role, step: str, device: str | None = None) -> None:
        """Report a step's result, measured on every target or on those of one device."""

    def onnx_step(self, step: str) -> str:
        """Return the step whose result is the ONNX form: the step itself, or one that exports its result."""

    def torch_step(self, step: str) -> str:
        """Return the step with the torch model of a result: itself, or the last one before the export to ONNX."""

    def fetch_step(self, name: str, model: str, revision: str | None) -> str:
        """Return the step that fetches a model, whose head is replaced by one for the data's labels."""

    def teacher_step(
        self,
        name: str,
        model: str,
        revision: str | None,
        labels: tuple[str, ...] | None,
        finetune: Spec | None,
    ) -> str:
        """Return the step that fetches an additional teacher, or the one that fine-tunes it afterwards."""


@dataclass(frozen=True)
class PassKind:
    """Registration of a pass for the rest of the package. Heavy code is referenced as `module:function`."""

    spec: type[PassSpec]
    """Class of its specs."""
    steps: Mapping[str, StepKind]
    """Its step kinds by name: that of the pass, or `pass.something`."""
    body: Any = None
    """Type of a profile entry, if that is a union of specs."""
    parse_leniently: Callable[[Mapping[str, Any]], PassSpec] | None = None
    """Builds a spec from an invalid body, with the keys that determine its place in the order; None: use the
    defaults."""
    inputs: tuple[InputRole, ...] = ("model",)
    """Inputs of its step: the model, exported if the result is ONNX, and the teacher."""
    plan: Callable[[PlanBuilder, str, PassSpec, str, str], str] | None = None
    """Adds its steps if there are several: from a name, the spec and the steps of the model and the teacher to
    the step of the result."""
    add_baselines: Callable[[PlanBuilder, str], None] | None = None
    """Adds baseline rows to which every pass is compared, from the step of the teacher."""
    faults: str | None = None
    """From a `PassCheck` to the invalid keys below the pass, each with the reason."""
    warnings: str | None = None
    """From a `PassCheck` to warnings about likely poor results, one sentence each."""
    target_warnings: str | None = None
    """From the profile and its resolved targets to warnings shown before a run, one sentence each."""
    parameters_after: str | None = None
    """From a spec and the folder of a model to the number of parameters after the pass; None if only running it
    tells."""
    config_after: str | None = None
    """From a spec and the config of its input model to the config of its result, None if only running it tells;
    unset: sizes do not change."""
    told: tuple[str, ...] = ()
    """The facts of its steps that its report sections cover."""
    sections: tuple[str, ...] = ()
    """Functions from a `RunRecord` to a section of the report."""
    lines: str | None = None
    """From a `RunRecord` to lines for a terminal."""
    taught: str | None = None
    """From a `RunRecord` to rows of the report's table of training."""


TORCH = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
"""Distributions that torch models depend on."""
ONNX = ("onnx", "onnxruntime", "numpy")
"""Distributions that ONNX files depend on."""
