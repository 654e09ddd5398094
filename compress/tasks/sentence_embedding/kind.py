"""Definition of the sentence embedding task."""

from __future__ import annotations

from compress.core.task_kind import MetricKind, TaskKind

CORRELATION = MetricKind(
    "spearman",
    "Spearman correlation",
    percent=False,
    test="paired bootstrap over the pairs",
    meanings={
        "baseline": (
            "The Spearman correlation is between the cosine similarities of pairs of test texts and the baseline's, so "
            "the baseline has 1 by definition: over all pairs of up to 2,000 texts, else over 2,000,000 evenly chosen "
            "ones. Its interval is a bootstrap over texts."
        ),
        "scores": (
            "The Spearman correlation is between the cosine similarities of the test pairs and their given scores; "
            "its interval is a bootstrap over pairs."
        ),
    },
)
RECALL = MetricKind(
    "recall_at_10",
    "recall@10",
    meanings=dict.fromkeys(
        ("baseline", "scores"),
        "Recall@10 is the share of a text's ten nearest neighbours by the baseline that are among its ten nearest by "
        "the model.",
    ),
)

KIND = TaskKind(
    name="sentence-embedding",
    items="text",
    head="pooled",
    source="compress.sources.texts:write_text_model",
    data="compress.tasks.sentence_embedding.data",
    task="compress.tasks.sentence_embedding.task:SentenceEmbedding",
    record="compress.tasks.sentence_embedding.record:embedding_record",
    metrics=(CORRELATION, RECALL),
    label_loss=None,
    bundle="compress.bundles.answers:VECTORS",
    starter="compress.tasks.sentence_embedding.starter:STARTER",
    fit_score=lambda seen: 2 * (seen.pairs or (seen.embeds and not seen.labels)),
    against_baseline=True,
    keys="compress.tasks.sentence_embedding.keys:SentenceData",
    uses={
        "data.pair_columns": "uses it",
        "data.score_column": "uses it",
        "data.sentences": "uses it",
        "teacher.pooling": "pools",
    },
    refused={
        "data.labels": "sentence embeddings have no labels",
        "teacher.finetune": (
            "a sentence encoder is used as it is: fine-tuning needs labels, which this task does not have"
        ),
    },
)
