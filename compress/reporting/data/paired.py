"""Two models on the same examples: what the predictions can and cannot tell apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.core.records import Accuracy
from compress.measuring.protocol import SAME_ORDER, SIGNIFICANCE
from compress.measuring.statistics import mcnemar_exact, normal_quantile, wilson_bounds


@dataclass(frozen=True)
class Paired:
    """How often only one of two models is right: `lost` only the first, `gained` only the second."""

    both: int
    lost: int
    gained: int

    @property
    def p_value(self) -> float:
        """Two-sided p of the exact McNemar test."""
        return mcnemar_exact(self.lost, self.gained)

    @property
    def verdict(self) -> str:
        """The second model against the first: `better`, `worse` or `no difference`."""
        if self.p_value >= SIGNIFICANCE:
            return "no difference"
        return "better" if self.gained > self.lost else "worse"


def paired(first: Accuracy | None, second: Accuracy | None) -> Paired | None:
    """The two models' hits and misses side by side; None where they were not scored on the same examples."""
    if first is None or second is None or not first.truth or first.truth != second.truth:
        return None
    if not len(first.predictions) == len(second.predictions) == len(first.truth):
        return None
    rows = zip(first.truth, first.predictions, second.predictions, strict=True)
    hits = [(truth == a, truth == b) for truth, a, b in rows]
    return Paired(hits.count((True, True)), hits.count((True, False)), hits.count((False, True)))


@dataclass(frozen=True)
class Told:
    """What the data say of a second model against a first: `better`, `worse` or `no difference`; the p of the test."""

    verdict: str
    p_value: float | None

    @property
    def differ(self) -> bool:
        """Whether the two can be told apart."""
        return self.verdict != "no difference"


def told(first: Accuracy | None, second: Accuracy | None) -> Told | None:
    """Two models on the same examples: by McNemar's test, and where there are no predictions by their intervals.

    Embeddings leave no predictions: two models of them differ where their 95 % intervals lie apart, which asks for more
    than a test of the pair would. None where the models were not scored on the same examples.
    """
    pair = paired(first, second)
    if pair is not None:
        return Told(pair.verdict, pair.p_value)
    if first is None or second is None or not (first.metrics and second.metrics):
        return None
    if first.against == "labels" or (first.against, first.examples) != (second.against, second.examples):
        return None
    one, two = (
        (each.metrics[0].low, each.metrics[0].value, each.metrics[0].high) for each in (first, second)
    )
    return _apart(one, two, first.metrics[0].smaller_is_better)


def told_values(first: Mapping[str, Any], second: Mapping[str, Any]) -> Told | None:
    """The same of what two reports hold of a target: `test_split`, `hits`, and `metrics` with their intervals."""
    if first.get("test_split") is None or first["test_split"] != second.get("test_split"):
        return None
    if first.get("hits") is not None and second.get("hits") is not None:
        pairs = list(
            zip(*(unpacked(each["hits"], each["examples"]) for each in (first, second)), strict=True)
        )
        pair = Paired(*(pairs.count(each) for each in ((True, True), (True, False), (False, True))))
        return Told(pair.verdict, pair.p_value)
    if first["against"] == "labels" or first["against"] != second["against"]:
        return None
    if not (first["metrics"] and second["metrics"]):
        return None
    one, two = (
        tuple(each["metrics"][0][key] for key in ("low", "value", "high")) for each in (first, second)
    )
    return (
        None if None in (*one, *two) else _apart(one, two, bool(first["metrics"][0].get("smaller_is_better")))
    )


def _apart(one: tuple[float, ...], two: tuple[float, ...], smaller_is_better: bool) -> Told:
    """What two intervals (low, value, high) say: the values differ where the intervals lie apart."""
    apart = two[0] > one[2] or two[2] < one[0]
    if not apart or abs(two[1] - one[1]) <= SAME_ORDER:
        return Told("no difference", None)
    return Told("better" if (two[1] > one[1]) != smaller_is_better else "worse", None)


def hits_of(accuracy: Accuracy) -> tuple[bool, ...] | None:
    """Which examples a model gets right; None where it was not scored against labels."""
    if not accuracy.truth or len(accuracy.predictions) != len(accuracy.truth):
        return None
    return tuple(a == b for a, b in zip(accuracy.truth, accuracy.predictions, strict=True))


def packed(hits: Sequence[bool]) -> str:
    """Four examples a hexadecimal digit, the first the highest bit, zeros at the end: (1, 0, 1, 1, 1) -> `b8`."""
    digits = -(-len(hits) // 4)
    bits = "".join("1" if hit else "0" for hit in hits).ljust(4 * digits, "0")
    return f"{int(bits, 2):0{digits}x}" if bits else ""


def unpacked(text: str, examples: int) -> tuple[bool, ...]:
    """The hits that `packed` wrote, of so many examples.

    Raises:
        ValueError: the text is not that of so many.
    """
    if len(text) != -(-examples // 4):
        raise ValueError(f"{len(text)} digits for {examples} examples")
    bits = f"{int(text or '0', 16):0{4 * len(text)}b}"
    return tuple(bit == "1" for bit in bits[:examples])


def retention_interval(baseline: Accuracy | None, model: Accuracy | None) -> tuple[float, float] | None:
    """The 95 % interval of the model's score over the baseline's: the recorded one, or that of paired predictions.

    None where nothing was recorded and the metric is not the share of right predictions, or the examples differ.
    """
    if model is not None and model.retention_low is not None and model.retention_high is not None:
        return model.retention_low, model.retention_high
    if baseline is None or model is None or not (_is_hit_rate(baseline) and _is_hit_rate(model)):
        return None
    pair = paired(baseline, model)
    return None if pair is None else ratio_interval(pair)


def ratio_interval(pair: Paired) -> tuple[float, float] | None:
    """The 95 % interval of P(second is right) / P(first is right), also where no example is discordant.

    Bonett and Price (2006), "Confidence intervals for a ratio of binomial proportions based on paired data",
    Statistics in Medicine 25: two Wilson intervals whose level is set so that their quotient has the right one.
    None where one of the two is never right.
    """
    n = pair.both + pair.lost + pair.gained
    first, second = pair.both + pair.lost, pair.both + pair.gained
    if first == 0 or second == 0:
        return None
    spread = math.sqrt((pair.lost + pair.gained + 2) / ((first + 1) * (second + 1)))
    alone = [math.sqrt((1 - (hits + 1) / (n + 2)) / (hits + 1)) for hits in (first, second)]
    z = normal_quantile() * spread / sum(alone)
    first_low, first_high = wilson_bounds(first, n, z)
    second_low, second_high = wilson_bounds(second, n, z)
    return second_low / first_high, second_high / first_low


def _is_hit_rate(accuracy: Accuracy) -> bool:
    if not accuracy.metrics or not accuracy.truth or len(accuracy.predictions) != len(accuracy.truth):
        return False
    return math.isclose(accuracy.metrics[0].value, _hit_rate(accuracy), abs_tol=1e-6)


def _hit_rate(accuracy: Accuracy) -> float:
    right: Sequence[bool] = [a == b for a, b in zip(accuracy.predictions, accuracy.truth, strict=True)]
    return sum(right) / len(right)
