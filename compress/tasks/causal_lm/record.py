"""From sums by window to the scores of a language model, with intervals and the paired test over documents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.core.records import Accuracy, Verdict
from compress.core.task_kind import MetricKind
from compress.measuring.accuracy import SPLIT, metric_record
from compress.measuring.protocol import CONFIDENCE, RESAMPLES, SIGNIFICANCE
from compress.measuring.statistics import Interval
from compress.tasks.base import Answers, Scored, Truth
from compress.tasks.causal_lm.kind import AGREEMENT, BITS, NEXT_TOKEN, PERPLEXITY

Floats = NDArray[np.float64]
_CELLS = 2_000_000
SAME = 1e-3
"""Log-perplexities that differ by less are the same: rounding alone may move those of all texts the same way."""


def language_record(scored: Scored) -> Accuracy:
    """Perplexity, bits per byte, next-token accuracy, and agreement with the baseline on the same tokens.

    Retention is the baseline's perplexity over the model's. Intervals are a bootstrap over the documents, and a test
    of the difference in log-perplexity on the same resamples (`told_apart`).
    """
    assert scored.reference is not None
    own, theirs = scored.answers, scored.reference
    sums = {name: by_document(own, name) for name in ("nats", "tokens", "right", "bytes")}
    agreed = _agreed(own, theirs)
    drawn = Draws(len(sums["nats"]), scored.seed)
    log_perplexity = drawn.ratio(sums["nats"], sums["tokens"])
    baseline = drawn.ratio(by_document(theirs, "nats"), by_document(theirs, "tokens"))
    value = scored.task.score(own, Truth.of(scored.examples)).value
    retention: float | None = 1.0
    p_value: float | None = None
    verdict: Verdict | None = None
    low: float | None = None
    high: float | None = None
    if scored.baseline is not None:
        retention = PERPLEXITY.retention(value, scored.baseline.metrics[0].value)
        p_value, worse = told_apart(log_perplexity - baseline)
        verdict = "no difference" if p_value >= SIGNIFICANCE else "worse" if worse else "better"
        low, high = _bounds(np.exp(baseline - log_perplexity))
    per_byte = drawn.ratio(sums["nats"], sums["bytes"]) / np.log(2)
    kept: list[tuple[MetricKind, float, Floats]] = [
        (PERPLEXITY, value, np.exp(log_perplexity)),
        (BITS, _whole(sums["nats"], sums["bytes"]) / float(np.log(2)), per_byte),
        (NEXT_TOKEN, _whole(sums["right"], sums["tokens"]), drawn.ratio(sums["right"], sums["tokens"])),
    ]
    if agreed is not None:
        kept.append((AGREEMENT, _whole(agreed, sums["tokens"]), drawn.ratio(agreed, sums["tokens"])))
    return Accuracy(
        split=SPLIT,
        batch_size=scored.batch_size,
        metrics=tuple(
            metric_record(metric, Interval(mean, *_bounds(resampled)), int(sums["tokens"].sum()))
            for metric, mean, resampled in kept
        ),
        retention=retention,
        p_value=p_value,
        verdict=verdict,
        predictions=(),
        truth=(),
        unknown_token_share=scored.unknown_token_share,
        against="examples",
        retention_low=low,
        retention_high=high,
        examples=scored.digest,
    )


def told_apart(differences: Floats) -> tuple[float, bool]:
    """The p-value of a difference beyond `SAME`, from a difference for each resample, and whether it is above 0.

    Twice the share of the resamples in which the difference is not beyond `SAME` on its side.
    """
    above, below = float((differences <= SAME).mean()), float((differences >= -SAME).mean())
    return min(1.0, 2 * min(above, below)), above < below


def by_document(answers: Answers, name: str) -> Floats:
    """Sums by window (n,) -> sums by document, in their order."""
    return np.bincount(answers["document"], weights=answers[name]).astype(np.float64)


class Draws:
    """Documents drawn with replacement, again and again: the same ones for every sum."""

    def __init__(self, documents: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        # How often each document is drawn, a part of the resamples at once: all of them would be large.
        self.parts = [
            random.multinomial(documents, np.full(documents, 1 / documents), size=count)
            for count in _shares(RESAMPLES, max(1, _CELLS // documents))
        ]

    def ratio(self, above: Floats, below: Floats) -> Floats:
        """The quotient of two sums over the documents of each resample."""
        return np.concatenate([(part @ above) / (part @ below) for part in self.parts])


def _shares(whole: int, most: int) -> list[int]:
    return [min(most, whole - start) for start in range(0, whole, most)]


def _bounds(resampled: Floats) -> tuple[float, float]:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return float(low), float(high)


def _whole(above: Floats, below: Floats) -> float:
    return float(above.sum() / below.sum())


def _agreed(own: Answers, theirs: Answers) -> Floats | None:
    """On how many tokens of each document both have the same likeliest token; None where they read other tokens."""
    ours, baseline = own["likeliest"], theirs["likeliest"]
    if ours.shape != baseline.shape or not np.array_equal(ours >= 0, baseline >= 0):
        return None
    same = ((ours == baseline) & (ours >= 0)).sum(axis=1)
    return np.bincount(own["document"], weights=same).astype(np.float64)
