"""Scores of a language model from sums per window, with bootstrap intervals and paired tests over documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.records import Accuracy, GeneratedAnswers, Metric, TaskScore, Verdict
from compress.core.task_kind import MetricKind
from compress.generation.validators import validator_of
from compress.measuring.accuracy import SPLIT, metric_record
from compress.measuring.protocol import RESAMPLES, SIGNIFICANCE
from compress.measuring.statistics import (
    bootstrap_p_value,
    bootstrap_ratios,
    paired_verdict,
    percentile_interval,
    wilson_interval,
)
from compress.tasks.base import Answers, Scored, Truth
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.kind import (
    AGREEMENT,
    BITS_PER_BYTE,
    DIVERGENCE,
    NEXT_TOKEN_ACCURACY,
    PERPLEXITY,
    RIGHT_ANSWERS,
    TASK_ACCURACY,
)

Floats = NDArray[np.float64]
MAX_CHARACTERS = 240
"""Maximum number of characters of a prompt or an answer in a record."""
MIN_DIFFERENCE = 1e-3
"""Smaller differences in log-perplexity count as equal: rounding may shift those of all texts in one direction."""


def language_record(scored: Scored) -> Accuracy:
    """Compute perplexity, bits per byte, next-token accuracy, and agreement with the baseline on the same tokens.

    Retention is the baseline's perplexity over the model's. If the model's tokenization differs from the baseline's,
    its perplexity is per token of the baseline, over the same bytes: per token of its own, shorter tokens would make it
    look better. Intervals are a bootstrap over the documents, and the difference in log-perplexity is tested on the
    same resamples (`log_perplexity_test`).
    """
    assert scored.reference is not None
    answers, reference = scored.answers, scored.reference
    documents = len(scored.examples)
    sums, baseline_sums = (
        {
            name: sum_by_document(outputs, outputs[name], documents)
            for name in ("nats", "tokens", "right", "bytes")
        }
        for outputs in (answers, reference)
    )
    agreement = _agreement_counts(answers, reference)
    token_counts = (
        sums["tokens"] if agreement is not None else _equivalent_tokens(baseline_sums, sums["bytes"])
    )
    ratios = [
        (sums["nats"], token_counts),
        (baseline_sums["nats"], baseline_sums["tokens"]),
        (sums["nats"], sums["bytes"]),
        (sums["right"], sums["tokens"]),
        *([] if agreement is None else [(sum_by_document(answers, agreement, documents), sums["tokens"])]),
    ]
    resampled, num_documents = bootstrap_ratios(ratios, scored.seed)
    log_perplexity, baseline, per_byte, *shares = resampled
    _, _, nats_per_byte, *mean_ratios = (
        float(numerator.sum() / denominator.sum()) for numerator, denominator in ratios
    )
    value = scored.task.score(answers, Truth.of(scored.examples)).value
    if agreement is None:
        value = float(np.exp(sums["nats"][token_counts > 0].sum() / token_counts.sum()))
    retention: float | None = 1.0
    p_value: float | None = None
    verdict: Verdict | None = None
    low: float | None = None
    high: float | None = None
    if scored.baseline is not None:
        retention = PERPLEXITY.retention(value, scored.baseline.metrics[0].value)
        p_value, worse = log_perplexity_test(log_perplexity - baseline, num_documents)
        verdict = "no difference" if p_value >= SIGNIFICANCE else "worse" if worse else "better"
        interval = percentile_interval(retention or 0.0, np.exp(baseline - log_perplexity), num_documents)
        low, high = interval.low, interval.high
    ln2 = float(np.log(2))
    tokens = int(sums["tokens"].sum())
    rows: list[tuple[MetricKind, float, Floats, int]] = [
        (PERPLEXITY, value, np.exp(log_perplexity), round(float(token_counts.sum()))),
        (BITS_PER_BYTE, nats_per_byte / ln2, per_byte / ln2, tokens),
        # With another tokenization than the baseline's there is no agreement.
        *((*one, tokens) for one in zip((NEXT_TOKEN_ACCURACY, AGREEMENT), mean_ratios, shares, strict=False)),
    ]
    if (divergence_draws := divergence(answers, documents, scored.baseline is None, scored.seed)) is not None:
        rows.append((DIVERGENCE, *divergence_draws, _num_compared(answers)))
    generated, tasks = generation_record(scored), compared_tasks(scored)
    return Accuracy(
        split=SPLIT,
        batch_size=scored.batch_size,
        metrics=(
            *(
                metric_record(metric, percentile_interval(mean, draws, num_documents), n)
                for metric, mean, draws, n in rows
            ),
            *([] if generated is None else [_share_metric(RIGHT_ANSWERS, generated.right)]),
            *([_share_metric(TASK_ACCURACY, [one for task in tasks for one in task.right])] if tasks else []),
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
        written=generated,
        tasks=tasks,
    )


def divergence(answers: Answers, documents: int, is_baseline: bool, seed: int) -> tuple[float, Floats] | None:
    """Return KL(baseline || model), as a mean over the compared tokens and for every resample of the documents.

    None if the model's tokenization differs from the baseline's.
    """
    if is_baseline:
        return 0.0, np.zeros(RESAMPLES)
    if "divergence" not in answers:
        return None
    counts = sum_by_document(answers, (answers["compared"] >= 0).sum(axis=1), documents)
    sums = sum_by_document(answers, answers["divergence"], documents)
    resampled, _ = bootstrap_ratios([(sums, counts)], seed)
    return float(sums.sum() / counts.sum()), resampled[0]


def generation_record(scored: Scored) -> GeneratedAnswers | None:
    """Return the generated answers with their correctness, and the exact McNemar test against the baseline's answers.

    Raises:
        DataError, ModelError: the validator cannot judge them.
    """
    prompts, data = scored.generation_prompts, scored.task.data
    if prompts is None or scored.generated_tokens is None:
        return None
    assert isinstance(data, LanguageData)
    assert data.answers is not None
    is_correct = validator_of(
        data.answers.validator, scored.base, allow_code=scored.allow_code, where="data.answers.validator"
    )
    answers = [prompts.decode(row[row >= 0].tolist()) for row in scored.generated_tokens]
    rows = zip(prompts.prompts, prompts.expected, answers, strict=True)
    correct = [is_correct(prompt, expected, answer) for prompt, expected, answer in rows]
    p_value: float | None = None
    verdict: Verdict | None = None
    baseline = None if scored.baseline is None else scored.baseline.written
    # A model with another tokenizer may have been given other examples.
    if baseline is not None and baseline.examples == prompts.examples:
        p_value, verdict = _mcnemar(baseline.right, correct)
    return GeneratedAnswers(
        validator=data.answers.validator,
        examples=prompts.examples,
        right=tuple(correct),
        p_value=p_value,
        verdict=verdict,
        # Keep the end of a prompt, which contains the question.
        prompts=tuple(prompt[-MAX_CHARACTERS:] for prompt in prompts.prompts),
        expected=tuple(expected[:MAX_CHARACTERS] for expected in prompts.expected),
        answers=tuple(answer[:MAX_CHARACTERS] for answer in answers),
    )


def compared_tasks(scored: Scored) -> tuple[TaskScore, ...]:
    """Return scores on further tasks, each with the exact McNemar test against the baseline on the same documents."""
    baseline = {} if scored.baseline is None else {score.task: score for score in scored.baseline.tasks}
    results = []
    for task in scored.tasks:
        baseline_task = baseline.get(task.task)
        if baseline_task is not None and baseline_task.documents == task.documents:
            p_value, verdict = _mcnemar(baseline_task.right, task.right)
            task = task.model_copy(update={"p_value": p_value, "verdict": verdict})
        results.append(task)
    return tuple(results)


def _mcnemar(before: Sequence[bool], after: Sequence[bool]) -> tuple[float, Verdict]:
    """Run the exact McNemar test on the correctness of answers to the same questions."""
    pairs = list(zip(before, after, strict=True))
    return paired_verdict(pairs.count((True, False)), pairs.count((False, True)))


def _share_metric(kind: MetricKind, right: Sequence[bool]) -> Metric:
    return metric_record(kind, wilson_interval(sum(right), len(right)), len(right))


def _num_compared(answers: Answers) -> int:
    return int((answers["compared"] >= 0).sum())


def log_perplexity_test(differences: Floats, documents: int) -> tuple[float, bool]:
    """Test whether a difference exceeds `MIN_DIFFERENCE`, given its value in each resample of this many documents.

    The p-value is based on the proportion of resamples in which the difference does not exceed `MIN_DIFFERENCE` on its
    side.

    Returns:
        The p-value, and whether the difference is above 0.
    """
    above, below = (
        float((differences <= MIN_DIFFERENCE).mean()),
        float((differences >= -MIN_DIFFERENCE).mean()),
    )
    return bootstrap_p_value(min(above, below), len(differences), documents), above < below


def _equivalent_tokens(baseline: Mapping[str, Floats], num_bytes: Floats) -> Floats:
    """Return the number of baseline tokens equivalent to `num_bytes` bytes of each document, (documents,).

    Used for the perplexity of a model with another tokenization. 0 where the baseline has no bytes.
    """
    tokens_per_byte = np.zeros_like(num_bytes)
    np.divide(baseline["tokens"], baseline["bytes"], out=tokens_per_byte, where=baseline["bytes"] > 0)
    return tokens_per_byte * num_bytes


def sum_by_document(answers: Answers, sums: NDArray[Any], documents: int) -> Floats:
    """Sum values per window (n,) by document (documents,): 0 without a window, as for a text of a single token."""
    return np.bincount(answers["document"], sums, documents).astype(np.float64)


def _agreement_counts(answers: Answers, reference: Answers) -> NDArray[np.int64] | None:
    """Count the positions per window where both models' most likely tokens agree; None if tokenizations differ."""
    model_tokens, baseline_tokens = answers["likeliest"], reference["likeliest"]
    if model_tokens.shape != baseline_tokens.shape or not np.array_equal(
        model_tokens >= 0, baseline_tokens >= 0
    ):
        return None
    return np.asarray(((model_tokens == baseline_tokens) & (model_tokens >= 0)).sum(axis=1))
