"""A table of ways of teaching that cannot work: each is refused by `validate` with its place and its exact reason."""

# ruff: noqa: E501 (a row of the table is one line)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.core.errors import ProfileError
from compress.profile.load import load_profile

TEXT, IMAGE, SENTENCE = "text-classification", "image-classification", "sentence-embedding"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.csv").write_text("text,label\nhello,a\n")
    pieces: dict[str, Any] = {"[UNK]": 0, "cat": 1, "##s": 2}
    for name, kind, words, lowercase in (
        ("convolutions", "resnet", {}, True),
        ("transformer", "bert", pieces, True),
        ("trimmed", "bert", {"[UNK]": 0, "cat": 0, "##s": 1}, True),
        ("otherwords", "bert", {"[UNK]": 0, "cat": 1, "dogs": 2}, True),
        ("cased", "bert", pieces, False),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": kind}))
        tokenizer = {
            "normalizer": {"lowercase": lowercase},
            "model": {"unk_token": "[UNK]", "vocab": words},
        }
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(tokenizer))
    return tmp_path


def write(folder: Path, task: str, distill: str, changes: dict[str, Any]) -> Path:
    body = {
        "name": "job",
        "task": task,
        "data": {"path": "data.csv"},
        "teacher": {"model": "owner/model"},
        "passes": [{"distill": yaml.safe_load(distill)}],
        **changes,
    }
    file = folder / "p.yaml"
    file.write_text(yaml.safe_dump(body, sort_keys=False))
    return file


REFUSED: list[tuple[str, str, dict[str, Any], list[str]]] = [
    (
        SENTENCE,
        "{losses: [{output: cosine}], control: true}",
        {},
        [
            "passes.0.distill.control: embeddings have no labels, so nobody could teach the same student without the teacher"
        ],
    ),
    (
        TEXT,
        "{data_free: {}, losses: [{logits: {}}], student: {choose: similarity}}",
        {},
        [
            "passes.0.distill.student.choose: data_free shows no examples to measure the similarity of layers on"
        ],
    ),
    (
        SENTENCE,
        "{losses: [{output: cosine}]}",
        {"data": {"path": "data.csv", "sentences": True, "pair_columns": ["a", "b"], "labels": ["x", "y"]}},
        [
            "data.sentences: given pairs are compared as they are, so their texts cannot be cut into sentences",
            "data.labels: sentence embeddings have no labels",
        ],
    ),
    (
        TEXT,
        "{ema: {}, online: {}, losses: [{logits: {}}, {labels: {}}]}",
        {},
        ["passes.0.distill: online and ema exclude each other: each decides alone who teaches"],
    ),
    (
        TEXT,
        "{ema: {}, losses: [{logits: {}}]}",
        {},
        [
            "passes.0.distill.ema: a student that follows its own average alone learns nothing: add a labels loss"
        ],
    ),
    (
        TEXT,
        "{online: {}, generations: 2}",
        {},
        ["passes.0.distill: online and generations exclude each other: a generation needs a fixed teacher"],
    ),
    (
        TEXT,
        "{ema: {}, select: {right: true}}",
        {},
        [
            "passes.0.distill: ema and select exclude each other: the teacher's answers are not known beforehand"
        ],
    ),
    (
        TEXT,
        "{online: {}, teachers: [{}, {model: owner/b}]}",
        {},
        ["passes.0.distill: online has one teacher by nature; leave `teachers` out"],
    ),
    (
        TEXT,
        "{online: {}, assistants: [{layers: 2}]}",
        {},
        ["passes.0.distill: online and assistants exclude each other"],
    ),
    (
        TEXT,
        "{online: {}, stages: [{losses: [{logits: {}}]}]}",
        {},
        ["passes.0.distill: online has one stage by nature; leave `stages` out"],
    ),
    (TEXT, "{keep: best}", {}, ["passes.0.distill: keep: best needs `generations` of 2 or more"]),
    (TEXT, "{select: {}}", {}, ["passes.0.distill.select: nothing is selected: set confidence or right"]),
    (TEXT, "{data_free: {}}", {}, ["passes.0.distill: data_free has no labels: leave the labels loss out"]),
    (
        TEXT,
        "{data_free: {}, losses: [{logits: {}}], augment: {}}",
        {},
        ["passes.0.distill: data_free shows no training data, so there is nothing to augment"],
    ),
    (
        TEXT,
        "{losses: [{labels: {}}], generations: 2}",
        {},
        [
            "passes.0.distill.generations: every loss looks at the labels alone: a generation would learn nothing new"
        ],
    ),
    (
        TEXT,
        "{losses: [{labels: {}}], select: {right: true}}",
        {},
        ["passes.0.distill.select: every loss looks at the labels alone, so nobody teaches"],
    ),
    (
        TEXT,
        "{losses: [{hidden: cosine}]}",
        {},
        [
            "passes.0.distill.losses: there is no loss that reaches the student's outputs: add logits, labels, output, or similarity with `representation: outputs`"
        ],
    ),
    (
        TEXT,
        "{stages: [{losses: [{logits: {}}]}, {losses: [{hidden: mse}]}]}",
        {},
        [
            "passes.0.distill.stages: the last stage has no loss that reaches the student's outputs: add logits, labels, output, or similarity with `representation: outputs`"
        ],
    ),
    (
        TEXT,
        "{losses: [{logits: {}}, {attention: spatial}]}",
        {},
        [
            "passes.0.distill.losses.1: models of texts have no spatial maps: use of: scores or of: probabilities"
        ],
    ),
    (
        TEXT,
        "{losses: [{logits: {}}, {attention: {of: scores, distance: kl}}]}",
        {},
        [
            "passes.0.distill.losses.1.attention: distance: kl compares probabilities; it cannot compare scores"
        ],
    ),
    (
        TEXT,
        "{losses: [{output: cosine}]}",
        {},
        ["passes.0.distill.losses.0: logits are compared by `logits`; `output` is for embeddings"],
    ),
    (
        TEXT,
        "{data: unlabeled}",
        {},
        ["passes.0.distill.data: `unlabeled` needs `data.unlabeled` in the profile"],
    ),
    (
        TEXT,
        "{stages: [{losses: [{labels: {}}], data: unlabeled}]}",
        {"data": {"path": "data.csv", "unlabeled": {"path": "data.csv"}}},
        [
            "passes.0.distill.stages.0.losses: unlabelled examples have no labels to learn from: add a loss with the teacher"
        ],
    ),
    (
        TEXT,
        "{teachers: [{}, {model: owner/b}], losses: [{logits: {}}, {hidden: mse}]}",
        {},
        [
            "passes.0.distill.losses.1: several teachers are averaged in their outputs; what lies inside them has no mean"
        ],
    ),
    (
        TEXT,
        "{augment: {crop: 0.125, mixup: 0.5}}",
        {},
        [
            "passes.0.distill.augment.crop: it serves images only; for texts there are: copies, replace, delete, splice, neighbours",
            "passes.0.distill.augment.mixup: it serves images only; for texts there are: copies, replace, delete, splice, neighbours",
        ],
    ),
    (
        IMAGE,
        "{augment: {copies: 4, replace: 0.0}}",
        {},
        [
            "passes.0.distill.augment.copies: it serves texts only; for images there are: flip, crop, mixup, cutmix",
            "passes.0.distill.augment.replace: it serves texts only; for images there are: flip, crop, mixup, cutmix",
        ],
    ),
    (
        TEXT,
        "{data_free: {balance: 2}, losses: [{logits: {}}]}",
        {},
        [
            "passes.0.distill.data_free.balance: it serves images only; for texts there are: length, words, rounds"
        ],
    ),
    (
        IMAGE,
        "{data_free: {length: [4, 32]}, losses: [{logits: {}}]}",
        {},
        [
            "passes.0.distill.data_free.length: it serves texts only; for images there are: generator_rate, student_steps, statistics, balance"
        ],
    ),
    (
        IMAGE,
        "{data_free: {}, stages: [{losses: [{logits: {}}]}, {losses: [{logits: {}}]}]}",
        {},
        [
            "passes.0.distill.stages: a generator of images teaches in one stage by nature; leave `stages` out and give `losses`"
        ],
    ),
    (
        TEXT,
        "{data_free: {length: [32, 4]}, losses: [{logits: {}}]}",
        {},
        [
            "passes.0.distill.data_free.length: the fewest tokens come first, then the most: [4, 32]",
        ],
    ),
    (
        TEXT,
        "{data_free: {length: [65, 128]}, losses: [{logits: {}}]}",
        {"data": {"path": "data.csv", "max_length": 64}},
        ["passes.0.distill.data_free.length: no text of 65 tokens fits into `data.max_length`, which is 64"],
    ),
    (
        TEXT,
        "{}",
        {"passes": [{"quantize": {"equalize": True}}]},
        [
            "passes.0.quantize.equalize: only convolutions are equalised, and models of texts have none; `smooth` is for their outliers"
        ],
    ),
    (
        TEXT,
        "{student: {architecture: vit}}",
        {},
        ["passes.0.distill.student.architecture: vit reads images, not texts"],
    ),
    (
        TEXT,
        "{student: {architecture: vit, model: owner/b}}",
        {},
        ["passes.0.distill.student: architecture and model are two ways to name the student; give one"],
    ),
    (
        TEXT,
        "{student: {patch_size: 2}}",
        {},
        ["passes.0.distill.student.patch_size: only a student with an `architecture` has patches to size"],
    ),
    (
        TEXT,
        "{student: {model: owner/b}, vocabulary: trim}",
        {},
        [
            "passes.0.distill.vocabulary: a student that stands ready keeps its own tokenizer; leave `vocabulary` out"
        ],
    ),
    (
        TEXT,
        "{student: {model: missing/x.csv}}",
        {},
        ["passes.0.distill.student.model: there is no {folder}/missing/x.csv"],
    ),
    (
        TEXT,
        "{}",
        {"data": {"path": "data.csv", "image_size": [8, 8]}},
        ["data.image_size: text-classification reads texts, not images"],
    ),
    (
        TEXT,
        "{}",
        {"data": {"path": "data.csv", "sentences": True}},
        ["data.sentences: only sentence-embedding uses it, not text-classification"],
    ),
    (
        TEXT,
        "{}",
        {"teacher": {"model": "owner/model", "pooling": "cls"}},
        ["teacher.pooling: only sentence-embedding pools, not text-classification"],
    ),
    (
        TEXT,
        "{}",
        {"teacher": {"model": "owner/model", "finetune": {"augment": True}}},
        ["teacher.finetune.augment: only images are shifted; texts are augmented in `distill`"],
    ),
    (IMAGE, "{vocabulary: trim}", {}, ["passes.0.distill.vocabulary: images have no vocabulary"]),
    (
        IMAGE,
        "{losses: [{logits: {}}, {masked_lm: {}}]}",
        {},
        ["passes.0.distill.losses.1: images have no tokens to hide"],
    ),
    (
        IMAGE,
        "{data_free: {}, losses: [{logits: {}}, {hidden: mse}]}",
        {},
        ["passes.0.distill.losses.1: images of a generator are taught by `logits` alone"],
    ),
    (
        IMAGE,
        "{}",
        {"targets": [{"sequence_lengths": [8]}]},
        ["targets: sequence_lengths are for texts: all images have one size"],
    ),
    (
        SENTENCE,
        "{}",
        {},
        [
            "passes.0.distill.losses.0: embeddings are no logits and have no labels: use output, similarity, hidden or contrastive",
            "passes.0.distill.losses.1: embeddings are no logits and have no labels: use output, similarity, hidden or contrastive",
        ],
    ),
    (
        SENTENCE,
        "{losses: [{similarity: {representation: outputs}}], select: {confidence: 0.5}}",
        {},
        ["passes.0.distill.select: it needs probabilities or labels, which embeddings have not"],
    ),
    (
        SENTENCE,
        "{losses: [{output: cosine}], teachers: [{}, {model: owner/b}]}",
        {},
        [
            "passes.0.distill.teachers: embeddings of different models have no common axes, so they cannot be averaged"
        ],
    ),
    (
        SENTENCE,
        "{losses: [{output: cosine}]}",
        {"teacher": {"model": "owner/model", "finetune": {}}},
        [
            "teacher.finetune: a sentence encoder is used as it is: fine-tuning needs labels, which this task has not"
        ],
    ),
    (
        IMAGE,
        "{losses: [{logits: {}}, {relation: {}}], student: {architecture: vit, layers: 1, hidden_size: 8, heads: 2, patch_size: 4}}",
        {"teacher": {"model": "convolutions", "finetune": {}}},
        ["passes.0.distill.losses.1: the teacher is a resnet, which has no attention to compare"],
    ),
    (
        IMAGE,
        "{losses: [{logits: {}}, {attention: spatial}]}",
        {"teacher": {"model": "transformer", "finetune": {}}},
        ["passes.0.distill.losses.1: the teacher is a bert, which has no maps of convolutions to compare"],
    ),
    (
        TEXT,
        "{student: {model: otherwords}, losses: [{logits: {}}, {relation: {}}], augment: {}}",
        {"teacher": {"model": "transformer"}},
        [
            "passes.0.distill.losses.1: student and teacher have unlike tokenizers, so relation cannot compare them token by token",
            "passes.0.distill.augment: student and teacher have unlike tokenizers, so new texts cannot be made for both",
        ],
    ),
    (
        TEXT,
        "{student: {model: cased}, losses: [{logits: {}}, {contrastive: {}}, {similarity: angle}]}",
        {"teacher": {"model": "transformer"}},
        [
            "passes.0.distill.losses.1: student and teacher have unlike tokenizers, so contrastive cannot compare them token by token",
            "passes.0.distill.losses.2: student and teacher have unlike tokenizers, so similarity cannot compare them token by token",
        ],
    ),
    (
        TEXT,
        "{teachers: [{model: otherwords}], losses: [{logits: {}}, {hidden: mse}]}",
        {"teacher": {"model": "transformer"}},
        [
            "passes.0.distill.losses.1: student and teacher have unlike tokenizers, so hidden cannot compare them token by token"
        ],
    ),
    (
        TEXT,
        "{teachers: [{}, {model: otherwords}], augment: {}}",
        {"teacher": {"model": "transformer"}},
        [
            "passes.0.distill.augment: student and teacher have unlike tokenizers, so new texts cannot be made for both"
        ],
    ),
    (
        TEXT,
        "{assistants: [{model: otherwords}], student: {model: transformer}, losses: [{logits: {}}, {hidden: mse}]}",
        {"teacher": {"model": "transformer"}},
        [
            "passes.0.distill.losses.1: assistant 1 and teacher have unlike tokenizers, so hidden cannot compare them token by token",
            "passes.0.distill.losses.1: student and assistant 1 have unlike tokenizers, so hidden cannot compare them token by token",
        ],
    ),
]


@pytest.mark.parametrize(("task", "distill", "changes", "expected"), REFUSED, ids=[row[1] for row in REFUSED])
def test_refused(folder: Path, task: str, distill: str, changes: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(write(folder, task, distill, changes))
    found = [f"{fault.path}: {fault.message}" for fault in caught.value.faults]
    assert found == [line.replace("{folder}", str(folder)) for line in expected]


PRUNED = {"remove": {"heads": 0.5}}
RECOVERIES = [
    (
        TEXT,
        {"prune": {**PRUNED, "recover": {"losses": [{"logits": {}}], "temperature": 4}}},
        "passes.0.prune.recover: temperature and losses exclude each other: write it into the loss, as in `logits: {temperature: 4}`",
    ),
    (
        TEXT,
        {"prune": {**PRUNED, "recover": {"losses": [{"logits": {}}, {"output": "cosine"}]}}},
        "passes.0.prune.recover.losses.1: logits are compared by `logits`; `output` is for embeddings",
    ),
    (
        TEXT,
        {"low_rank": {"ratio": 0.5, "recover": {"losses": [{"hidden": "mse"}]}}},
        "passes.0.low_rank.recover.losses: there is no loss that reaches the student's outputs: add logits, labels, output, or similarity with `representation: outputs`",
    ),
    (
        SENTENCE,
        {"quantize": {"train": {"losses": [{"output": {}}, {"logits": {}}]}}},
        "passes.0.quantize.train.losses.1: embeddings are no logits and have no labels: use output, similarity, hidden or contrastive",
    ),
    (
        IMAGE,
        {"quantize": {"train": {"losses": [{"labels": {}}, {"masked_lm": {}}]}}},
        "passes.0.quantize.train.losses.1: images have no tokens to hide",
    ),
    (
        TEXT,
        {"low_rank": {"ratio": 0.5, "recover": {"losses": [{"logit": {}}]}}},
        "passes.0.low_rank.recover.losses.0: unknown name 'logit'; did you mean `logits`?",
    ),
    (
        TEXT,
        {"prune": {**PRUNED, "recover": {"losses": []}}},
        "passes.0.prune.recover.losses: tuple should have at least 1 item after validation, not 0, not []",
    ),
]


@pytest.mark.parametrize(("task", "entry", "expected"), RECOVERIES, ids=[row[2][:60] for row in RECOVERIES])
def test_a_recovery_is_checked_as_a_distillation_is(
    folder: Path, task: str, entry: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(write(folder, task, "{}", {"passes": [entry]}))
    assert [f"{fault.path}: {fault.message}" for fault in caught.value.faults] == [expected]


def test_a_recovery_is_checked_by_the_files_of_the_models(folder: Path) -> None:
    recover = {"losses": [{"logits": {}}, {"hidden": "mse"}]}
    distil = {"distill": {"student": {"model": "otherwords"}, "losses": [{"logits": {}}]}}
    passes = [distil, {"prune": {**PRUNED, "recover": recover}}]
    with pytest.raises(ProfileError) as caught:
        load_profile(write(folder, TEXT, "{}", {"teacher": {"model": "transformer"}, "passes": passes}))
    assert [f"{fault.path}: {fault.message}" for fault in caught.value.faults] == [
        "passes.1.prune.recover.losses.1: model and teacher have unlike tokenizers, so hidden cannot compare them "
        "token by token"
    ]
    # The model that is pruned is the teacher's own.
    load_profile(write(folder, TEXT, "{}", {"teacher": {"model": "transformer"}, "passes": passes[1:]}))


ALLOWED = [
    (TEXT, "{stages: [{losses: [{hidden: mse}, {embedding: {}}]}, {losses: [{logits: {}}]}]}"),
    (TEXT, "{teachers: [{weight: 2}, {model: owner/b, finetune: {}}], combine: logits}"),
    (TEXT, "{select: {confidence: 0.5, right: true}, generations: 3, keep: ensemble}"),
    (TEXT, "{assistants: [{layers: 4, hidden_size: 256}], control: true}"),
    (TEXT, "{online: {}, losses: [{logits: {}}, {labels: {}}]}"),
    (TEXT, "{ema: {decay: 0.99}}"),
    (TEXT, "{data_free: {}, losses: [{logits: {}}], vocabulary: trim, control: true}"),
    (TEXT, "{data_free: {length: [8, 8]}, losses: [{logits: {}}], control: true}"),
    (TEXT, "{data_free: {}, stages: [{losses: [{logits: {}}]}, {losses: [{logits: {}}]}], control: true}"),
    (IMAGE, "{data_free: {balance: 2}, losses: [{logits: {}}], control: true}"),
    (TEXT, "{augment: {copies: 4, splice: 0}}"),
    (TEXT, "{losses: [{logits: {hard: true}}, {relation: {relations: [qq, kk, vv], heads: 16}}]}"),
    (
        IMAGE,
        "{augment: {mixup: 0.5, cutmix: 0.5}, student: {architecture: deit, layers: 4, hidden_size: 64}}",
    ),
    (IMAGE, "{losses: [{logits: {}}, {attention: spatial}, {similarity: angle}]}"),
    (SENTENCE, "{losses: [{similarity: {representation: outputs}}, {output: cosine}]}"),
]


@pytest.mark.parametrize(("task", "distill"), ALLOWED, ids=[row[1] for row in ALLOWED])
def test_allowed(folder: Path, task: str, distill: str) -> None:
    assert load_profile(write(folder, task, distill, {})).warnings == ()


INNER = "losses: [{logits: {}}, {hidden: mse}]"
ALIKE = [
    (f"{{student: {{model: trimmed}}, {INNER}, augment: {{}}}}", "transformer"),
    (f"{{student: {{model: transformer}}, {INNER}}}", "trimmed"),
    # Who teaches is the entry of `teachers`, whatever the profile's teacher is.
    (f"{{teachers: [{{model: otherwords}}], student: {{model: otherwords}}, {INNER}}}", "transformer"),
    # What is made of an assistant has its tokenizer.
    (f"{{assistants: [{{model: trimmed}}], {INNER}}}", "transformer"),
    ("{student: {model: otherwords}, losses: [{logits: {}}, {hidden: mse}, {labels: {}}], ema: {}}", "cased"),
    ("{student: {model: otherwords}, losses: [{similarity: {representation: outputs}}]}", "transformer"),
]


@pytest.mark.parametrize(("distill", "teacher"), ALIKE, ids=[row[0] for row in ALIKE])
def test_allowed_by_the_files_of_the_models(folder: Path, distill: str, teacher: str) -> None:
    load_profile(write(folder, TEXT, distill, {"teacher": {"model": teacher}}))


def test_a_later_distillation_starts_from_the_tokenizer_of_the_one_before(folder: Path) -> None:
    first = {"distill": {"student": {"model": "otherwords"}, "losses": [{"logits": {}}]}}
    second = {"distill": {"losses": [{"logits": {}}, {"hidden": "mse"}]}}
    changes = {"teacher": {"model": "transformer"}, "passes": [first, second]}
    with pytest.raises(ProfileError, match=r"passes\.1\.distill\.losses\.1: student and teacher have unlike"):
        load_profile(write(folder, TEXT, "{}", changes))


def test_a_smoothed_teacher_is_warned_of(folder: Path) -> None:
    teacher = {"teacher": {"model": "owner/model", "finetune": {"smoothing": 0.1}}}
    (warning,) = load_profile(write(folder, TEXT, "{}", teacher)).warnings
    assert warning.startswith(
        "teacher.finetune.smoothing: a teacher trained with smoothed labels may distil worse"
    )
    assert load_profile(write(folder, TEXT, "{losses: [{labels: {}}]}", teacher)).warnings == ()


def test_what_no_training_data_costs_is_not_measured_without_a_control(folder: Path) -> None:
    free = "{data_free: {}, losses: [{logits: {}}]}"
    assert load_profile(write(folder, TEXT, free, {})).warnings == (
        "passes.0.distill.data_free: how much is lost by showing no training data will not be measured; "
        "`control: true` teaches the same student with the data too, and the report compares them",
    )
    measured = "{data_free: {}, losses: [{logits: {}}], control: true}"
    assert load_profile(write(folder, TEXT, measured, {})).warnings == ()
