"""Settings of the distill pass: student, teachers, losses, examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from compress.core.forms import Form, Framework, NumberFormat, Structure
from compress.core.spec import Fraction, Positive, Seed
from compress.losses.contract import LossSpec
from compress.losses.table import LOSS_ENTRIES, LossEntry
from compress.passes.contract import Keys, NamedModel, PassSpec
from compress.profile.specs.examples import AugmentSpec, DataFreeSpec, VocabularySpec
from compress.profile.specs.student import StudentSpec
from compress.profile.specs.teaching import EmaSpec, OnlineSpec, SelectSpec, StageSpec, WeightedTeacher
from compress.profile.specs.training import TrainingSpec
from compress.profile.specs.writing import (
    PROMPT,
    PROMPT_TOKENS,
    OnPolicySpec,
    ReasoningSpec,
    RejectionSpec,
    SequenceSpec,
    SyntheticSpec,
)


class DistillSpec(TrainingSpec, PassSpec):
    """Train a smaller student from one teacher, from several, or from itself."""

    kind: ClassVar[str] = "distill"
    accepts: ClassVar[str] = "a float torch model"

    student: StudentSpec = StudentSpec()
    """Shape and initialisation of the student."""
    vocabulary: Literal["keep", "trim"] | VocabularySpec = "keep"
    """`keep`: the teacher's vocabulary; `trim`: only the tokens that the data uses, plus a margin of 500 (WordPiece
    tokenizers only)."""
    losses: Annotated[tuple[LossEntry, ...], Field(min_length=1)] = (
        LOSS_ENTRIES.entry(LOSS_ENTRIES.parse("logits", {"weight": 0.9})),
        LOSS_ENTRIES.entry(LOSS_ENTRIES.parse("labels", {"weight": 0.1})),
    )
    """Weighted losses, summed; for the single stage where there are no `stages`. Default with `sequence`: `next_token`
    alone."""
    stages: tuple[StageSpec, ...] = ()
    """Stages in order, each with its own losses, data and epochs; none: a single stage."""
    data: Literal["train", "unlabeled", "all"] = "all"
    """Examples to learn from: the training split, `data.unlabeled`, or both."""
    teachers: tuple[WeightedTeacher, ...] = ()
    """Several teachers, averaged; none: the profile's teacher."""
    combine: Literal["probabilities", "logits"] = "probabilities"
    """What is averaged over several teachers: their probabilities or their logits."""
    select: SelectSpec | None = None
    """Leave out examples, or tokens, on which the teacher cannot be trusted; unset: learn from all."""
    generations: Positive = 1
    """Born-again networks: number of students, each taught by the one before it (Furlanello et al. 2018)."""
    keep: Literal["last", "best", "ensemble"] = "last"
    """Which generation is the result: the last, the best on validation, or all of them as one averaging model
    (`ensemble`, not for language models)."""
    assistants: tuple[StudentSpec, ...] = ()
    """Students of decreasing size between the teacher and the student, each taught by the one before it (Mirzadeh et
    al. 2020)."""
    online: OnlineSpec | None = None
    """Train teacher and student together."""
    ema: EmaSpec | None = None
    """Let the moving average of the student teach it instead of the teacher."""
    data_free: DataFreeSpec | None = None
    """Use no training data."""
    augment: AugmentSpec | None = None
    """Additional examples that the teacher labels; unset: none. Not for language models."""
    sequence: SequenceSpec | None = None
    """Let the teacher write the answers that the student learns."""
    rejection: RejectionSpec | None = None
    """Of several answers that the teacher writes to a prompt, learn only the correct ones; needs `sequence`."""
    reasoning: ReasoningSpec | None = None
    """Also learn how the teacher arrives at its answers; needs `sequence`."""
    synthetic: SyntheticSpec | None = None
    """Learn question-answer pairs that the teacher writes about the documents of the data; needs `sequence`."""
    on_policy: OnPolicySpec | None = None
    """Let the student write texts itself in some of the steps, and the teacher score them."""
    control: bool | Literal["answers_only"] = False
    """Also train the same student without the teacher, for exactly as many steps (`patience` may end either sooner), as
    a row of the report: with `sequence` on the data's own answers (with `synthetic`, on the documents). With
    `data_free` alone: the same student from the same teacher with the training data. `answers_only`, with `reasoning`:
    on the same texts of the teacher without its traces."""
    seed: Seed | None = None
    """Seed of the student, its new examples and the order of its batches; unset: the profile's, which also seeds
    teachers and splits."""
    epochs: Annotated[float, Field(gt=0, le=1000)] = 6
    """Passes over the training examples, augmented ones included."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Peak learning rate of AdamW."""
    dropout: Fraction | None = 0.0
    """Dropout rate; 0 by default, since a small student that follows a teacher underfits; `null`: the rates of its
    config."""

    @model_validator(mode="before")
    @classmethod
    def _default_sequence_losses(cls, body: Any) -> Any:
        if isinstance(body, dict) and body.get("sequence") and not body.keys() & {"losses", "stages"}:
            return {**body, "losses": [{"next_token": {}}]}
        return body

    @model_validator(mode="after")
    def _check_combinations(self) -> DistillSpec:
        refuse_combinations(self)
        return self

    def students(self) -> Sequence[tuple[Keys, StudentSpec]]:
        """The models that are trained, each taught by the previous one."""
        assistants: list[tuple[Keys, StudentSpec]] = [
            (("assistants", number), one) for number, one in enumerate(self.assistants)
        ]
        return [*assistants, (("student",), self.student)]

    def named_models(self) -> Sequence[NamedModel]:
        """The ready-made models among student, teachers and assistants."""
        students = [
            NamedModel((*key, "model"), entry.model, revision=entry.revision)
            for key, entry in self.students()
            if entry.model
        ]
        teachers = [
            NamedModel(
                ("teachers", index, "model"),
                entry.model,
                keeps_head=entry.finetune is None,
                revision=entry.revision,
            )
            for index, entry in enumerate(self.teachers)
            if entry.model
        ]
        return [*students, *teachers]

    def code(self) -> tuple[str, ...]:
        """The user functions that validate the teacher's answers."""
        return tuple(
            code for one in (self.rejection, self.synthetic) if one is not None for code in one.code()
        )

    @property
    def generates_texts(self) -> bool:
        """Whether the teacher writes prompts itself, or questions about documents."""
        return self.sequence is not None and (self.data_free is not None or self.synthetic is not None)

    def trimming_key(self) -> Keys | None:
        """Return the key `vocabulary`, unless the vocabulary is kept."""
        return None if self.vocabulary_trimming is None else ("vocabulary",)

    def returns_ensemble(self) -> bool:
        """Whether the result is an ensemble of all generations."""
        return self.keep == "ensemble"

    def fits(self, form: Form) -> bool:
        """Whether the pass accepts this form."""
        return form.framework is Framework.TORCH and form.numbers is NumberFormat.FLOAT

    def produces(self, form: Form) -> Form:
        """Return the form of the result."""
        return form.with_fields(structure=Structure.REGULAR)

    @property
    def vocabulary_trimming(self) -> VocabularySpec | None:
        """The requested trimming; None: the vocabulary is kept."""
        if isinstance(self.vocabulary, VocabularySpec):
            return self.vocabulary if self.vocabulary.trim else None
        return VocabularySpec() if self.vocabulary == "trim" else None

    @property
    def effective_stages(self) -> tuple[StageSpec, ...]:
        """The stages; without any, a single one made of the pass's own settings."""
        return self.stages or (StageSpec(losses=self.losses),)

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens of a plain text that form the prompt which the student continues."""
        settings = [one.prompt_tokens for one in (self.on_policy, self.sequence) if one is not None]
        return next(filter(None, settings), PROMPT_TOKENS)

    def stage_spec(self, stage: StageSpec) -> DistillSpec:
        """Return this spec with the settings that a stage overrides."""
        own = ("losses", "data", "epochs", "learning_rate", "batch_size", "on_policy")
        changed = {name: value or None for name in own if (value := getattr(stage, name)) is not None}
        return self.model_copy(update={**changed, "stages": ()})


def refuse_combinations(spec: DistillSpec) -> None:
    """Reject settings that exclude each other.

    Raises:
        ValueError: two of them are set, or one without what it requires.
    """
    teacher_modes = [name for name in ("online", "ema", "data_free") if getattr(spec, name) is not None]
    if len(teacher_modes) > 1:
        raise ValueError(
            f"{teacher_modes[0]} and {teacher_modes[1]} exclude each other: each determines the teacher on its own"
        )
    if teacher_modes and spec.teachers:
        raise ValueError(f"{teacher_modes[0]} always has exactly one teacher; leave `teachers` out")
    if teacher_modes and spec.generations > 1:
        raise ValueError(
            f"{teacher_modes[0]} and generations exclude each other: a generation needs a fixed teacher"
        )
    if teacher_modes and spec.select is not None:
        raise ValueError(
            f"{teacher_modes[0]} and select exclude each other: the teacher's outputs are not known in advance"
        )
    if teacher_modes and spec.assistants and teacher_modes[0] != "data_free":
        raise ValueError(f"{teacher_modes[0]} and assistants exclude each other")
    if spec.keep != "last" and spec.generations == 1:
        raise ValueError(f"keep: {spec.keep} needs `generations` of 2 or more")
    if spec.data_free is not None:
        _refuse_training_data(spec)
    if spec.online is not None and spec.stages:
        raise ValueError("online always has exactly one stage; leave `stages` out")
    _refuse_written(spec)
    _refuse_on_policy(spec)


def _refuse_written(spec: DistillSpec) -> None:
    """Reject what cannot be combined with texts written by the teacher, or requires them."""
    for name in ("rejection", "reasoning", "synthetic"):
        if getattr(spec, name) is not None and spec.sequence is None:
            raise ValueError(
                f"{name} works on texts written by the teacher: add `sequence`, which sets how they are written"
            )
    if spec.control == "answers_only" and spec.reasoning is None:
        raise ValueError("control: answers_only needs `reasoning`, which separates answers from traces")
    if spec.sequence is None:
        return
    if spec.synthetic is not None:
        _refuse_pairs(spec)
    if len(spec.teachers) > 1:
        raise ValueError("sequence takes one teacher: several cannot write one text together")
    for name, why in (
        ("online", "a teacher that is trained too would write different texts at every step"),
        ("ema", "the student's average would teach texts that another model wrote"),
        ("select", "use `rejection` to choose among written texts"),
        ("assistants", "each of them would have to write all texts again"),
        ("augment", "the texts are the teacher's own"),
    ):
        if getattr(spec, name):
            raise ValueError(f"sequence and {name} exclude each other: {why}")
    if spec.generations > 1:
        raise ValueError(
            "sequence and generations exclude each other: each of them would have to write all texts again"
        )
    if spec.vocabulary_trimming is not None:
        raise ValueError(
            "sequence and vocabulary: trim exclude each other: the teacher may write tokens that are not in the data"
        )
    if spec.data_free is not None and (spec.rejection is not None or spec.sequence.own_answers):
        other = "rejection" if spec.rejection is not None else "own_answers"
        raise ValueError(
            f"data_free and {other} exclude each other: the data has no answers to generated prompts"
        )
    if spec.rejection is not None:
        if "samples" in spec.sequence.model_fields_set:
            raise ValueError(
                "`rejection.candidates` sets how many answers are written: leave `sequence.samples` out"
            )
        if spec.rejection.candidates > 1 and spec.sequence.temperature == 0:
            raise ValueError(
                "greedy decoding always gives the same answer: several `rejection.candidates` need a "
                "`sequence.temperature`"
            )


def _refuse_pairs(spec: DistillSpec) -> None:
    """Reject what cannot be combined with pairs written from documents."""
    assert spec.sequence is not None
    if spec.data_free is not None:
        raise ValueError("synthetic and data_free exclude each other: documents are data")
    for name in ("rejection", "reasoning"):
        if getattr(spec, name) is not None:
            raise ValueError(
                f"synthetic and {name} exclude each other: documents have no answers to compare with; use "
                "`synthetic.validator` to judge pairs"
            )
    for name, why in (
        ("ask", "`synthetic.ask` sets what the teacher is asked"),
        ("prompt_tokens", "questions are about passages; `synthetic.passage_tokens` sets their length"),
        ("own_answers", "documents have no answers"),
    ):
        if name in spec.sequence.model_fields_set:
            raise ValueError(f"synthetic and sequence.{name} exclude each other: {why}")


def _refuse_on_policy(spec: DistillSpec) -> None:
    """Reject what cannot be combined with on-policy steps."""
    policies = [
        policy for stage in spec.effective_stages if (policy := spec.stage_spec(stage).on_policy) is not None
    ]
    if spec.on_policy is not None and not any(stage.on_policy is None for stage in spec.effective_stages):
        raise ValueError("every stage sets its own `on_policy`: leave the pass's `on_policy` out")
    if not policies:
        return
    for name, why in (
        ("online", "a teacher that is still being trained cannot judge reliably"),
        ("ema", "the student's average knows no more about its texts than the student"),
        ("data_free", "students answer the prompts of the training split, which data_free does not show"),
        ("synthetic", "documents are not prompts, and the questions about them come from the teacher"),
        ("patience", "the validation score is on the data's answers, not on what the student writes"),
    ):
        if getattr(spec, name) is not None:
            raise ValueError(f"on_policy and {name} exclude each other: {why}")
    if spec.vocabulary_trimming is not None:
        raise ValueError(
            "on_policy and vocabulary: trim exclude each other: the teacher must read exactly the tokens that the "
            "student writes"
        )
    if spec.select is not None and spec.select.right:
        raise ValueError(
            "on_policy and select.right exclude each other: the right tokens are unknown for texts that the student "
            "writes; use `confidence` only"
        )
    if spec.control == "answers_only":
        raise ValueError(
            "on_policy and control: answers_only exclude each other: a student trained on answers only would write no "
            "traces, which the teacher expects"
        )
    if spec.sequence is None:
        return
    if spec.sequence.server is not None:
        raise ValueError(
            "on_policy and sequence.server exclude each other: a server gives no distributions to judge the student's "
            "tokens with; name a teacher that runs locally, or leave `on_policy` out"
        )
    if spec.sequence.ask != PROMPT:
        raise ValueError(
            "on_policy and sequence.ask exclude each other: the teacher judges the student's text after the prompt "
            "that the student sees"
        )
    if len(policies) == len(spec.effective_stages) and all(policy.share == 1 for policy in policies):
        raise ValueError(
            "with on_policy.lambda: 1 the student writes in every step, so the texts that the teacher writes for "
            "`sequence` are never used: lower `lambda`, or leave `sequence` out"
        )


def _refuse_training_data(spec: DistillSpec) -> None:
    if spec.augment is not None:
        raise ValueError("data_free shows no training data, so there is nothing to augment")
    if spec.sequence is not None:
        return
    for index, stage in enumerate(spec.effective_stages):
        for entry in stage.losses:
            if entry.body.uses_labels:
                raise ValueError(
                    f"data_free has no labels: leave the {entry.key} loss out"
                    if losses_path(spec, index)
                    else f"data_free has no labels, but the default of `losses` has a {entry.key} loss: set `losses`"
                )


def losses_path(spec: DistillSpec, stage: int) -> Keys:
    """Return the key of a stage's losses; that of the pass itself (empty) where the losses are the default."""
    if spec.stages:
        return "stages", stage, "losses"
    return ("losses",) if "losses" in spec.model_fields_set else ()


def loss_fault(path: Keys, number: int, entry: LossEntry, reason: str) -> tuple[Keys, str]:
    """Return what is wrong with loss `number` of the stage whose losses are at `path`."""
    if path:
        return (*path, number), reason
    return (), f"`losses` is not set, and its default {entry.key} does not fit: {reason}"


def losses_of(stage: StageSpec) -> list[LossSpec]:
    """Return the losses of a stage."""
    return [entry.body for entry in stage.losses]
