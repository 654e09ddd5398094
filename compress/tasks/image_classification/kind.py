"""Definition of the image classification task."""

from __future__ import annotations

from compress.core.task_kind import ACCURACY, LABEL_SECTIONS, MACRO_F1, TaskKind

KIND = TaskKind(
    name="image-classification",
    items="image",
    head="classifier",
    source="compress.sources.images:write_image_model",
    data="compress.data.labelled",
    task="compress.tasks.image_classification.task:ImageClassification",
    record="compress.measuring.accuracy:accuracy_record",
    metrics=(ACCURACY, MACRO_F1),
    label_loss="labels",
    logits=True,
    bundle="compress.bundles.answers:LABELS",
    starter="compress.tasks.image_classification.starter:STARTER",
    fit_score=lambda seen: 3 * seen.images,
    refused={"data.sentences": "images have no sentences"},
    sections=LABEL_SECTIONS,
)
