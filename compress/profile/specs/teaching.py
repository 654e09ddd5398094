"""Who teaches, in which stages, and of what a student learns nothing: sections of a distillation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from compress.core.spec import HubName, PassSpecBase, Positive, Spec
from compress.losses.contract import Weight
from compress.losses.table import LossEntry
from compress.profile.specs.training import FinetuneSpec
from compress.profile.specs.writing import OnPolicySpec


class WeightedTeacher(Spec):
    """One of several teachers."""

    model: Annotated[str, Field(min_length=1)] | None = None
    """Where it comes from, as `teacher.model`; unset: the profile's teacher."""
    revision: HubName | None = None
    """Commit or tag of a hub model."""
    labels: tuple[str, ...] | None = None
    """Names of the outputs of its head in order, where its config does not name them."""
    finetune: FinetuneSpec | None = None
    """Train it on the data first."""
    weight: Weight = 1.0
    """Its share in the mean."""


class SelectSpec(PassSpecBase):
    """Learn only where the teacher can be trusted: from those examples, of a language model from those tokens."""

    confidence: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The teacher's highest probability is at least this."""
    right: bool = False
    """And its answer is the label, where there is one; of a token the one that follows."""

    @model_validator(mode="after")
    def _selects(self) -> SelectSpec:
        if self.confidence == 0 and not self.right:
            raise ValueError("nothing is selected: set confidence or right")
        return self


class EmaSpec(PassSpecBase):
    """The teacher is a moving average of the student's own weights (Tarvainen and Valpola 2017)."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """How much of the average stays in a step."""


class OnlineSpec(PassSpecBase):
    """Teacher and student train together, each on the labels and on the other's outputs (Zhang et al. 2018)."""

    weight: Weight = 1.0
    """Factor of the KL to the student in the teacher's loss, beside its labels."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-5
    """Peak learning rate of the teacher."""


class StageSpec(PassSpecBase):
    """One stage of a distillation; what is unset is that of the pass."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] | None = None
    """What reports call it; unset: its number."""
    losses: Annotated[tuple[LossEntry, ...], Field(min_length=1)]
    """Weighted losses, summed."""
    data: Literal["train", "unlabeled", "all"] | None = None
    """Which examples: those of the training split, those of `data.unlabeled`, or both; unset: as the pass."""
    epochs: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Passes over the examples."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak learning rate of AdamW."""
    batch_size: Positive | None = None
    """Examples a step."""
    on_policy: OnPolicySpec | bool | None = None
    """How the student writes itself, or `false`: it does not; unset: as the pass."""

    @field_validator("on_policy")
    @classmethod
    def _says_how(cls, value: OnPolicySpec | bool | None) -> OnPolicySpec | bool | None:
        if value is True:
            raise ValueError("expected how the student writes, as in `{lambda: 0.5}`, or `false`")
        return value
