"""Profile checks of the pruning pass: unsupported combinations, and likely disappointments."""

from __future__ import annotations

from collections.abc import Iterator

from compress.core.errors import PassError
from compress.models.anatomy.table.families import CONVOLUTIONAL, network_of_kind
from compress.models.anatomy.table.family import Config
from compress.models.anatomy.table.smaller import why_heads_fixed
from compress.passes.prune.choosing.goals import remaining_sizes
from compress.passes.prune.spec import ENCODER_KEYS, PruneSpec
from compress.profile.combination_checks import KeyFault, input_kind, outputs_embeddings
from compress.profile.pass_checks import PassCheck
from compress.profile.timing_target import timing_target
from compress.tasks.table import task_kind


def faults(check: PassCheck) -> Iterator[KeyFault]:
    """Yield pruning options that the task or model does not support, as keys below the pass and messages."""
    spec, family = check.spec, check.family
    assert isinstance(spec, PruneSpec)
    if spec.remove is not None:
        texts = input_kind(check.profile) == "texts"
        if spec.remove.channels and texts:
            yield ("remove", "channels"), "text models have no channels"
        if spec.remove.vocabulary == "unused" and not texts:
            yield ("remove", "vocabulary"), "image models have no vocabulary"
    if spec.layers_by == "loss" and outputs_embeddings(check.profile):
        yield ("layers_by",), "embeddings have no loss; use `importance`"
    if task_kind(check.profile.task).generates:
        yield from _decoder_faults(spec, family, check.config)
        return
    if spec.reconstruct:
        yield ("reconstruct",), "only decoders can be refitted, and this task has encoders"
    # Other families pass without a check: some have convolutions beside their attention.
    if family not in CONVOLUTIONAL:
        return
    if spec.target is not None and spec.target.depends_on_timing:
        key = "latency_ms" if spec.target.latency_ms is not None else "speedup"
        yield (
            ("target", key),
            f"latencies are predicted for attention layers only, and a {family} has none; use `ratio` or `size_mb`",
        )
    for key in ENCODER_KEYS:
        if spec.remove is not None and getattr(spec.remove, key):
            yield ("remove", key), f"the model is a {family}: from convolutions remove `channels`"


def _decoder_faults(spec: PruneSpec, family: str | None, config: Config | None) -> Iterator[KeyFault]:
    """Yield what cannot be pruned from a decoder: a config must be able to describe the result."""
    supported = (
        "from a decoder `remove` can take whole `layers`, groups of `heads` and `feed_forward` units, equally in each "
        "layer, and `hidden` width"
    )
    network = network_of_kind(family or "")
    if spec.reconstruct and network is not None and network.norm_placement == "around":
        yield (
            ("reconstruct",),
            f"a {family} normalizes the outputs of its feed-forward parts before they are added to the residual stream",
        )
    if spec.target is not None:
        yield ("target",), supported
    if spec.remove is not None:
        if spec.remove.vocabulary != "keep":
            yield ("remove", "vocabulary"), supported
        why = None if network is None else why_heads_fixed(network)
        for key in ("heads", "hidden"):
            if getattr(spec.remove, key) and why is not None:
                yield ("remove", key), f"none of it can be removed from a {family}: {why}"
        if config is not None and network is not None and why is None:
            try:
                remaining_sizes(config, spec.remove, spec.round_to)
            except PassError as error:
                yield tuple(str(error.where).split(".")[1:]), error.message
    if spec.scope == "global":
        yield ("scope",), supported


def warnings(check: PassCheck) -> Iterator[str]:
    """Warn where a latency target is optimized for another processor than that of the first target.

    This concerns pruning only: what is quantized with onnxruntime has no target that runs torch.
    """
    spec, targets = check.spec, check.profile.targets
    assert isinstance(spec, PruneSpec)
    target, timed = targets[0], timing_target(targets)
    if spec.target is None or target.device == timed.device:
        return
    processor = timed.label if timed in targets else "this machine's CPU"
    for key in ("latency_ms", "speedup"):
        if getattr(spec.target, key) is not None:
            yield (
                f"passes.{check.index}.prune.target.{key}: this is optimized for {processor}, not for {target.label} "
                f"({target.device}), which does not run onnxruntime; `size_mb` and `ratio` are the same everywhere, "
                "and the report measures the latency there"
            )
