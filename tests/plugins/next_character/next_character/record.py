"""From sums by document to the scores of a model: interval and paired test by document."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.core.records import Accuracy, Verdict
from compress.measuring.accuracy import SPLIT, metric_record
from compress.measuring.protocol import SIGNIFICANCE
from compress.measuring.statistics import Interval
from compress.tasks.base import Scored, Truth
from next_character.kind import BITS

RESAMPLES = 1000


def bits_record(scored: Scored) -> Accuracy:
    """The record of a model; its rivals are the same documents as the baseline read them."""
    assert scored.reference is not None
    value = scored.task.score(scored.answers, Truth.of(scored.examples)).value
    own, theirs = (
        _resampled(each["nats"], each["characters"], scored.seed)
        for each in (scored.answers, scored.reference)
    )
    retention: float | None = 1.0
    p_value: float | None = None
    verdict: Verdict | None = None
    low = high = None
    if scored.baseline is not None:
        retention = BITS.retention(value, scored.baseline.metrics[0].value)
        # Twice the share of the resamples in which the other one is ahead.
        worse = float((own > theirs).mean() + (own == theirs).mean() / 2)
        p_value = min(1.0, 2 * min(worse, 1 - worse))
        verdict = "no difference" if p_value >= SIGNIFICANCE else "worse" if worse > 0.5 else "better"
        low, high = (float(bound) for bound in np.percentile(theirs / own, [2.5, 97.5]))
    bounds = (float(bound) for bound in np.percentile(own, [2.5, 97.5]))
    return Accuracy(
        split=SPLIT,
        batch_size=scored.batch_size,
        metrics=(metric_record(BITS, Interval(value, *bounds), len(scored.examples)),),
        retention=retention,
        p_value=p_value,
        verdict=verdict,
        predictions=(),
        truth=(),
        unknown_token_share=None,
        against="examples",
        retention_low=low,
        retention_high=high,
        examples=scored.digest,
    )


def _resampled(nats: NDArray[np.float64], characters: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Bits a character of documents drawn again and again: the same ones for equal seeds."""
    drawn = np.random.default_rng(seed).integers(0, len(nats), (RESAMPLES, len(nats)))
    bits: NDArray[np.float64] = nats[drawn].sum(axis=1) / characters[drawn].sum(axis=1) / np.log(2)
    return bits
