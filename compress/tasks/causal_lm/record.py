"""Scores of a language model from sums per window, with bootstrap intervals and paired tests over documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.records import Accuracy, Metric, TaskScore, Verdict, Written
from compress.core.task_kind import MetricKind
from compress.generation.validators import validator_of
from compress.measuring.accuracy import SPLIT, metric_record
from compress.measuring.protocol import RESAMPLES, SIGNIFICANCE
from compress.measuring.statistics import (
    bootstrap_ratios,
    p_value_of_draws,
    paired_verdict,
    percentile_interval,
    wilson,
)
from compress.tasks.base import Answers, Scored, Truth
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.kind import AGREEMENT, BITS, DIVERGENCE, IN_TASKS, NEXT_TOKEN, PERPLEXITY, RIGHT

Floats = NDArray[np.float64]
SHOWN = 240
"""Maximum number of characters of a prompt or an answer in a record."""
SAME = 1e-3
"""Smaller differences in log-perplexity count as equal: rounding may shift those of all texts in one direction."""


def language_record(scored: Scored) -> Accuracy:
    """Compute perplexity, bits per byte, next-token accuracy, and agreement with the baseline on the same tokens.

    Retention is the baseline's perplexity over the model's. If the model's tokenization differs from the baseline's,
    its perplexity is per token of the baseline, over the same bytes: per token of its own, shorter tokens would make it
    look better. Intervals are a bootstrap over the documents, and the difference in log-perplexity is tested on the
    same resamples (`log_perplexity_test`).
    """
    assert scored.reference is not None
    own, theirs = scored.answers, scored.reference
    documents = len(scored.examples)
    sums, before = (
        {name: by_document(each, each[name], documents) for name in ("nats", "tokens", "right", "bytes")}
        for each in (own, theirs)
    )
    same = _agreed(own, theirs)
    per = sums["tokens"] if same is not None else _tokens_of(before, sums["bytes"])
    quotients = [
        (sums["nats"], per),
        (before["nats"], before["tokens"]),
        (sums["nats"], sums["bytes"]),
        (sums["right"], sums["tokens"]),
        *([] if same is None else [(by_document(own, same, documents), sums["tokens"])]),
    ]
    drawn, counted = bootstrap_ratios(quotients, scored.seed)
    log_perplexity, baseline, per_byte, *shares = drawn
    _, _, bytewise, *means = (float(above.sum() / below.sum()) for above, below in quotients)
    value = scored.task.score(own, Truth.of(scored.examples)).value
    if same is None:
        value = float(np.exp(sums["nats"][per > 0].sum() / per.sum()))
    retention: float | None = 1.0
    p_value: float | None = None
    verdict: Verdict | None = None
    low: float | None = None
    high: float | None = None
    if scored.baseline is not None:
        retention = PERPLEXITY.retention(value, scored.baseline.metrics[0].value)
        p_value, worse = log_perplexity_test(log_perplexity - baseline, counted)
        verdict = "no difference" if p_value >= SIGNIFICANCE else "worse" if worse else "better"
        kept = percentile_interval(retention or 0.0, np.exp(baseline - log_perplexity), counted)
        low, high = kept.low, kept.high
    nat = float(np.log(2))
    tokens = int(sums["tokens"].sum())
    found: list[tuple[MetricKind, float, Floats, int]] = [
        (PERPLEXITY, value, np.exp(log_perplexity), round(float(per.sum()))),
        (BITS, bytewise / nat, per_byte / nat, tokens),
        # With another tokenization than the baseline's there is no agreement.
        *((*one, tokens) for one in zip((NEXT_TOKEN, AGREEMENT), means, shares, strict=False)),
    ]
    if (diverged := divergence(own, documents, scored.baseline is None, scored.seed)) is not None:
        found.append((DIVERGENCE, *diverged, _compared(own)))
    written, tasks = written_record(scored), compared_tasks(scored)
    return Accuracy(
        split=SPLIT,
        batch_size=scored.batch_size,
        metrics=(
            *(
                metric_record(metric, percentile_interval(mean, draws, counted), n)
                for metric, mean, draws, n in found
            ),
            *([] if written is None else [_share(RIGHT, written.right)]),
            *([_share(IN_TASKS, [one for task in tasks for one in task.right])] if tasks else []),
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
        written=written,
        tasks=tasks,
    )


def divergence(own: Answers, documents: int, is_baseline: bool, seed: int) -> tuple[float, Floats] | None:
    """Return KL(baseline || model), as a mean over the compared tokens and for every resample of the documents.

    None if the model's tokenization differs from the baseline's.
    """
    if is_baseline:
        return 0.0, np.zeros(RESAMPLES)
    if "divergence" not in own:
        return None
    counts = by_document(own, (own["compared"] >= 0).sum(axis=1), documents)
    sums = by_document(own, own["divergence"], documents)
    drawn, _ = bootstrap_ratios([(sums, counts)], seed)
    return float(sums.sum() / counts.sum()), drawn[0]


def written_record(scored: Scored) -> Written | None:
    """Return the generated answers with their correctness, and the exact McNemar test against the baseline's answers.

    Raises:
        DataError, ModelError: the validator cannot judge them.
    """
    asked, data = scored.asked, scored.task.data
    if asked is None or scored.written is None:
        return None
    assert isinstance(data, LanguageData)
    assert data.answers is not None
    judge = validator_of(
        data.answers.validator, scored.base, allow_code=scored.allow_code, where="data.answers.validator"
    )
    answers = [asked.text(row[row >= 0].tolist()) for row in scored.written]
    rows = zip(asked.prompts, asked.expected, answers, strict=True)
    right = [judge(prompt, expected, answer) for prompt, expected, answer in rows]
    p_value: float | None = None
    verdict: Verdict | None = None
    before = None if scored.baseline is None else scored.baseline.written
    # A model with another tokenizer may have been given other examples.
    if before is not None and before.examples == asked.examples:
        p_value, verdict = _tested(before.right, right)
    return Written(
        validator=data.answers.validator,
        examples=asked.examples,
        right=tuple(right),
        p_value=p_value,
        verdict=verdict,
        # Keep the end of a prompt, which contains the question.
        prompts=tuple(prompt[-SHOWN:] for prompt in asked.prompts),
        expected=tuple(expected[:SHOWN] for expected in asked.expected),
        answers=tuple(answer[:SHOWN] for answer in answers),
    )


def compared_tasks(scored: Scored) -> tuple[TaskScore, ...]:
    """Return scores on further tasks, each with the exact McNemar test against the baseline on the same documents."""
    before = {} if scored.baseline is None else {one.task: one for one in scored.baseline.tasks}
    found = []
    for task in scored.tasks:
        known = before.get(task.task)
        if known is not None and known.documents == task.documents:
            p_value, verdict = _tested(known.right, task.right)
            task = task.model_copy(update={"p_value": p_value, "verdict": verdict})
        found.append(task)
    return tuple(found)


def _tested(before: Sequence[bool], after: Sequence[bool]) -> tuple[float, Verdict]:
    """Run the exact McNemar test on the correctness of answers to the same questions."""
    pairs = list(zip(before, after, strict=True))
    return paired_verdict(pairs.count((True, False)), pairs.count((False, True)))


def _share(kind: MetricKind, right: Sequence[bool]) -> Metric:
    return metric_record(kind, wilson(sum(right), len(right)), len(right))


def _compared(own: Answers) -> int:
    return int((own["compared"] >= 0).sum())


def log_perplexity_test(differences: Floats, documents: int) -> tuple[float, bool]:
    """Test whether a difference exceeds `SAME`, given its value in each resample of this many documents.

    The p-value is based on the proportion of resamples in which the difference does not exceed `SAME` on its side.

    Returns:
        The p-value, and whether the difference is above 0.
    """
    above, below = float((differences <= SAME).mean()), float((differences >= -SAME).mean())
    return p_value_of_draws(min(above, below), len(differences), documents), above < below


def _tokens_of(baseline: Mapping[str, Floats], size: Floats) -> Floats:
    """Return the number of baseline tokens equivalent to `size` bytes of each document, (documents,).

    Used for the perplexity of a model with another tokenization. 0 where the baseline has no bytes.
    """
    each = np.zeros_like(size)
    np.divide(baseline["tokens"], baseline["bytes"], out=each, where=baseline["bytes"] > 0)
    return each * size


def by_document(answers: Answers, sums: NDArray[Any], documents: int) -> Floats:
    """Sum values per window (n,) by document (documents,): 0 without a window, as for a text of a single token."""
    return np.bincount(answers["document"], sums, documents).astype(np.float64)


def _agreed(own: Answers, theirs: Answers) -> NDArray[np.int64] | None:
    """Count the positions per window where both models' most likely tokens agree; None if tokenizations differ."""
    ours, baseline = own["likeliest"], theirs["likeliest"]
    if ours.shape != baseline.shape or not np.array_equal(ours >= 0, baseline >= 0):
        return None
    return np.asarray(((ours == baseline) & (ours >= 0)).sum(axis=1))
