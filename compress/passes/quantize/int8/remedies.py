"""Remedies where plain INT8 loses too much on the validation split: try the alternatives and report the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from compress.core.task_kind import MetricKind, TaskKind
from compress.passes.quantize.int8.cross_layer_equalization import equalizable_pairs
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.layers import Layer

TRIAL_LOSS = 0.01
"""Loss of the metric above which `scheme: auto` tries remedies."""
WARNING_LOSS = 0.05
"""Loss of the metric above which a warning is printed, whatever the scheme."""
PLAIN = "plain"

Score = Callable[[Int8Spec], float]
"""Validation score of the model quantized with a spec."""


@dataclass(frozen=True)
class Outcome:
    """The final spec, the facts to record, and a message for the user, if any."""

    spec: Int8Spec
    facts: dict[str, Any]
    message: str | None


def candidate_specs(spec: Int8Spec, layers: Sequence[Layer]) -> dict[str, Int8Spec]:
    """Return specs that may lose less, keyed by the options they add, fewest options first.

    Options that the profile sets are not changed, and weights trained for their rounding are not modified. `equalize`
    requires adjacent convolutions.
    """
    if spec.train is not None:
        return {}
    unset = [key for key in ("equalize", "bias_correction") if key not in spec.model_fields_set]
    if not equalizable_pairs(layers):
        unset = [key for key in unset if key != "equalize"]
    named = [keys for count in (1, 2) for keys in combinations(unset, count)]
    return {" and ".join(keys): spec.model_copy(update=dict.fromkeys(keys, True)) for keys in named}


def apply_remedies(
    spec: Int8Spec,
    layers: Sequence[Layer],
    task: TaskKind,
    float_score: float,
    plain_score: float,
    score: Score,
) -> Outcome:
    """Try remedies where the plain model loses too much: `auto` applies the best one, other schemes only report it.

    Args:
        layers: the quantized layers of the float graph.
        float_score: validation score of the float model, larger is better.
        plain_score: that of the model quantized by `spec`.
        score: quantizes by another spec and returns its score.
    """
    metric = task.metric
    loss = metric.degradation(float_score, plain_score)
    facts: dict[str, Any] = {"float": float_score, PLAIN: plain_score}
    limit = TRIAL_LOSS if spec.scheme == "auto" else WARNING_LOSS
    if loss <= limit + 1e-12:
        return Outcome(spec, facts, None)
    candidates = candidate_specs(spec, layers)
    trial_scores = {keys: score(one) for keys, one in candidates.items()}
    scores = {PLAIN: plain_score, **trial_scores}
    best = max(scores, key=lambda name: scores[name])  # the first of equal scores
    facts |= trial_scores
    plain, floating = (f"{metric.rank(value):.3f}" for value in (plain_score, float_score))
    loss_message = (
        f"8-bit integers lose {_format_loss(loss, metric)} on validation ({plain} instead of {floating})"
    )
    if best == PLAIN:
        hint = "`equalize` and `bias_correction` do not help" if trial_scores else "nothing else was tried"
        # Decoders support neither.
        alternatives = "`scheme: weight_only`" if task.generates else "`mixed: {max_drop: 0.01}`"
        alternatives += "" if spec.train is not None or task.generates else ", or `train`"
        advice = f"{loss_message}; {hint}: consider {alternatives}"
        return Outcome(spec, facts, f"warning: {advice}" if loss > WARNING_LOSS else None)
    if spec.scheme == "auto":
        facts["chosen"] = best
        remaining_loss = metric.degradation(float_score, trial_scores[best])
        message = f"{loss_message}; with {best} only {_format_loss(remaining_loss, metric)}, so it is used"
        return Outcome(
            candidates[best], facts, f"warning: {message}" if remaining_loss > WARNING_LOSS else message
        )
    keys = ", ".join(f"`{key}: true`" for key in best.split(" and "))
    facts["would_help"] = best
    return Outcome(
        spec, facts, f"warning: {loss_message}; set {keys}, which gives {metric.rank(trial_scores[best]):.3f}"
    )


def _format_loss(loss: float, metric: MetricKind) -> str:
    return f"{100 * loss:.1f} {metric.loss_unit}"
