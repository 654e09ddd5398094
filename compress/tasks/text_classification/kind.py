"""Definition of the text classification task."""

from __future__ import annotations

from compress.core.task_kind import ACCURACY, LABEL_SECTIONS, MACRO_F1, TaskKind

KIND = TaskKind(
    name="text-classification",
    items="text",
    head="classifier",
    source="compress.sources.texts:write_text_model",
    data="compress.data.labelled",
    task="compress.tasks.text_classification.task:TextClassification",
    record="compress.measuring.accuracy:accuracy_record",
    metrics=(ACCURACY, MACRO_F1),
    label_loss="labels",
    logits=True,
    bundle="compress.bundles.answers:LABELS",
    starter="compress.tasks.text_classification.starter:STARTER",
    sections=LABEL_SECTIONS,
)
