"""One spec class a pass: what it takes, what it accepts and what it produces."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from compress.forms import Form, Framework, Numbers, Structure
from compress.profile.base import PassSpecBase, Spec, single_key
from compress.profile.training_spec import Fraction, RecoverySpec, TrainingSpec

Positive = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(gt=0)]


class LogitsLoss(PassSpecBase):
    """KL divergence to the teacher's softened probabilities, times T^2 (Hinton et al. 2015)."""

    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Divides the logits of both models before the softmax."""
    weight: Weight = 1.0
    """Factor of this loss in the sum."""


class LabelsLoss(PassSpecBase):
    """Cross-entropy with the true labels; examples that only the teacher labelled take no part in it."""

    weight: Weight = 1.0
    """Factor of this loss in the sum."""
    smoothing: Fraction = 0.0
    """Label smoothing."""


class LogitsLossEntry(Spec):
    """`{logits: {...}}`."""

    logits: LogitsLoss
    """KL to the teacher at a temperature."""


class LabelsLossEntry(Spec):
    """`{labels: {...}}`."""

    labels: LabelsLoss
    """Cross-entropy with the labels."""


LossEntry = Annotated[
    Annotated[LogitsLossEntry, Tag("logits")] | Annotated[LabelsLossEntry, Tag("labels")],
    Discriminator(single_key),
]


class StudentSpec(PassSpecBase):
    """The student: cut from the teacher (same width) or narrower, initialised from the teacher's weights."""

    layers: Positive | tuple[Annotated[int, Field(ge=0)], ...] = 2
    """How many layers, or which layers of the teacher (0 is the lowest); a number takes them evenly spread."""
    hidden_size: Positive | None = None
    """Width; unset: the teacher's."""
    heads: Positive | None = None
    """Attention heads; unset: the hidden size over the teacher's head size, at least 1."""
    intermediate_size: Positive | None = None
    """Feed-forward width; unset: the teacher's ratio to the hidden size."""
    from_: Annotated[Literal["teacher", "scratch"], Field(alias="from")] = "teacher"
    """`teacher`: weights projected from the teacher's; `scratch`: random weights."""


class VocabularySpec(PassSpecBase):
    """Which tokens the student keeps."""

    trim: bool = True
    """Keep only the tokens of the training data plus the margin; other tokens become the unknown token."""
    margin: Annotated[int, Field(ge=0)] = 500
    """So many further tokens, the most frequent ones of the teacher's vocabulary, in its order."""


class AugmentSpec(PassSpecBase):
    """Extra training texts that the teacher labels: replaced, deleted and spliced tokens."""

    copies: Annotated[int, Field(ge=1, le=50)] = 4
    """New texts for each text of the training split, drawn once a seed."""
    replace: Fraction = 0.15
    """Share of the tokens replaced by one of their nearest neighbours in the teacher's embeddings."""
    delete: Fraction = 0.1
    """Share of the tokens deleted."""
    splice: Fraction = 0.2
    """Share of the texts made by joining parts of two texts."""
    neighbours: Positive = 15
    """How many nearest embeddings a replacement is drawn from."""


class DistillSpec(TrainingSpec):
    """Train a smaller student from the teacher."""

    kind: ClassVar[str] = "distill"
    accepts: ClassVar[str] = "a float torch model"

    student: StudentSpec = StudentSpec()
    """Shape and initialisation of the student."""
    vocabulary: Literal["keep", "trim"] | VocabularySpec = "keep"
    """`trim` keeps the tokens that the data uses plus a margin of 500."""
    losses: Annotated[tuple[LossEntry, ...], Field(min_length=1)] = (
        LogitsLossEntry(logits=LogitsLoss(weight=0.9)),
        LabelsLossEntry(labels=LabelsLoss(weight=0.1)),
    )
    """Weighted losses, summed."""
    augment: AugmentSpec | None = None
    """Extra texts that the teacher labels; unset: none."""
    control: bool = False
    """Train the same student without the teacher too, and report that row."""
    epochs: Annotated[float, Field(gt=0, le=1000)] = 6
    """Passes over the training examples, augmented ones included."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Peak learning rate of AdamW."""
    dropout: Fraction | None = 0.0
    """Share of activations dropped; a small student that follows a teacher underfits, so none by default."""

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        return form.framework is Framework.TORCH and form.numbers is Numbers.FLOAT

    def produces(self, form: Form) -> Form:
        """The form of the result."""
        return form.with_(structure=Structure.REGULAR)

    @property
    def trimmed(self) -> VocabularySpec | None:
        """The trimming asked for; None: the vocabulary is kept."""
        if isinstance(self.vocabulary, VocabularySpec):
            return self.vocabulary if self.vocabulary.trim else None
        return VocabularySpec() if self.vocabulary == "trim" else None


class RemoveSpec(PassSpecBase):
    """Fractions removed, of each layer."""

    feed_forward: Fraction = 0.0
    """Fraction of the feed-forward width removed."""
    heads: Fraction = 0.0
    """Fraction of the attention heads removed."""

    @model_validator(mode="after")
    def _something(self) -> RemoveSpec:
        if self.feed_forward == 0 and self.heads == 0:
            raise ValueError("nothing to remove: feed_forward and heads are both 0")
        return self


class PruneSpec(PassSpecBase):
    """Remove attention heads and feed-forward width (structured pruning), then recover by training."""

    kind: ClassVar[str] = "prune"
    accepts: ClassVar[str] = "a float torch model"

    remove: RemoveSpec
    """What to remove: fractions removed."""
    importance: Literal["magnitude", "taylor", "random"] = "taylor"
    """`taylor` reads gradients on training batches; `random` is the check that importance matters."""
    importance_batches: Positive = 16
    """Training batches that `taylor` reads."""
    round_to: Positive = 8
    """The kept feed-forward width is rounded to a multiple of this."""
    recover: RecoverySpec | None = RecoverySpec()
    """Training after pruning; `null`: none."""

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        return form.framework is Framework.TORCH and form.numbers is Numbers.FLOAT

    def produces(self, form: Form) -> Form:
        """The form of the result."""
        return form.with_(structure=Structure.PRUNED)


class CalibrationSpec(PassSpecBase):
    """Activation ranges for `scheme: static`, from training data only."""

    examples: Positive = 128
    """Training examples read."""
    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    """How a range is made of the values seen."""


class QuantizeSpec(PassSpecBase):
    """Store and multiply in 8-bit integers, or store weights in 4-bit blocks."""

    kind: ClassVar[str] = "quantize"
    accepts: ClassVar[str] = "a float model, torch or ONNX"

    bits: Literal[4, 8] = 8
    """8: integer weights and arithmetic; 4: weight-only blocks (`MatMulNBits`)."""
    scheme: Literal["auto", "dynamic", "static"] = "auto"
    """Activation ranges at run time, or calibrated; `auto` measures both on the validation split. For 8 bits."""
    per_channel: bool = True
    """A scale for each output channel of a weight."""
    embeddings: bool = True
    """Quantize the embedding tables too."""
    exclude: tuple[str, ...] = ()
    """Names of ONNX nodes left in floating point (shell patterns)."""
    block_size: Literal[16, 32, 64, 128] = 32
    """Weights that share a scale, for 4 bits."""
    symmetric: bool = True
    """Weights around zero, without a zero point."""
    calibration: CalibrationSpec = CalibrationSpec()
    """Where `static` takes its ranges from."""

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        return form.numbers is Numbers.FLOAT and not form.bundled

    def produces(self, form: Form) -> Form:
        """The form of the result; with `auto` the number format is known after measuring."""
        numbers = Numbers.WEIGHT_ONLY if self.bits == 4 else Numbers.OPERATOR
        return form.with_(framework=Framework.ONNX, numbers=numbers)


class ExportSpec(PassSpecBase):
    """Package the model for deployment: files, manifest, golden examples, card and `predict.py`."""

    kind: ClassVar[str] = "export"
    accepts: ClassVar[str] = "any model that is not a bundle yet"

    formats: Annotated[tuple[Literal["onnx", "ort"], ...], Field(min_length=1)] = ("onnx",)
    """`onnx` always stands in the bundle; `ort` adds the mobile format."""
    golden: Annotated[int, Field(ge=1, le=1000)] = 16
    """Golden examples: validation texts with the outputs that the bundle must reproduce."""

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        return not form.bundled

    def produces(self, form: Form) -> Form:
        """The form of the result."""
        return form.with_(framework=Framework.ONNX, bundled=True)


PassSpec = DistillSpec | PruneSpec | QuantizeSpec | ExportSpec


class DistillEntry(Spec):
    """`- distill: {...}`."""

    distill: DistillSpec
    """Train a smaller student from the teacher."""


class PruneEntry(Spec):
    """`- prune: {...}`."""

    prune: PruneSpec
    """Remove heads and feed-forward width, then recover."""


class QuantizeEntry(Spec):
    """`- quantize: {...}`."""

    quantize: QuantizeSpec
    """INT8 or INT4."""


class ExportEntry(Spec):
    """`- export: {...}`."""

    export: ExportSpec
    """Package for deployment."""


PassEntry = Annotated[
    Annotated[DistillEntry, Tag("distill")]
    | Annotated[PruneEntry, Tag("prune")]
    | Annotated[QuantizeEntry, Tag("quantize")]
    | Annotated[ExportEntry, Tag("export")],
    Discriminator(single_key),
]


def spec_of(entry: Spec) -> PassSpec:
    """The spec inside a one-key entry."""
    name = next(iter(type(entry).model_fields))
    spec: PassSpec = getattr(entry, name)
    return spec
