"""Definition of the causal language modelling task."""

from __future__ import annotations

from compress.core.task_kind import MetricKind, Quantity, TaskKind

_BY_DOCUMENT = "paired bootstrap over the documents"
PERPLEXITY = MetricKind(
    "perplexity",
    "perplexity",
    percent=False,
    test=_BY_DOCUMENT,
    smaller_is_better=True,
    meanings={
        "examples": (
            "Perplexity is the exponential of the mean negative log-likelihood per token: less is better. Of a model "
            "with other tokens than the baseline's it is per token of the baseline (over the same bytes), and its "
            "next-token accuracy is not comparable. Intervals are a bootstrap over the documents."
        )
    },
    counts="tokens",
)
BITS = MetricKind("bits_per_byte", "bits per byte", percent=False, smaller_is_better=True)
NEXT_TOKEN = MetricKind("next_token_accuracy", "next-token accuracy")
DIVERGENCE = MetricKind(
    "divergence", "KL from the baseline, nats per token", percent=False, smaller_is_better=True
)
RIGHT = MetricKind("right_answers", "right answers", test="exact McNemar test", column="right")
IN_TASKS = MetricKind("task_accuracy", "lm-eval accuracy", test="exact McNemar test", column="in tasks")
AGREEMENT = MetricKind("agreement", "agreement with the baseline's most likely token")
PROMPT = 128
"""Number of prompt tokens if a target names no lengths."""
ANSWER = 32
"""Number of tokens generated after the longest prompt when memory is measured."""
QUANTITIES = (
    Quantity("decode_tokens_per_s", "writing", "tokens/s", "write", "examples_per_s", "tokens/s"),
    Quantity("first_token_ms", "the first token", "ms", "read", "p50_ms", "first ms"),
    Quantity("prefill_tokens_per_s", "reading a prompt", "tokens/s", "read", "tokens_per_s"),
    Quantity("token_p50_ms", "each further token", "ms", "write", "p50_ms"),
    Quantity("token_p95_ms", "each further token, 95th percentile", "ms", "write", "p95_ms"),
)

KIND = TaskKind(
    name="causal-lm",
    items="text",
    head="own",
    source="compress.tasks.causal_lm.source:write_model",
    data="compress.tasks.causal_lm.data",
    keys="compress.tasks.causal_lm.keys:LanguageData",
    task="compress.tasks.causal_lm.task:CausalLanguageModel",
    record="compress.tasks.causal_lm.record:language_record",
    metrics=(PERPLEXITY, BITS, NEXT_TOKEN, AGREEMENT, DIVERGENCE, RIGHT, IN_TASKS),
    label_loss="next_token",
    logits=True,
    writes=True,
    workloads="compress.tasks.causal_lm.workloads:workloads",
    bundle="compress.tasks.causal_lm.bundle:TEXTS",
    starter="compress.tasks.causal_lm.starter:STARTER",
    likely=lambda seen: 4 * seen.writes,
    against_baseline=True,
    weighed="compress.tasks.causal_lm.workloads:weighed",
    positions=lambda lengths: max(lengths or (PROMPT,)) + ANSWER,
    quantities=QUANTITIES,
    asks="compress.tasks.causal_lm.asking:asked",
    scored_in="compress.tasks.causal_lm.harness.scores:scored_in",
    sections=("compress.tasks.causal_lm.sections:answers", "compress.tasks.causal_lm.sections:tasks"),
    uses={
        "teacher.config": "trains a model from scratch",
        "teacher.adapter": "adds an adapter to a model's weights",
    },
    refused={
        "data.labels": "the next token is the target, so there are no labels",
        "data.unlabeled": "every text is its own target: give all of them as `data.path`",
        "passes.distill.augment": (
            "text augmentation is for encoder classifiers; a language model learns from the texts of the data only"
        ),
    },
)
