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
from tests import golden
from tests.profiles import write_profile

TEXT, IMAGE, SENTENCE = "text-classification", "image-classification", "sentence-embedding"
LANGUAGE = "causal-lm"
OK = "license: mit, license_ok: true"
ASKED = {"data": {"path": "data.csv", "prompt_column": "text", "completion_column": "label"}}
NEXT = "losses: [{next_token: {}}]"
BOTH = "losses: [{logits: {temperature: 1}}, {next_token: {}}]"


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
        ("decoder", "llama", pieces, True),
        ("otherdecoder", "llama", {"[UNK]": 0, "cat": 1, "dogs": 2}, True),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": kind}))
        tokenizer = {"normalizer": {"lowercase": lowercase}, "model": {"unk_token": "[UNK]", "vocab": words}}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(tokenizer))
    return tmp_path


def write(folder: Path, task: str, distill: str, changes: dict[str, Any]) -> Path:
    sections = {"task": task, "passes": [{"distill": yaml.safe_load(distill)}], **changes}
    return write_profile(folder / "p.yaml", **sections)


WORDS = "refused_teaching"
"""The file of `tests/golden` that holds what these say."""
REFUSED: list[tuple[str, str, dict[str, Any], list[str]]] = [
    (SENTENCE, "{losses: [{output: cosine}], control: true}", {}, ["passes.0.distill.control"]),
    (
        TEXT,
        "{data_free: {}, losses: [{logits: {}}], student: {choose: similarity}}",
        {},
        ["passes.0.distill.student.choose"],
    ),
    (
        SENTENCE,
        "{losses: [{output: cosine}]}",
        {"data": {"path": "data.csv", "sentences": True, "pair_columns": ["a", "b"], "labels": ["x", "y"]}},
        ["data.sentences", "data.labels"],
    ),
    (TEXT, "{ema: {}, online: {}, losses: [{logits: {}}, {labels: {}}]}", {}, ["passes.0.distill"]),
    (TEXT, "{ema: {}, losses: [{logits: {}}]}", {}, ["passes.0.distill.ema"]),
    (TEXT, "{online: {}, generations: 2}", {}, ["passes.0.distill"]),
    (TEXT, "{ema: {}, select: {right: true}}", {}, ["passes.0.distill"]),
    (TEXT, "{online: {}, teachers: [{}, {model: owner/b}]}", {}, ["passes.0.distill"]),
    (TEXT, "{online: {}, assistants: [{layers: 2}]}", {}, ["passes.0.distill"]),
    (TEXT, "{online: {}, stages: [{losses: [{logits: {}}]}]}", {}, ["passes.0.distill"]),
    (TEXT, "{keep: best}", {}, ["passes.0.distill"]),
    (TEXT, "{select: {}}", {}, ["passes.0.distill.select"]),
    (TEXT, "{data_free: {}}", {}, ["passes.0.distill"]),
    (TEXT, "{data_free: {}, losses: [{logits: {}}], augment: {}}", {}, ["passes.0.distill"]),
    (TEXT, "{losses: [{labels: {}}], generations: 2}", {}, ["passes.0.distill.generations"]),
    (TEXT, "{losses: [{labels: {}}], select: {right: true}}", {}, ["passes.0.distill.select"]),
    (TEXT, "{losses: [{hidden: cosine}]}", {}, ["passes.0.distill.losses"]),
    (
        TEXT,
        "{stages: [{losses: [{logits: {}}]}, {losses: [{hidden: mse}]}]}",
        {},
        ["passes.0.distill.stages"],
    ),
    (TEXT, "{losses: [{logits: {}}, {attention: spatial}]}", {}, ["passes.0.distill.losses.1"]),
    (
        TEXT,
        "{losses: [{logits: {}}, {attention: {of: scores, distance: kl}}]}",
        {},
        ["passes.0.distill.losses.1.attention"],
    ),
    (TEXT, "{losses: [{output: cosine}]}", {}, ["passes.0.distill.losses.0"]),
    (TEXT, "{data: unlabeled}", {}, ["passes.0.distill.data"]),
    (
        TEXT,
        "{stages: [{losses: [{labels: {}}], data: unlabeled}]}",
        {"data": {"path": "data.csv", "unlabeled": {"path": "data.csv"}}},
        ["passes.0.distill.stages.0.losses"],
    ),
    (
        TEXT,
        "{teachers: [{}, {model: owner/b}], losses: [{logits: {}}, {hidden: mse}]}",
        {},
        ["passes.0.distill.losses.1"],
    ),
    (
        TEXT,
        "{augment: {crop: 0.125, mixup: 0.5}}",
        {},
        ["passes.0.distill.augment.crop", "passes.0.distill.augment.mixup"],
    ),
    (
        IMAGE,
        "{augment: {copies: 4, replace: 0.0}}",
        {},
        ["passes.0.distill.augment.copies", "passes.0.distill.augment.replace"],
    ),
    (TEXT, "{data_free: {balance: 2}, losses: [{logits: {}}]}", {}, ["passes.0.distill.data_free.balance"]),
    (
        IMAGE,
        "{data_free: {length: [4, 32]}, losses: [{logits: {}}]}",
        {},
        ["passes.0.distill.data_free.length"],
    ),
    (
        IMAGE,
        "{data_free: {}, losses: [{logits: {}}], accumulate: 2, gradient_checkpointing: true}",
        {},
        ["passes.0.distill.accumulate", "passes.0.distill.gradient_checkpointing"],
    ),
    (
        IMAGE,
        "{data_free: {}, stages: [{losses: [{logits: {}}]}, {losses: [{logits: {}}]}]}",
        {},
        ["passes.0.distill.stages"],
    ),
    (
        TEXT,
        "{data_free: {length: [32, 4]}, losses: [{logits: {}}]}",
        {},
        ["passes.0.distill.data_free.length"],
    ),
    (
        TEXT,
        "{data_free: {length: [65, 128]}, losses: [{logits: {}}]}",
        {"data": {"path": "data.csv", "max_length": 64}},
        ["passes.0.distill.data_free.length"],
    ),
    (TEXT, "{}", {"passes": [{"quantize": {"equalize": True}}]}, ["passes.0.quantize.equalize"]),
    (TEXT, "{student: {architecture: vit}}", {}, ["passes.0.distill.student.architecture"]),
    (TEXT, "{student: {architecture: vit, model: owner/b}}", {}, ["passes.0.distill.student"]),
    (TEXT, "{student: {patch_size: 2}}", {}, ["passes.0.distill.student.patch_size"]),
    (TEXT, "{student: {model: owner/b}, vocabulary: trim}", {}, ["passes.0.distill.vocabulary"]),
    (TEXT, "{student: {model: missing/x.csv}}", {}, ["passes.0.distill.student.model"]),
    (TEXT, "{}", {"data": {"path": "data.csv", "image_size": [8, 8]}}, ["data.image_size"]),
    (TEXT, "{}", {"data": {"path": "data.csv", "sentences": True}}, ["data.sentences"]),
    (TEXT, "{}", {"teacher": {"model": "owner/model", "pooling": "cls"}}, ["teacher.pooling"]),
    (
        TEXT,
        "{}",
        {"teacher": {"model": "owner/model", "finetune": {"augment": True}}},
        ["teacher.finetune.augment"],
    ),
    (IMAGE, "{vocabulary: trim}", {}, ["passes.0.distill.vocabulary"]),
    (IMAGE, "{losses: [{logits: {}}, {masked_lm: {}}]}", {}, ["passes.0.distill.losses.1"]),
    (IMAGE, "{data_free: {}, losses: [{logits: {}}, {hidden: mse}]}", {}, ["passes.0.distill.losses.1"]),
    (IMAGE, "{}", {"targets": [{"sequence_lengths": [8]}]}, ["targets"]),
    (LANGUAGE, f"{{{NEXT}}}", {"targets": [{}, {"device": "cuda"}]}, ["targets.1.runtime"]),
    (SENTENCE, "{}", {}, ["passes.0.distill", "passes.0.distill"]),
    (
        SENTENCE,
        "{losses: [{similarity: {representation: outputs}}], select: {confidence: 0.5}}",
        {},
        ["passes.0.distill.select"],
    ),
    (
        SENTENCE,
        "{losses: [{output: cosine}], teachers: [{}, {model: owner/b}]}",
        {},
        ["passes.0.distill.teachers"],
    ),
    (
        SENTENCE,
        "{losses: [{output: cosine}]}",
        {"teacher": {"model": "owner/model", "finetune": {}}},
        ["teacher.finetune"],
    ),
    (
        IMAGE,
        "{losses: [{logits: {}}, {relation: {}}], student: {architecture: vit, layers: 1, hidden_size: 8, heads: 2, patch_size: 4}}",
        {"teacher": {"model": "convolutions", "finetune": {}}},
        ["passes.0.distill.losses.1"],
    ),
    (
        IMAGE,
        "{losses: [{logits: {}}, {attention: spatial}]}",
        {"teacher": {"model": "transformer", "finetune": {}}},
        ["passes.0.distill.losses.1"],
    ),
    (
        TEXT,
        "{student: {model: otherwords}, losses: [{logits: {}}, {relation: {}}], augment: {}}",
        {"teacher": {"model": "transformer"}},
        ["passes.0.distill.losses.1", "passes.0.distill.augment"],
    ),
    (
        TEXT,
        "{student: {model: cased}, losses: [{logits: {}}, {contrastive: {}}, {similarity: angle}]}",
        {"teacher": {"model": "transformer"}},
        ["passes.0.distill.losses.1", "passes.0.distill.losses.2"],
    ),
    (
        TEXT,
        "{teachers: [{model: otherwords}], losses: [{logits: {}}, {hidden: mse}]}",
        {"teacher": {"model": "transformer"}},
        ["passes.0.distill.losses.1"],
    ),
    (
        TEXT,
        "{teachers: [{}, {model: otherwords}], augment: {}}",
        {"teacher": {"model": "transformer"}},
        ["passes.0.distill.augment"],
    ),
    (
        TEXT,
        "{assistants: [{model: otherwords}], student: {model: transformer}, losses: [{logits: {}}, {hidden: mse}]}",
        {"teacher": {"model": "transformer"}},
        ["passes.0.distill.losses.1", "passes.0.distill.losses.1"],
    ),
    # What a teacher writes.
    (TEXT, f"{{sequence: {{{OK}}}, losses: [{{labels: {{}}}}]}}", {}, ["passes.0.distill.sequence"]),
    (LANGUAGE, f"{{sequence: {{}}, {NEXT}}}", ASKED, ["passes.0.distill.sequence"]),
    (LANGUAGE, "{sequence: {license: mit}}", ASKED, ["passes.0.distill.sequence"]),
    (
        LANGUAGE,
        "{sequence: {license: openai, license_ok: true}}",
        ASKED,
        ["passes.0.distill.sequence.license"],
    ),
    (
        LANGUAGE,
        "{sequence: {license: llama3, license_ok: true}, student: {architecture: llama, layers: 2, hidden_size: 64}}",
        ASKED,
        ["passes.0.distill.sequence.license"],
    ),
    (
        LANGUAGE,
        "{sequence: {license: other, license_ok: true, server: {url: 'https://a.b/v1', model: gpt-4o}}}",
        ASKED,
        ["passes.0.distill.sequence.license"],
    ),
    (LANGUAGE, f"{{sequence: {{{OK}, samples: 2}}}}", ASKED, ["passes.0.distill.sequence"]),
    (LANGUAGE, f"{{sequence: {{{OK}, top_k: 2}}}}", ASKED, ["passes.0.distill.sequence"]),
    (LANGUAGE, f"{{sequence: {{{OK}, ask: 'think'}}}}", ASKED, ["passes.0.distill.sequence"]),
    (LANGUAGE, f"{{sequence: {{{OK}, most: 128}}}}", ASKED, ["passes.0.distill.sequence.most"]),
    (
        LANGUAGE,
        f"{{sequence: {{{OK}, prompt_tokens: 8}}}}",
        ASKED,
        ["passes.0.distill.sequence.prompt_tokens"],
    ),
    (LANGUAGE, f"{{sequence: {{{OK}, prompt_tokens: 65}}}}", {}, ["passes.0.distill.sequence.prompt_tokens"]),
    (
        LANGUAGE,
        f"{{sequence: {{{OK}}}}}",
        {**ASKED, "train": {"nodes": 2, "rendezvous": "a:1"}},
        ["passes.0.distill.sequence"],
    ),
    # What it asks itself.
    (LANGUAGE, "{data_free: {}, losses: [{logits: {}}]}", ASKED, ["passes.0.distill.data_free"]),
    (LANGUAGE, "{data_free: {}, losses: [{next_token: {}}]}", ASKED, ["passes.0.distill"]),
    (
        LANGUAGE,
        f"{{data_free: {{words: 9, most: 65}}, sequence: {{{OK}}}}}",
        ASKED,
        ["passes.0.distill.data_free.words", "passes.0.distill.data_free.most"],
    ),
    (TEXT, "{data_free: {top_p: 0.9}, losses: [{logits: {}}]}", {}, ["passes.0.distill.data_free.top_p"]),
    (
        LANGUAGE,
        f"{{data_free: {{}}, sequence: {{{OK}, prompt_tokens: 8}}}}",
        {},
        ["passes.0.distill.sequence.prompt_tokens"],
    ),
    (LANGUAGE, f"{{data_free: {{}}, sequence: {{{OK}, own_answers: true}}}}", ASKED, ["passes.0.distill"]),
    (
        LANGUAGE,
        f"{{data_free: {{}}, sequence: {{{OK}}}, rejection: {{validator: exact, candidates: 1}}}}",
        ASKED,
        ["passes.0.distill"],
    ),
    (
        LANGUAGE,
        f"{{data_free: {{}}, sequence: {{{OK}}}}}",
        {**ASKED, "teacher": {"model": "decoder"}},
        ["passes.0.distill.data_free"],
    ),
    (
        LANGUAGE,
        f"{{data_free: {{}}, sequence: {{{OK}, server: {{url: 'https://a.b/v1', model: m}}}}}}",
        ASKED,
        ["passes.0.distill.sequence.server.api"],
    ),
    (
        LANGUAGE,
        f"{{sequence: {{{OK}, server: {{url: 'https://a.b/v1', model: m, template: teacher}}}}}}",
        ASKED,
        ["passes.0.distill.sequence.server"],
    ),
    (
        LANGUAGE,
        f"{{sequence: {{{OK}, server: {{url: 'https://a.b/v1', model: m, api: completions, template: teacher}}}}}}",
        {},
        ["passes.0.distill.sequence.server.template"],
    ),
    (
        LANGUAGE,
        f"{{sequence: {{{OK}, server: {{url: 'https://a.b/v1', model: m}}}}, losses: [{{next_token: {{}}}}, {{logits: {{}}}}]}}",
        ASKED,
        ["passes.0.distill.losses.1"],
    ),
    (LANGUAGE, f"{{data_free: {{}}, synthetic: {{}}, sequence: {{{OK}}}}}", {}, ["passes.0.distill"]),
    (LANGUAGE, f"{{{NEXT}, rejection: {{validator: exact}}}}", ASKED, ["passes.0.distill"]),
    (LANGUAGE, f"{{{NEXT}, reasoning: {{answer: 'regex:(x)'}}}}", ASKED, ["passes.0.distill"]),
    (LANGUAGE, f"{{sequence: {{{OK}}}, control: answers_only}}", ASKED, ["passes.0.distill"]),
    (
        LANGUAGE,
        f"{{sequence: {{{OK}}}, reasoning: {{answer: '(x)'}}}}",
        ASKED,
        ["passes.0.distill.reasoning"],
    ),
    (
        LANGUAGE,
        f"{{sequence: {{{OK}}}, reasoning: {{answer: 'regex:x'}}}}",
        ASKED,
        ["passes.0.distill.reasoning"],
    ),
    (
        LANGUAGE,
        f"{{sequence: {{{OK}}}, reasoning: {{answer: 'regex:(x)'}}}}",
        {},
        ["passes.0.distill.reasoning"],
    ),
    (
        LANGUAGE,
        f"{{sequence: {{{OK}}}, rejection: {{validator: sure, candidates: 1}}}}",
        ASKED,
        ["passes.0.distill.rejection.validator"],
    ),
    (LANGUAGE, f"{{sequence: {{{OK}}}, rejection: {{validator: exact}}}}", ASKED, ["passes.0.distill"]),
    (
        LANGUAGE,
        f"{{sequence: {{{OK}, temperature: 1, samples: 3}}, rejection: {{validator: exact}}}}",
        ASKED,
        ["passes.0.distill"],
    ),
    (
        LANGUAGE,
        f"{{sequence: {{{OK}, temperature: 1}}, rejection: {{validator: exact}}}}",
        {},
        ["passes.0.distill.rejection"],
    ),
    (LANGUAGE, "{synthetic: {}}", {}, ["passes.0.distill"]),
    (LANGUAGE, f"{{sequence: {{{OK}}}, synthetic: {{}}}}", ASKED, ["passes.0.distill.synthetic"]),
    (LANGUAGE, f"{{sequence: {{{OK}}}, synthetic: {{}}}}", {}, ["passes.0.distill.synthetic.passage_tokens"]),
    (LANGUAGE, f"{{sequence: {{{OK}, own_answers: true}}, synthetic: {{}}}}", {}, ["passes.0.distill"]),
    (
        LANGUAGE,
        f"{{sequence: {{{OK}}}, synthetic: {{}}, rejection: {{validator: exact, candidates: 1}}}}",
        {},
        ["passes.0.distill"],
    ),
    (LANGUAGE, f"{{sequence: {{{OK}}}, synthetic: {{ask: 'Ask!'}}}}", {}, ["passes.0.distill.synthetic"]),
    (LANGUAGE, f"{{sequence: {{{OK}}}, teachers: [{{}}, {{model: owner/b}}]}}", ASKED, ["passes.0.distill"]),
    *(
        (
            LANGUAGE,
            f"{{sequence: {{{OK}}}, losses: [{{logits: {{}}}}], {other}}}",
            ASKED,
            ["passes.0.distill"],
        )
        for other in (
            "select: {confidence: 0.5}",
            "online: {}",
            "ema: {}",
            "assistants: [{layers: 2}]",
            "generations: 2",
            "vocabulary: trim",
        )
    ),
    (
        LANGUAGE,
        f"{{sequence: {{{OK}}}, student: {{model: otherdecoder}}, losses: [{{logits: {{}}}}, {{next_token: {{}}}}]}}",
        {**ASKED, "teacher": {"model": "decoder"}},
        ["passes.0.distill.losses.0"],
    ),
    # What a student writes itself.
    (TEXT, "{on_policy: {}}", {}, ["passes.0.distill.on_policy"]),
    (
        LANGUAGE,
        "{on_policy: {lambda: 0}, losses: [{logits: {}}]}",
        ASKED,
        ["passes.0.distill.on_policy.lambda"],
    ),
    (
        LANGUAGE,
        "{on_policy: {lamda: 1}, losses: [{logits: {}}]}",
        ASKED,
        ["passes.0.distill.on_policy.lamda"],
    ),
    (LANGUAGE, f"{{on_policy: {{}}, {NEXT}}}", ASKED, ["passes.0.distill.losses"]),
    (LANGUAGE, f"{{on_policy: {{lambda: 1}}, {BOTH}}}", ASKED, ["passes.0.distill.losses.1"]),
    (LANGUAGE, f"{{on_policy: {{most: 128}}, {BOTH}}}", ASKED, ["passes.0.distill.on_policy.most"]),
    (
        LANGUAGE,
        f"{{on_policy: {{prompt_tokens: 8}}, {BOTH}}}",
        ASKED,
        ["passes.0.distill.on_policy.prompt_tokens"],
    ),
    (LANGUAGE, f"{{on_policy: {{most: 97}}, {BOTH}}}", {}, ["passes.0.distill.on_policy.prompt_tokens"]),
    (
        LANGUAGE,
        f"{{on_policy: {{}}, {BOTH}}}",
        {**ASKED, "train": {"processes": 2, "strategy": "fsdp"}},
        ["passes.0.distill.on_policy"],
    ),
    *(
        (LANGUAGE, f"{{on_policy: {{}}, {BOTH}, {other}}}", ASKED, ["passes.0.distill"])
        for other in (
            "online: {}",
            "ema: {}",
            "patience: 2",
            "vocabulary: trim",
            "select: {confidence: 0.5, right: true}",
            f"sequence: {{{OK}, server: {{url: 'https://a.b/v1', model: m}}}}",
            f"sequence: {{{OK}}}, synthetic: {{}}",
            f"sequence: {{{OK}}}, data_free: {{}}",
            f"sequence: {{{OK}, ask: 'Think! {{prompt}}'}}",
            f"sequence: {{{OK}}}, reasoning: {{answer: 'regex:(x)'}}, control: answers_only",
        )
    ),
    (
        LANGUAGE,
        f"{{on_policy: {{lambda: 1}}, sequence: {{{OK}}}, losses: [{{logits: {{}}}}]}}",
        ASKED,
        ["passes.0.distill"],
    ),
    (
        LANGUAGE,
        f"{{on_policy: {{}}, stages: [{{{BOTH}, on_policy: false}}, {{{BOTH}, on_policy: {{}}}}]}}",
        ASKED,
        ["passes.0.distill"],
    ),
    (
        LANGUAGE,
        f"{{stages: [{{{BOTH}}}, {{{BOTH}, on_policy: true}}]}}",
        ASKED,
        ["passes.0.distill.stages.1.on_policy"],
    ),
    (
        LANGUAGE,
        f"{{on_policy: {{}}, stages: [{{{NEXT}}}, {{{BOTH}}}]}}",
        ASKED,
        ["passes.0.distill.stages.0.losses"],
    ),
    (
        LANGUAGE,
        f"{{stages: [{{{NEXT}}}, {{{BOTH}, on_policy: {{lambda: 1, most: 200}}}}]}}",
        ASKED,
        ["passes.0.distill.stages.1.losses.1", "passes.0.distill.stages.1.on_policy.most"],
    ),
    (
        LANGUAGE,
        "{on_policy: {}, student: {model: otherdecoder}, losses: [{logits: {}}]}",
        {**ASKED, "teacher": {"model": "decoder"}},
        ["passes.0.distill.losses.0"],
    ),
]


def case_of(task: str, distill: str, changes: dict[str, Any]) -> str:
    return f"{task} {distill}" + (f" {json.dumps(changes)}" if changes else "")


@pytest.mark.parametrize(("task", "distill", "changes", "expected"), REFUSED, ids=[row[1] for row in REFUSED])
def test_refused(folder: Path, task: str, distill: str, changes: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(write(folder, task, distill, changes))
    assert [fault.path for fault in caught.value.faults] == expected
    said = [f"{fault.path}: {fault.message}".replace(str(folder), "FOLDER") for fault in caught.value.faults]
    golden.check(WORDS, case_of(task, distill, changes), said)


@pytest.mark.parametrize(
    ("distill", "changes"),
    [
        (f"{{sequence: {{{OK}}}}}", {}),
        (f"{{sequence: {{{OK}}}}}", ASKED),
        (f"{{sequence: {{{OK}, temperature: 1, top_p: 0.9, samples: 2}}, control: true}}", ASKED),
        (f"{{sequence: {{{OK}}}, stages: [{{losses: [{{logits: {{}}}}]}}, {{{NEXT}}}]}}", ASKED),
        (
            f"{{data_free: {{top_p: 0.9}}, sequence: {{{OK}}}, student: {{choose: similarity}}, control: true}}",
            {},
        ),
        (
            f"{{data_free: {{}}, sequence: {{{OK}, server: {{url: 'https://a.b/v1', model: m, api: completions, "
            "template: teacher}}, control: true}",
            ASKED,
        ),
        (
            f"{{sequence: {{{OK}, server: {{url: 'https://a.b/v1', model: m}}}}, teachers: [{{}}], "
            "losses: [{logits: {temperature: 1}}]}",
            ASKED,
        ),
        ("{sequence: {license: llama3, license_ok: true}, student: {layers: 2}}", ASKED),
        ("{sequence: {license: llama3.1, license_ok: true}, student: {model: owner/b}}", ASKED),
        (
            f"{{sequence: {{{OK}}}, student: {{model: otherdecoder}}}}",
            {**ASKED, "teacher": {"model": "decoder"}},
        ),
        (
            f"{{sequence: {{{OK}, server: {{url: 'https://a.b/v1', model: m}}}}}}",
            ASKED,
        ),
        (f"{{sequence: {{{OK}}}, teachers: [{{model: owner/b}}]}}", ASKED),
        (
            f"{{sequence: {{{OK}, temperature: 1}}, rejection: {{validator: contains, keep: 1}}, "
            "reasoning: {answer: 'regex:#(.*)'}, control: answers_only}",
            ASKED,
        ),
        (f"{{on_policy: {{}}, {BOTH}}}", {}),
        (f"{{on_policy: {{lambda: 1}}, {BOTH.replace(', {next_token: {}}', '')}, generations: 2}}", ASKED),
        (
            f"{{on_policy: {{}}, {BOTH}, sequence: {{{OK}}}, control: true}}",
            ASKED,
        ),
        (f"{{on_policy: {{}}, {BOTH}, select: {{confidence: 0.5}}}}", ASKED),
        (f"{{on_policy: {{}}, stages: [{{{NEXT}, on_policy: false}}, {{{BOTH}}}]}}", ASKED),
        (
            f"{{on_policy: {{}}, {BOTH}, teachers: [{{}}, {{model: owner/b}}], assistants: [{{layers: 2}}]}}",
            ASKED,
        ),
    ],
)
def test_texts_of_a_teacher_are_learnt(folder: Path, distill: str, changes: dict[str, Any]) -> None:
    load_profile(write(folder, LANGUAGE, distill, changes))


def test_every_wording_is_that_of_a_case() -> None:
    assert set(golden.cases(WORDS)) == {case_of(*row[:3]) for row in REFUSED}


PRUNED = {"remove": {"heads": 0.5}}
RECOVERIES = [
    (
        TEXT,
        {"prune": {**PRUNED, "recover": {"losses": [{"logits": {}}], "temperature": 4}}},
        "passes.0.prune.recover: temperature and losses cannot be combined: set the temperature in the loss, as in `logits: {temperature: 4}`",
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
        "passes.0.quantize.train.losses.1: embeddings are not logits and have no labels: use output, similarity, "
        "hidden or contrastive",
    ),
    (
        IMAGE,
        {"quantize": {"train": {"losses": [{"labels": {}}, {"masked_lm": {}}]}}},
        "passes.0.quantize.train.losses.1: images have no tokens to mask",
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
        "passes.1.prune.recover.losses.1: model and teacher have different tokenizers, so hidden cannot compare them "
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
    with pytest.raises(
        ProfileError, match=r"passes\.1\.distill\.losses\.1: student and teacher have different"
    ):
        load_profile(write(folder, TEXT, "{}", changes))


def test_a_smoothed_teacher_is_warned_of(folder: Path) -> None:
    teacher = {"teacher": {"model": "owner/model", "finetune": {"smoothing": 0.1}}}
    (warning,) = load_profile(write(folder, TEXT, "{}", teacher)).warnings
    assert warning.startswith(
        "teacher.finetune.smoothing: a teacher trained with label smoothing may distil worse"
    )
    assert load_profile(write(folder, TEXT, "{losses: [{labels: {}}]}", teacher)).warnings == ()


def test_words_that_are_softened_and_cut_off_are_warned_of(folder: Path) -> None:
    def warned(loss: str) -> int:
        distill = f"{{student: {{architecture: llama}}, losses: [{{logits: {loss}}}]}}"
        found = load_profile(write(folder, "causal-lm", distill, {"data": {"path": "data.csv"}})).warnings
        return sum("most of a language model's probability" in one for one in found)

    assert [warned(loss) for loss in ("{}", "{temperature: 1}", "{top_k: all}")] == [1, 0, 0]


def test_what_no_training_data_costs_is_not_measured_without_a_control(folder: Path) -> None:
    free = "{data_free: {}, losses: [{logits: {}}]}"
    assert load_profile(write(folder, TEXT, free, {})).warnings == (
        "passes.0.distill.data_free: the loss from not using training data will not be measured; "
        "with `control: true` the same student is also trained on the data, and the report compares them",
    )
    measured = "{data_free: {}, losses: [{logits: {}}], control: true}"
    assert load_profile(write(folder, TEXT, measured, {})).warnings == ()
