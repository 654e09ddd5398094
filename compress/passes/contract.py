"""The contract of a pass: its spec, and all else that the rest of the house knows of it. What runs it is named, not
imported."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, Self

from compress.core.forms import Form
from compress.core.numerics import Precision, Processor
from compress.core.records import Role
from compress.core.spec import PassSpecBase, Spec

InputRole = Literal["model", "teacher"]


class PassSpec(PassSpecBase):
    """The body of a pass: what it takes and what it leaves."""

    kind: ClassVar[str]
    """What the profile calls the pass."""
    accepts: ClassVar[str]
    """What it can start from, in words."""

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        raise NotImplementedError

    def produces(self, form: Form) -> Form:
        """The form of the result."""
        raise NotImplementedError

    @property
    def timed(self) -> bool:
        """Whether what is made depends on times measured on the first target that runs onnxruntime."""
        return False

    def asked_precision(self) -> Precision:
        """The precision that its training asks for."""
        return "auto"

    def of_this_machine(self) -> dict[str, object]:
        """What of this machine the result depends on, beside the numerics of training, as plain JSON values."""
        return {}

    @property
    def asks_processors(self) -> bool:
        """Whether the processors that will run the model decide something that the profile leaves open."""
        return False

    def decided_for(self, processors: Sequence[Processor]) -> Self:
        """This spec with that decided: one processor that needs it is enough."""
        return self


@dataclass(frozen=True)
class StepKind:
    """How the steps of a kind are run, and what their results depend on.

    `run` and `trial` are `module:function`s of a `StepContext`; `trial` finds out on the untrained architecture that
    the step cannot be done. `libraries` are the distributions whose versions the result depends on; `reads_data` and
    `trains` say whether data, seed and numerics do. `open_form` names what of the result's form is known only once it
    is made. `keeps` is the role of the input whose architecture the result has; None: it has one of its own. The
    training curves of a step that `prepares` another are told with it.
    """

    run: str
    libraries: tuple[str, ...]
    reads_data: bool = True
    trains: bool = False
    trial: str | None = None
    open_form: tuple[str, ...] = ("structure",)
    keeps: str | None = None
    prepares: bool = False


class PlanBuilder(Protocol):
    """What a pass adds its steps to. Steps are named, and stand for their results."""

    @property
    def devices(self) -> Collection[tuple[str, str]]:
        """Device and runtime of each target."""

    def form(self, step: str) -> Form:
        """The form of a step's result."""

    def add(self, name: str, kind: str, spec: Spec, inputs: Mapping[str, str], form: Form) -> str:
        """Add a step, unless one of that name is there; its name."""

    def row(self, name: str, role: Role, step: str, device: str | None = None) -> None:
        """Report what a step makes, measured on every target or on those of one device."""

    def lowered(self, step: str) -> str:
        """The step that makes the ONNX form of a result: itself, or one that lowers it."""

    def fetched(self, name: str, model: str, revision: str | None) -> str:
        """The step that fetches a model, whose head gives way to one of the data's labels."""

    def taught(
        self,
        name: str,
        model: str,
        revision: str | None,
        labels: tuple[str, ...] | None,
        finetune: Spec | None,
    ) -> str:
        """The step that fetches a further teacher, or the one that trains it after that."""


@dataclass(frozen=True)
class PassKind:
    """A pass: its spec, the kinds of its steps by name, and how it takes part in plans, checks and reports.

    `inputs` are what its step is given: the model, lowered where the result is ONNX, and the teacher. `plan` adds its
    steps where they are not just one (name, spec, step of the model, step of the teacher; the step of its result), and
    `beside_baseline` rows to compare every pass with (step of the teacher). The rest are `module:function`s:
    `faults` (PassCheck -> faults of a valid profile), `warnings` (PassCheck -> sentences), `target_warnings`
    (profile, resolved targets -> sentences, before a run), `predicted` (spec, folder of the model -> parameters that
    will be left, or None).
    """

    spec: type[PassSpec]
    steps: Mapping[str, StepKind]
    inputs: tuple[InputRole, ...] = ("model",)
    plan: Callable[[PlanBuilder, str, PassSpec, str, str], str] | None = None
    beside_baseline: Callable[[PlanBuilder, str], None] | None = None
    faults: str | None = None
    warnings: str | None = None
    target_warnings: str | None = None
    predicted: str | None = None


TORCH = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
"""What models in torch depend on."""
ONNX = ("onnx", "onnxruntime", "numpy")
"""What ONNX files depend on."""
