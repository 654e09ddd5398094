"""Choice of teachers, training stages and selection of examples: sections of a distillation."""

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
    """A model, as in `teacher.model`; unset: the profile's teacher."""
    revision: HubName | None = None
    """Commit or tag of a hub model; unset: its main branch."""
    labels: tuple[str, ...] | None = None
    """Names of the outputs of the model's head, in order; needed where its config does not name them."""
    finetune: FinetuneSpec | None = None
    """Train it on the data first; unset: use it as it is."""
    weight: Weight = 1.0
    """Weight in the average."""


class SelectSpec(PassSpecBase):
    """Learn only from examples, or with language models from tokens, on which the teacher can be trusted. Set at least
    one key."""

    confidence: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Minimum of the teacher's highest probability, at temperature 1."""
    right: bool = False
    """Require the teacher's prediction to equal the label, where there is one; with language models, the next token."""

    @model_validator(mode="after")
    def _check_selection(self) -> SelectSpec:
        if self.confidence == 0 and not self.right:
            raise ValueError("nothing is selected: set confidence or right")
        return self


class EmaSpec(PassSpecBase):
    """The teacher is an exponential moving average of the student's own weights (Tarvainen and Valpola 2017)."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Fraction of the average that is kept in each step, after the optimizer's."""


class OnlineSpec(PassSpecBase):
    """Teacher and student train together, each on the labels and on the other's outputs (Zhang et al. 2018)."""

    weight: Weight = 1.0
    """Weight of the KL divergence from the student in the teacher's loss; the labels have weight 1."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-5
    """Peak learning rate of the teacher."""


class StageSpec(PassSpecBase):
    """One stage of a distillation; unset keys take the values of the pass."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] | None = None
    """Name in reports; unset: its number."""
    losses: Annotated[tuple[LossEntry, ...], Field(min_length=1)]
    """Weighted losses, summed."""
    data: Literal["train", "unlabeled", "all"] | None = None
    """Examples to learn from: the training split, `data.unlabeled`, or both; unset: as in the pass."""
    epochs: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Passes over the examples; unset: as in the pass."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak learning rate of AdamW; unset: as in the pass."""
    batch_size: Positive | None = None
    """Examples per step; unset: as in the pass."""
    on_policy: OnPolicySpec | bool | None = None
    """How the student writes texts itself, or `false`: it does not; unset: as in the pass."""

    @field_validator("on_policy")
    @classmethod
    def _check_on_policy(cls, value: OnPolicySpec | bool | None) -> OnPolicySpec | bool | None:
        if value is True:
            raise ValueError("expected settings such as `{lambda: 0.5}`, or `false`")
        return value
