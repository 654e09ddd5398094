"""Definition of the causal language modelling task."""

from __future__ import annotations

from compress.core.task_kind import MetricKind, Quantity, TaskKind

_DOCUMENT_BOOTSTRAP = "paired bootstrap over the documents"
PERPLEXITY = MetricKind(
    "perplexity",
    "perplexity",
    percent=False,
    test=_DOCUMENT_BOOTSTRAP,
    smaller_is_better=True,
    meanings={
        "examples": (
            "Perplexity is the exponential of the mean negative log-likelihood per token: less is better. Of a model "
            "with other tokens than the baseline's it is per token of the baseline (over the same bytes), and its "
            "next-token accuracy is not comparable. Intervals are a bootstrap over the documents."
        )
    },
    count_unit="tokens",
)
BITS_PER_BYTE = MetricKind("bits_per_byte", "bits per byte", percent=False, smaller_is_better=True)
NEXT_TOKEN_ACCURACY = MetricKind("next_token_accuracy", "next-token accuracy")
DIVERGENCE = MetricKind(
    "divergence", "KL from the baseline, nats per token", percent=False, smaller_is_better=True
)
RIGHT_ANSWERS = MetricKind("right_answers", "right answers", test="exact McNemar test", column="right")
TASK_ACCURACY = MetricKind("task_accuracy", "lm-eval accuracy", test="exact McNemar test", column="in tasks")
AGREEMENT = MetricKind("agreement", "agreement with the baseline's most likely token")
PROMPT_TOKENS = 128
"""Number of prompt tokens if a target names no lengths."""
ANSWER_TOKENS = 32
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
    metrics=(
        PERPLEXITY,
        BITS_PER_BYTE,
        NEXT_TOKEN_ACCURACY,
        AGREEMENT,
        DIVERGENCE,
        RIGHT_ANSWERS,
        TASK_ACCURACY,
    ),
    label_loss="next_token",
    logits=True,
    generates=True,
    workloads="compress.tasks.causal_lm.workloads:workloads",
    bundle="compress.tasks.causal_lm.bundle:TEXTS",
    starter="compress.tasks.causal_lm.starter:STARTER",
    fit_score=lambda seen: 4 * seen.generates,
    against_baseline=True,
    memory_workloads="compress.tasks.causal_lm.workloads:memory_workloads",
    positions=lambda lengths: max(lengths or (PROMPT_TOKENS,)) + ANSWER_TOKENS,
    quantities=QUANTITIES,
    prompts_for="compress.tasks.causal_lm.asking:generation_prompts",
    harness_scores="compress.tasks.causal_lm.harness.scores:harness_scores",
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
