"""What sentence embedding is."""

from __future__ import annotations

from compress.core.task_kind import MetricKind, TaskKind

CORRELATION = MetricKind(
    "spearman", "Spearman correlation", percent=False, test="paired bootstrap over the pairs"
)
RECALL = MetricKind("recall_at_10", "recall@10")

KIND = TaskKind(
    name="sentence-embedding",
    items="text",
    head="pooled",
    data="compress.tasks.sentence_embedding.data",
    task="compress.tasks.sentence_embedding.task:SentenceEmbedding",
    record="compress.tasks.sentence_embedding.record:embedding_record",
    metrics=(CORRELATION, RECALL),
    label_loss=None,
    against_baseline=True,
)
