"""The contract of a pass: its spec, and all else that the rest of the house knows of it. What runs it is named, not
imported."""

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
"""The role of the step that writes `data.unlabeled`, where a model does: an input of every step that is given them."""
Keys = tuple[str | int, ...]
"""A place in a profile, below the pass."""


@dataclass(frozen=True)
class NamedModel:
    """A model that a pass names: where, which, of which commit, and whether it answers with the head that it has."""

    key: Keys
    model: str
    own_head: bool = False
    revision: str | None = None


class PassSpec(PassSpecBase):
    """The body of a pass: what it takes and what it leaves."""

    kind: ClassVar[str]
    """What the profile calls the pass."""
    accepts: ClassVar[str]
    """What it can start from, in words."""

    def needs(self) -> str:
        """What this one can start from, in words."""
        return self.accepts

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        raise NotImplementedError

    def produces(self, form: Form) -> Form:
        """The form of the result."""
        raise NotImplementedError

    def students(self) -> Sequence[tuple[Keys, StudentSpec]]:
        """The models that it trains in the place of the one that it is given, each made from the one before it."""
        return ()

    def named_models(self) -> Sequence[NamedModel]:
        """The models that it names beside that of the profile."""
        return ()

    def code(self) -> tuple[str, ...]:
        """The functions of the user's, `python:module:function`, that its step calls."""
        return ()

    @property
    def makes_up_texts(self) -> bool:
        """Whether its step makes up texts: it is told which of them stand in splits that models are judged by."""
        return False

    def trims(self) -> Keys | None:
        """The key that asks for a smaller vocabulary; None: it stays."""
        return None

    def takes_apart(self, family: str) -> Sequence[Keys]:
        """The keys that cut parts out of a model of this family (`bert`), so that these must be known."""
        return ()

    def never_onnx(self) -> str | None:
        """Why what it leaves cannot become ONNX; None where it can."""
        return None

    def leaves_average(self) -> bool | None:
        """Whether it leaves an average of several models; None: as it found it."""
        return None

    def refuses_average(self) -> tuple[str, str] | None:
        """The key for which it cannot take an average of several models, and why, with `{}` for who leaves it."""
        return None

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
    `trains` say whether data, seed and numerics do, and only a step that `reads_unlabeled` is given `data.unlabeled`,
    only one that `makes_up_texts` is told which texts are copies of those that are held out.
    `open_form` names what of the result's form is known only once it is made. `keeps` is the role of the input whose
    architecture the result has; None: it has one of its own. The training curves of a step that `prepares` another are
    told with it.
    """

    run: str
    libraries: tuple[str, ...]
    reads_data: bool = True
    reads_unlabeled: bool = False
    makes_up_texts: bool = False
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

    def in_torch(self, step: str) -> str:
        """The step whose torch model a result was made of: itself, or the last one before it became ONNX."""

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
    """A pass, said to everything that is not its own folder. Code that is not light is named as `module:function`."""

    spec: type[PassSpec]
    """The class of its specs."""
    steps: Mapping[str, StepKind]
    """The kinds of its steps by name: that of the pass, or `pass.something`."""
    body: Any = None
    """What an entry of a profile takes, where that is a union of specs."""
    roughly: Callable[[Mapping[str, Any]], PassSpec] | None = None
    """The spec of a body that is wrong somewhere, with the keys that its place in the order depends on; None: with its
    defaults."""
    inputs: tuple[InputRole, ...] = ("model",)
    """What its step is given: the model, lowered where the result is ONNX, and the teacher."""
    plan: Callable[[PlanBuilder, str, PassSpec, str, str], str] | None = None
    """Adds its steps where they are not just one: from a name, the spec and the steps of the model and the teacher to
    the step of its result."""
    beside_baseline: Callable[[PlanBuilder, str], None] | None = None
    """Adds rows that every pass is compared with, from the step of the teacher."""
    faults: str | None = None
    """From a `PassCheck` to the keys below the pass that cannot be, each with the reason."""
    warnings: str | None = None
    """From a `PassCheck` to what is likely to disappoint, a sentence each."""
    target_warnings: str | None = None
    """From the profile and its resolved targets to what is said before a run, a sentence each."""
    predicted: str | None = None
    """From a spec and the folder of a model to the parameters that will be left; None where only the pass tells."""
    leaves: str | None = None
    """From a spec and the config of the model that it gets to the config of what it leaves, None where only the pass
    tells; unset: the sizes stay."""
    told: tuple[str, ...] = ()
    """The facts of its steps that its sections tell."""
    sections: tuple[str, ...] = ()
    """Of the report, each from a `RunRecord` to a section."""
    lines: str | None = None
    """From a `RunRecord` to lines for a terminal."""
    taught: str | None = None
    """From a `RunRecord` to rows of the table of how models were taught."""


TORCH = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
"""What models in torch depend on."""
ONNX = ("onnx", "onnxruntime", "numpy")
"""What ONNX files depend on."""
