"""What pruning removes, by what measure, and how far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from compress.core.forms import Form, Framework, Numbers, Structure
from compress.core.numerics import Precision
from compress.core.spec import Fraction, PassSpecBase, Positive, one_of
from compress.models.anatomy.table.decoders import DECODERS
from compress.models.anatomy.table.families import CONVOLUTIONAL, FAMILIES
from compress.passes.contract import Keys, PassSpec
from compress.profile.specs.recovery import RecoverySpec

OF_ENCODERS = ("heads", "feed_forward", "layers", "hidden")
"""What only a model with attention has, for `remove`."""


class RemoveSpec(PassSpecBase):
    """Fractions removed, of each layer or of all together (`scope`)."""

    feed_forward: Fraction = 0.0
    """Fraction of the feed-forward width removed."""
    heads: Fraction = 0.0
    """Fraction of the attention heads removed."""
    channels: Fraction = 0.0
    """Fraction of the channels of each convolution removed; the last layer's outputs stay."""
    layers: Fraction = 0.0
    """Fraction of the encoder's layers removed, whole ones."""
    hidden: Fraction = 0.0
    """Fraction of the width of the stream between the layers removed, from everything that reads or writes it."""
    vocabulary: Literal["keep", "unused"] = "keep"
    """`unused`: remove the embedding rows of tokens that neither the training data nor `data.unlabeled` uses, but for a
    margin of the 500 most frequent ones; the tokenizer cuts texts as before."""

    @model_validator(mode="after")
    def _something(self) -> RemoveSpec:
        fractions = (self.feed_forward, self.heads, self.channels, self.layers, self.hidden)
        if not any(fractions) and self.vocabulary == "keep":
            raise ValueError("nothing to remove: all fractions are 0, and the vocabulary is kept")
        if self.channels and (any(fractions[:2]) or any(fractions[3:]) or self.vocabulary != "keep"):
            raise ValueError(
                "channels are removed from convolutions, everything else from transformers: not both"
            )
        return self


class PruneTargetSpec(PassSpecBase):
    """How small or fast the model must become. Of an encoder heads and feed-forward widths are chosen for it, layer by
    layer; of convolutions the same share of channels everywhere, for `size_mb` and `ratio` only. Name one of
    `latency_ms`, `speedup`, `size_mb`, `ratio`."""

    model_config = one_of("latency_ms", "speedup", "size_mb", "ratio")

    latency_ms: Annotated[float, Field(gt=0)] | None = None
    """At most, predicted from timed parts: latency of one example on the first target that runs onnxruntime, ms,
    lowered to ONNX in FP32, undisturbed (of each input the 5th percentile, of the inputs the median). What the pruned
    model takes is measured and reported; the pass does not fail where that is more."""
    speedup: Annotated[float, Field(gt=1)] | None = None
    """At least, predicted in the same way: latency of the model before the pass over that after it."""
    size_mb: Annotated[float, Field(gt=0)] | None = None
    """At most: the model's weights, MB of 10^6 bytes, in FP32."""
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of the parameters removed, at least: of those of an encoder's layers, else of the whole model's."""

    @model_validator(mode="after")
    def _one(self) -> PruneTargetSpec:
        if sum(value is not None for value in (self.latency_ms, self.speedup, self.size_mb, self.ratio)) != 1:
            raise ValueError("name one of latency_ms, speedup, size_mb and ratio")
        return self

    @property
    def timed(self) -> bool:
        """Whether latencies are measured for it."""
        return self.latency_ms is not None or self.speedup is not None


class PruneSpec(PassSpec):
    """Remove attention heads, feed-forward width, layers, hidden width, channels or embedding rows (structured
    pruning), then recover by training. Name one of `remove` and `target`."""

    kind: ClassVar[str] = "prune"
    accepts: ClassVar[str] = "a float torch model"

    model_config = one_of("remove", "target")

    remove: RemoveSpec | None = None
    """What to remove: fractions removed."""
    target: PruneTargetSpec | None = None
    """What to reach, instead of `remove`: the least important heads and feed-forward units, or channels, whose removal
    reaches it."""
    importance: Literal["magnitude", "taylor", "hessian", "activation", "random"] = "taylor"
    """`taylor` reads gradients on training batches, `hessian` squared gradients of single examples (the diagonal of the
    empirical Fisher matrix), `activation` the size of what flows; `random` is the check that importance matters."""
    importance_batches: Positive = 16
    """Training batches of 32 examples that importance reads."""
    layers_by: Literal["importance", "loss"] = "importance"
    """Which layers `remove.layers` takes: the least important ones, all at once, or, by `loss`, one after the other
    the one without which the model loses least. All `importance_batches` are then read once for each layer that goes
    and each that is left, so a few of them must do."""
    reconstruct: bool = False
    """Of a decoder: refit what writes each feed-forward result into the stream by least squares, so that the stream is
    that of the whole model again as far as it can be, on what importance reads. It trains nothing; hundreds of steps of
    recovery gain no more from it."""
    scope: Literal["layer", "global"] = "layer"
    """Heads and feed-forward units: `layer` removes the same fraction of each layer, `global` the least important ones
    wherever they are; one head and `round_to` units stay in each layer."""
    steps: Positive = 1
    """Remove in so many steps, most in the first ones, with a recovery between. What is kept is rounded at each step; a
    step that removes nothing is left out, with its recovery."""
    round_to: Positive = 8
    """The kept feed-forward width, hidden width or channels are rounded to a multiple of this; the hidden
    width of a decoder to one of its heads as well."""
    recover: RecoverySpec | None = RecoverySpec()
    """Training after pruning; `null`: none. With `steps`, each recovery before the last gets an equal share of as many
    epochs again."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seeds what importance reads and the order of the recovery's batches; unset: the profile's, which seeds teachers
    and splits too."""

    @model_validator(mode="after")
    def _one_goal(self) -> PruneSpec:
        if (self.remove is None) == (self.target is None):
            raise ValueError("name what to remove (`remove`) or what to reach (`target`), one of them")
        if self.layers_by == "loss" and (self.remove is None or not self.remove.layers):
            raise ValueError("`layers_by: loss` chooses layers, and `remove.layers` takes none")
        if self.reconstruct and self.remove is not None and self.remove.hidden:
            raise ValueError("`reconstruct` follows the whole model's stream, and `remove.hidden` narrows it")
        if self.steps > 1 and self.recover is None:
            raise ValueError("`steps` without `recover` would remove in steps what one step removes")
        if self.scope == "global" and self.remove is not None and self.remove.channels:
            raise ValueError("`scope: global` ranks heads and feed-forward units, not channels")
        return self

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        return form.framework is Framework.TORCH and form.numbers is Numbers.FLOAT

    def trims(self) -> Keys | None:
        """`remove.vocabulary`, where unused tokens go."""
        unused = self.remove is not None and self.remove.vocabulary == "unused"
        return ("remove", "vocabulary") if unused else None

    def takes_apart(self, family: str) -> Sequence[Keys]:
        """The keys that ask for heads, neurons, layers, width or tokens to go, which need layers that are known."""
        keys: list[Keys] = []
        if family in DECODERS:
            return keys
        images = family in FAMILIES and FAMILIES[family].takes == "images"
        if self.target is not None and not images:
            # Of images, channels of convolutions may go: whether there are any is seen when the model is loaded.
            keys.append(("target",))
        if self.remove is not None and family not in CONVOLUTIONAL:
            keys += [("remove", key) for key in OF_ENCODERS if getattr(self.remove, key)]
            keys += [("remove", "vocabulary")] if self.trims() else []
        return keys

    @property
    def timed(self) -> bool:
        """Whether a latency is to be reached."""
        return self.target is not None and self.target.timed

    def asked_precision(self) -> Precision:
        """That of the recovery."""
        return self.recover.precision if self.recover is not None else "auto"

    def produces(self, form: Form) -> Form:
        """The form of the result; a factored model stays one."""
        if form.structure is Structure.FACTORED:
            return form
        return form.with_(structure=Structure.PRUNED)
