"""What the task is, said to compress."""

from __future__ import annotations

from compress.core.task_kind import MetricKind, Quantity, TaskKind

BITS = MetricKind(
    "bits_per_character",
    "bits per character",
    percent=False,
    test="paired bootstrap over the documents",
    smaller_is_better=True,
)

KIND = TaskKind(
    name="next-character",
    items="text",
    head="own",
    source="next_character.source:write_model",
    data="next_character.data",
    keys="next_character.keys:CharacterData",
    task="next_character.task:NextCharacter",
    record="next_character.record:bits_record",
    metrics=(BITS,),
    label_loss="next_character",
    logits=True,
    workloads="next_character.workloads:workloads",
    judges_all=True,
    quantities=(
        Quantity(
            "characters_per_s", "characters read", "characters/s", "fixed", "tokens_per_s", column="chars/s"
        ),
        Quantity("short_ms", "a short text", "ms", "fixed:8", "p50_ms"),
    ),
    bundle="next_character.bundle:CHARACTERS",
    starter="next_character.starter:STARTER",
    fit_score=lambda seen: 3 * (not seen.labels and not seen.pairs and not seen.images and not seen.embeds),
    against_baseline=True,
    sections=("next_character.sections:documents",),
    refused={
        "data.labels": "the next character is the truth, so there are no labels",
        "passes.prune": "the parts of a model of characters are its own, so nobody knows what could go",
        "passes.distill.augment": "there are no words to draw others for",
        "passes.distill.data_free": "there are no words to draw texts of",
    },
)
