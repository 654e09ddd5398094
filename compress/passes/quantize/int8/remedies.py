"""Remedies where plain INT8 loses too much on the validation split: try the alternatives and report the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from compress.core.task_kind import MetricKind, TaskKind
from compress.passes.quantize.int8.cross_layer_equalization import pairs
from compress.passes.quantize.int8.spec import Int8Spec
from compress.passes.quantize.layers import Layer

WORTH_A_TRIAL = 0.01
"""Loss of the metric above which `scheme: auto` tries remedies."""
ALARMING = 0.05
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


def remedies(spec: Int8Spec, layers: Sequence[Layer]) -> dict[str, Int8Spec]:
    """Return specs that may lose less, keyed by the options they add, fewest options first.

    Options that the profile sets are not changed, and weights trained for their rounding are not modified. `equalize`
    requires adjacent convolutions.
    """
    if spec.train is not None:
        return {}
    free = [key for key in ("equalize", "bias_correction") if key not in spec.model_fields_set]
    if not pairs(layers):
        free = [key for key in free if key != "equalize"]
    named = [keys for count in (1, 2) for keys in combinations(free, count)]
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
    lost = metric.lost(float_score, plain_score)
    facts: dict[str, Any] = {"float": float_score, PLAIN: plain_score}
    limit = WORTH_A_TRIAL if spec.scheme == "auto" else ALARMING
    if lost <= limit + 1e-12:
        return Outcome(spec, facts, None)
    candidates = remedies(spec, layers)
    tried = {keys: score(one) for keys, one in candidates.items()}
    scores = {PLAIN: plain_score, **tried}
    best = max(scores, key=lambda name: scores[name])  # the first of equal scores
    facts |= tried
    plain, floating = (f"{metric.rank(value):.3f}" for value in (plain_score, float_score))
    loses = f"8-bit integers lose {_said(lost, metric)} on validation ({plain} instead of {floating})"
    if best == PLAIN:
        hint = "`equalize` and `bias_correction` do not help" if tried else "nothing else was tried"
        # Decoders support neither.
        ways = "`scheme: weight_only`" if task.writes else "`mixed: {max_drop: 0.01}`"
        ways += "" if spec.train is not None or task.writes else ", or `train`"
        advice = f"{loses}; {hint}: consider {ways}"
        return Outcome(spec, facts, f"warning: {advice}" if lost > ALARMING else None)
    if spec.scheme == "auto":
        facts["chosen"] = best
        left = metric.lost(float_score, tried[best])
        told = f"{loses}; with {best} only {_said(left, metric)}, so it is used"
        return Outcome(candidates[best], facts, f"warning: {told}" if left > ALARMING else told)
    keys = ", ".join(f"`{key}: true`" for key in best.split(" and "))
    facts["would_help"] = best
    return Outcome(spec, facts, f"warning: {loses}; set {keys}, which gives {metric.rank(tried[best]):.3f}")


def _said(lost: float, metric: MetricKind) -> str:
    return f"{100 * lost:.1f} {metric.loss_unit}"
