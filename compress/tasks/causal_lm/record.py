"""From sums by window to the scores of a language model, with intervals and the paired test over documents."""

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
from compress.measuring.statistics import around, p_value_of_draws, paired_verdict, quotients_drawn, wilson
from compress.tasks.base import Answers, Scored, Truth
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.kind import AGREEMENT, BITS, DIVERGENCE, IN_TASKS, NEXT_TOKEN, PERPLEXITY, RIGHT

Floats = NDArray[np.float64]
SHOWN = 240
"""Letters of a prompt or an answer that a record keeps, at most."""
SAME = 1e-3
"""Log-perplexities that differ by less are the same: rounding alone may move those of all texts the same way."""


def language_record(scored: Scored) -> Accuracy:
    """Perplexity, bits per byte, next-token accuracy, and agreement with the baseline on the same tokens.

    Retention is the baseline's perplexity over the model's. The perplexity of a model that reads other tokens than the
    baseline is per token of the baseline, over the same bytes: per token of its own, it would be the better the shorter
    its tokens are. Intervals are a bootstrap over the documents, and a test of the difference in log-perplexity on the
    same resamples (`told_apart`).
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
    drawn, counted = quotients_drawn(quotients, scored.seed)
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
        p_value, worse = told_apart(log_perplexity - baseline, counted)
        verdict = "no difference" if p_value >= SIGNIFICANCE else "worse" if worse else "better"
        kept = around(retention or 0.0, np.exp(baseline - log_perplexity), counted)
        low, high = kept.low, kept.high
    nat = float(np.log(2))
    tokens = int(sums["tokens"].sum())
    found: list[tuple[MetricKind, float, Floats, int]] = [
        (PERPLEXITY, value, np.exp(log_perplexity), round(float(per.sum()))),
        (BITS, bytewise / nat, per_byte / nat, tokens),
        # Of other tokens than the baseline's there is no agreement.
        *((*one, tokens) for one in zip((NEXT_TOKEN, AGREEMENT), means, shares, strict=False)),
    ]
    if (diverged := divergence(own, documents, scored.baseline is None, scored.seed)) is not None:
        found.append((DIVERGENCE, *diverged, _compared(own)))
    written, tasks = written_record(scored), compared_tasks(scored)
    return Accuracy(
        split=SPLIT,
        batch_size=scored.batch_size,
        metrics=(
            *(metric_record(metric, around(mean, draws, counted), n) for metric, mean, draws, n in found),
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
    """KL(baseline || model), the mean over the tokens that are compared, and in every resample of the documents; None
    where the model reads other tokens than the baseline."""
    if is_baseline:
        return 0.0, np.zeros(RESAMPLES)
    if "divergence" not in own:
        return None
    counts = by_document(own, (own["compared"] >= 0).sum(axis=1), documents)
    sums = by_document(own, own["divergence"], documents)
    drawn, _ = quotients_drawn([(sums, counts)], seed)
    return float(sums.sum() / counts.sum()), drawn[0]


def written_record(scored: Scored) -> Written | None:
    """What was answered in words, whether it is right, and the exact McNemar test against the baseline's answers.

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
    # A model with another tokenizer may have been asked other examples.
    if before is not None and before.examples == asked.examples:
        p_value, verdict = _tested(before.right, right)
    return Written(
        validator=data.answers.validator,
        examples=asked.examples,
        right=tuple(right),
        p_value=p_value,
        verdict=verdict,
        # Of a prompt the end is what is asked.
        prompts=tuple(prompt[-SHOWN:] for prompt in asked.prompts),
        expected=tuple(expected[:SHOWN] for expected in asked.expected),
        answers=tuple(answer[:SHOWN] for answer in answers),
    )


def compared_tasks(scored: Scored) -> tuple[TaskScore, ...]:
    """The scores in further tasks, each with the exact McNemar test against the baseline on the same documents."""
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
    """The exact McNemar test of what is right of the same questions."""
    pairs = list(zip(before, after, strict=True))
    return paired_verdict(pairs.count((True, False)), pairs.count((False, True)))


def _share(kind: MetricKind, right: Sequence[bool]) -> Metric:
    return metric_record(kind, wilson(sum(right), len(right)), len(right))


def _compared(own: Answers) -> int:
    return int((own["compared"] >= 0).sum())


def told_apart(differences: Floats, documents: int) -> tuple[float, bool]:
    """The p-value of a difference beyond `SAME`, from a difference for each resample of so many documents, and whether
    it is above 0.

    By the share of the resamples in which the difference is not beyond `SAME` on its side.
    """
    above, below = float((differences <= SAME).mean()), float((differences >= -SAME).mean())
    return p_value_of_draws(min(above, below), len(differences), documents), above < below


def _tokens_of(baseline: Mapping[str, Floats], size: Floats) -> Floats:
    """The baseline's tokens of so many bytes of each document (documents,): what the perplexity of a model is held
    against that reads other tokens; of its own it says nothing of another's. 0 where the baseline has none."""
    each = np.zeros_like(size)
    np.divide(baseline["tokens"], baseline["bytes"], out=each, where=baseline["bytes"] > 0)
    return each * size


def by_document(answers: Answers, sums: NDArray[Any], documents: int) -> Floats:
    """Sums by window (n,) -> sums by document (documents,): 0 of a text that has no window, as one of one token."""
    return np.bincount(answers["document"], sums, documents).astype(np.float64)


def _agreed(own: Answers, theirs: Answers) -> NDArray[np.int64] | None:
    """On how many tokens of each window both have the same likeliest token; None where they read other tokens."""
    ours, baseline = own["likeliest"], theirs["likeliest"]
    if ours.shape != baseline.shape or not np.array_equal(ours >= 0, baseline >= 0):
        return None
    return np.asarray(((ours == baseline) & (ours >= 0)).sum(axis=1))
