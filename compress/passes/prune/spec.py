"""Spec of the pruning pass: what to remove, by which importance, and how far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from compress.core.forms import Form, Framework, NumberFormat, Structure
from compress.core.numerics import Precision
from compress.core.spec import Fraction, PassSpecBase, Positive, Seed, requires_one_of
from compress.models.anatomy.table.decoders import DECODERS
from compress.models.anatomy.table.families import CONVOLUTIONAL, FAMILIES
from compress.passes.contract import Keys, PassSpec
from compress.profile.specs.recovery import RecoverySpec

ENCODER_KEYS = ("heads", "feed_forward", "layers", "hidden")
"""Keys of `remove` that apply only to models with attention."""


class RemoveSpec(PassSpecBase):
    """Fractions to remove, of each layer or of all layers together (`scope`)."""

    feed_forward: Fraction = 0.0
    """Fraction of the feed-forward units to remove."""
    heads: Fraction = 0.0
    """Fraction of the attention heads to remove; of decoders, of the groups that share keys and values."""
    channels: Fraction = 0.0
    """Fraction of the channels of each convolution to remove; the outputs of the last layer stay. Excludes all other
    keys."""
    layers: Fraction = 0.0
    """Fraction of the layers to remove, as whole layers."""
    hidden: Fraction = 0.0
    """Fraction of the hidden size to remove, from everything that reads or writes the residual stream."""
    vocabulary: Literal["keep", "unused"] = "keep"
    """`unused`: remove the embedding rows of tokens that occur neither in the training data nor in `data.unlabeled`,
    except for a margin of the 500 most frequent ones; texts are tokenized as before. WordPiece tokenizers only."""

    @model_validator(mode="after")
    def _check_fractions(self) -> RemoveSpec:
        fractions = (self.feed_forward, self.heads, self.channels, self.layers, self.hidden)
        if not any(fractions) and self.vocabulary == "keep":
            raise ValueError("nothing to remove: all fractions are 0 and the vocabulary is kept")
        if self.channels and (any(fractions[:2]) or any(fractions[3:]) or self.vocabulary != "keep"):
            raise ValueError(
                "channels are removed from convolutions, everything else from transformers: not both"
            )
        return self


class PruneTargetSpec(PassSpecBase):
    """Size or speed that the model must reach. In encoders, heads and feed-forward widths are chosen for it layer by
    layer; in convolutional models, the same fraction of channels everywhere, for `size_mb` and `ratio` only. Not for
    decoders. Set exactly one of `latency_ms`, `speedup`, `size_mb`, `ratio`."""

    model_config = requires_one_of("latency_ms", "speedup", "size_mb", "ratio")

    latency_ms: Annotated[float, Field(gt=0)] | None = None
    """At most, predicted from timed parts: latency in ms of one example, as FP32 ONNX on the first target that runs
    onnxruntime, undisturbed (5th percentile of each input, median over inputs). The pruned model's latency is measured
    and reported; the pass does not fail if it is higher."""
    speedup: Annotated[float, Field(gt=1)] | None = None
    """At least, predicted in the same way: latency of the model before the pass over that after it."""
    size_mb: Annotated[float, Field(gt=0)] | None = None
    """At most: size of the model's weights in FP32, in MB (10^6 bytes)."""
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """At least: fraction of the parameters removed, counted over the layers of an encoder, else over the whole
    model."""

    @model_validator(mode="after")
    def _check_exactly_one(self) -> PruneTargetSpec:
        if sum(value is not None for value in (self.latency_ms, self.speedup, self.size_mb, self.ratio)) != 1:
            raise ValueError("give exactly one of latency_ms, speedup, size_mb and ratio")
        return self

    @property
    def depends_on_timing(self) -> bool:
        """Whether the target requires latency measurements."""
        return self.latency_ms is not None or self.speedup is not None


class PruneSpec(PassSpec):
    """Structured pruning: remove attention heads, feed-forward units, layers, hidden dimensions, channels or embedding
    rows, then recover by training. Set exactly one of `remove` and `target`."""

    kind: ClassVar[str] = "prune"
    accepts: ClassVar[str] = "a float torch model"

    model_config = requires_one_of("remove", "target")

    remove: RemoveSpec | None = None
    """What to remove, as fractions."""
    target: PruneTargetSpec | None = None
    """What to reach, instead of `remove`, by removing the least important heads and feed-forward units, or channels."""
    importance: Literal["magnitude", "taylor", "hessian", "activation", "random"] = "taylor"
    """`magnitude`: squared weights; `taylor`: weight times gradient on training batches (Molchanov et al. 2019);
    `hessian`: squared weight times squared gradients of single examples, the diagonal of the empirical Fisher matrix
    (LeCun et al. 1990, Theis et al. 2018); `activation`: weight times the size of its input (Wanda, Sun et al. 2023);
    `random`: a control that shows whether importance matters."""
    importance_batches: Positive = 16
    """Number of training batches that importance is computed on, of 32 examples each (language models: 4 windows)."""
    layers_by: Literal["importance", "loss"] = "importance"
    """How `remove.layers` chooses: by `importance`, the least important layers at once; by `loss`, one after another,
    always the layer whose removal increases the loss least (not for sentence embedding). By `loss`, all
    `importance_batches` are evaluated for each layer removed and each remaining candidate, so use few of them."""
    reconstruct: bool = False
    """Decoders only: refit the output projection of each feed-forward part by least squares, so that the residual
    stream on the importance batches is as close as possible to the unpruned model's (He et al. 2017). It trains
    nothing; after hundreds of recovery steps it brings no further gain. Excludes `remove.hidden`."""
    scope: Literal["layer", "global"] = "layer"
    """Heads and feed-forward units: `layer` removes the same fraction of each layer, `global` the least important ones
    of all layers; each layer keeps at least one head and `round_to` units. `global` is not for decoders."""
    steps: Positive = 1
    """Number of pruning steps, with a recovery in between; most is removed in the first ones (Zhu and Gupta 2017). Kept
    sizes are rounded at each step; a step that removes nothing is skipped, with its recovery."""
    round_to: Positive = 8
    """Kept feed-forward widths, hidden sizes and channels are rounded to a multiple of this; the hidden size of a
    decoder also to a multiple of its number of heads."""
    recover: RecoverySpec | None = RecoverySpec()
    """Training after pruning; `null`: none. With `steps`, each recovery before the last gets an equal share of as many
    epochs again."""
    seed: Seed | None = None
    """Seed of the examples for importance and of the order of batches in recovery; unset: the profile's, which also
    seeds teachers and splits."""

    @model_validator(mode="after")
    def _check_combinations(self) -> PruneSpec:
        if (self.remove is None) == (self.target is None):
            raise ValueError("give exactly one of `remove` (what to remove) and `target` (what to reach)")
        if self.layers_by == "loss" and (self.remove is None or not self.remove.layers):
            raise ValueError("`layers_by: loss` chooses layers, but `remove.layers` removes none")
        if self.reconstruct and self.remove is not None and self.remove.hidden:
            raise ValueError("`reconstruct` needs the whole residual stream, but `remove.hidden` narrows it")
        if self.steps > 1 and self.recover is None:
            raise ValueError("`steps` has no effect without `recover`: one step removes the same")
        if self.scope == "global" and self.remove is not None and self.remove.channels:
            raise ValueError("`scope: global` ranks heads and feed-forward units, not channels")
        return self

    def fits(self, form: Form) -> bool:
        """Whether the pass can start from this form."""
        return form.framework is Framework.TORCH and form.numbers is NumberFormat.FLOAT

    def trimming_key(self) -> Keys | None:
        """Return the key `remove.vocabulary` if unused tokens are removed."""
        unused = self.remove is not None and self.remove.vocabulary == "unused"
        return ("remove", "vocabulary") if unused else None

    def removal_keys(self, family: str) -> Sequence[Keys]:
        """Return the keys that need a model with known layers: those that remove heads, units, layers, width or
        tokens."""
        keys: list[Keys] = []
        if family in DECODERS:
            return keys
        images = family in FAMILIES and FAMILIES[family].modality == "images"
        if self.target is not None and not images:
            # Channels of convolutions may be removed from image models; whether there are any is known only after
            # loading.
            keys.append(("target",))
        if self.remove is not None and family not in CONVOLUTIONAL:
            keys += [("remove", key) for key in ENCODER_KEYS if getattr(self.remove, key)]
            keys += [("remove", "vocabulary")] if self.trimming_key() else []
        return keys

    @property
    def depends_on_timing(self) -> bool:
        """Whether there is a latency target."""
        return self.target is not None and self.target.depends_on_timing

    def training_precision(self) -> Precision:
        """Precision of the recovery training."""
        return self.recover.precision if self.recover is not None else "auto"

    def produces(self, form: Form) -> Form:
        """Return the form of the output model; a factored model stays factored."""
        if form.structure is Structure.FACTORED:
            return form
        return form.with_fields(structure=Structure.PRUNED)
