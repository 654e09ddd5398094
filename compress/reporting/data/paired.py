"""Paired comparison of two models on the same examples: significance tests and confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compress.core.records import Accuracy, Metric, Verdict
from compress.measuring.protocol import RANK_TOLERANCE
from compress.measuring.statistics import normal_quantile, paired_verdict, wilson_bounds
from compress.tasks.table import metric_kind


@dataclass(frozen=True)
class PairedTest:
    """Result of a paired test of a second model against a first: `better`, `worse` or `no difference`; the p value."""

    verdict: Verdict
    p_value: float | None

    @property
    def is_significant(self) -> bool:
        """Whether the difference is significant."""
        return self.verdict != "no difference"


@dataclass(frozen=True)
class PairedCounts:
    """Counts of examples that `both` models, only the first (`lost`) or only the second (`gained`) predict
    correctly."""

    both: int
    lost: int
    gained: int

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool]) -> PairedCounts:
        """Count from which examples each of the two models predicts correctly."""
        pairs = list(zip(first, second, strict=True))
        return cls(*(pairs.count(outcome) for outcome in ((True, True), (True, False), (False, True))))

    @property
    def test(self) -> PairedTest:
        """Result of the exact McNemar test."""
        p_value, verdict = paired_verdict(self.lost, self.gained)
        return PairedTest(verdict, p_value)


def paired_counts(first: Accuracy | None, second: Accuracy | None) -> PairedCounts | None:
    """Return the paired counts of two models; None if they were not scored on the same labelled examples."""
    if first is None or second is None or first.truth != second.truth:
        return None
    first_hits, second_hits = hits_of(first), hits_of(second)
    return None if first_hits is None or second_hits is None else PairedCounts.of(first_hits, second_hits)


def paired_test(first: Accuracy | None, second: Accuracy | None) -> PairedTest | None:
    """Test two models of a run on the same examples, by McNemar's test on their predictions.

    Without predictions (embeddings, language models), a comparison with the baseline uses the recorded test. Two other
    models differ if their retention intervals, or if unknown their score intervals, do not overlap, which is more
    conservative than a paired test. None if the models were not scored on the same examples.
    """
    pair = paired_counts(first, second)
    if pair is not None:
        return pair.test
    if first is None or second is None or not (first.metrics and second.metrics):
        return None
    if first.against == "labels" or (first.against, first.examples) != (second.against, second.examples):
        return None
    if first.verdict is None and second.verdict is not None:
        return PairedTest(second.verdict, second.p_value)
    first_metric, second_metric = _retention_metric(first), _retention_metric(second)
    if first_metric is None or second_metric is None:
        first_metric, second_metric = first.metrics[0], second.metrics[0]
    return _interval_test(first_metric, second_metric)


def same_split(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two reports have scores on the same examples of a target.

    Their counts must be equal and, where both reports contain them, the digests of labels and examples.
    """
    digests = ([report.get(key) for report in (first, second)] for key in ("test_split", "test_examples"))
    digests_match = all(None in pair or pair[0] == pair[1] for pair in digests)
    return first["examples"] == second["examples"] and digests_match


def split_difference(metric: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Describe how the test splits of two reports differ, if they are not the same (see `same_split`)."""
    unit, digest = metric_kind(metric).count_unit, first.get("test_split")
    if unit and digest is not None and digest == second.get("test_split"):
        return f"different {unit} of the same test split ({first['examples']} and {second['examples']})"
    return f"different test splits ({first['examples']} and {second['examples']} {unit or 'examples'})"


def reported_test(first: Mapping[str, Any], second: Mapping[str, Any]) -> PairedTest | None:
    """Like `paired_test`, but from two reports' values of a target: `test_split`, `hits`, and `metrics`."""
    if None in (first.get("test_split"), second.get("test_split")) or not same_split(first, second):
        return None
    if first.get("hits") is not None and second.get("hits") is not None:
        return PairedCounts.of(
            *(decode_hits(report["hits"], report["examples"]) for report in (first, second))
        ).test
    if first["against"] == "labels" or first["against"] != second["against"]:
        return None
    if not (first["metrics"] and second["metrics"]):
        return None
    metrics = [report["metrics"][0] for report in (first, second)]
    if any(metric[end] is None for metric in metrics for end in ("low", "value", "high")):
        return None
    return _interval_test(*map(Metric.model_validate, metrics))


def _retention_metric(model: Accuracy) -> Metric | None:
    """Return a model's retention as a metric, for which it was paired with the baseline; None if it has no interval."""
    if model.retention is None or model.retention_low is None or model.retention_high is None:
        return None
    return Metric(
        name="retention",
        value=model.retention,
        low=model.retention_low,
        high=model.retention_high,
        n=model.metrics[0].n,
    )


def _interval_test(one: Metric, two: Metric) -> PairedTest:
    """Test whether two intervals overlap: the values differ if they do not."""
    apart = two.low > one.high or two.high < one.low
    if not apart or abs(two.value - one.value) <= RANK_TOLERANCE:
        return PairedTest("no difference", None)
    return PairedTest("better" if (two.value > one.value) != one.smaller_is_better else "worse", None)


def hits_of(accuracy: Accuracy) -> tuple[bool, ...] | None:
    """Return which examples a model predicts correctly; None if it was not scored against labels."""
    if not accuracy.truth or len(accuracy.predictions) != len(accuracy.truth):
        return None
    return tuple(a == b for a, b in zip(accuracy.truth, accuracy.predictions, strict=True))


def encode_hits(hits: Sequence[bool]) -> str:
    """Encode four hits per hexadecimal digit, the first as highest bit, padded with zeros: (1, 0, 1, 1, 1) -> `b8`."""
    return np.packbits(np.asarray(hits, bool)).tobytes().hex()[: -(-len(hits) // 4)]


def decode_hits(text: str, examples: int) -> tuple[bool, ...]:
    """Decode the hits of `examples` examples that `encode_hits` encoded.

    Raises:
        ValueError: the length of the text does not match.
    """
    if len(text) != -(-examples // 4):
        raise ValueError(f"{len(text)} digits for {examples} examples")
    bits = f"{int(text or '0', 16):0{4 * len(text)}b}"
    return tuple(bit == "1" for bit in bits[:examples])


def retention_interval(baseline: Accuracy | None, model: Accuracy | None) -> tuple[float, float] | None:
    """Return the 95 % interval of the retention (model score / baseline score), as recorded or from paired predictions.

    None if nothing was recorded and the metric is not accuracy, or the examples differ.
    """
    if model is not None and model.retention_low is not None and model.retention_high is not None:
        return model.retention_low, model.retention_high
    if baseline is None or model is None or not (_is_hit_rate(baseline) and _is_hit_rate(model)):
        return None
    pair = paired_counts(baseline, model)
    return None if pair is None else ratio_interval(pair)


def ratio_interval(pair: PairedCounts) -> tuple[float, float] | None:
    """Return the 95 % interval of P(second is right) / P(first is right); valid without discordant examples too.

    Bonett and Price (2006), "Confidence intervals for a ratio of binomial proportions based on paired data", Statistics
    in Medicine 25: two Wilson intervals, at a level for which their quotient has the right coverage. None if one of the
    models is never right.
    """
    n = pair.both + pair.lost + pair.gained
    first, second = pair.both + pair.lost, pair.both + pair.gained
    if first == 0 or second == 0:
        return None
    paired_error = math.sqrt((pair.lost + pair.gained + 2) / ((first + 1) * (second + 1)))
    standard_errors = [math.sqrt((1 - (hits + 1) / (n + 2)) / (hits + 1)) for hits in (first, second)]
    z = normal_quantile() * paired_error / sum(standard_errors)
    first_low, first_high = wilson_bounds(first, n, z)
    second_low, second_high = wilson_bounds(second, n, z)
    return second_low / first_high, second_high / first_low


def _is_hit_rate(accuracy: Accuracy) -> bool:
    hits = hits_of(accuracy)
    if hits is None or not accuracy.metrics:
        return False
    return math.isclose(accuracy.metrics[0].value, sum(hits) / len(hits), abs_tol=1e-6)
