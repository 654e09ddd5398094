"""Texts that a model writes for the teacher to label: what it is shown, how many of each label stay, and which go."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from compress.core.artifacts import SAMPLES, Artifact, seal
from compress.core.disk.files import write_json, write_text
from compress.core.errors import PassError, ProfileError
from compress.core.forms import TEXTS as FORM
from compress.core.forms import TORCH_FLOAT
from compress.core.numerics import Numerics
from compress.data.splits import Examples
from compress.generation.answers import read_answers
from compress.generation.by_label import (
    ACCEPTED,
    DUPLICATE,
    EMPTY,
    HELD_OUT_COPY,
    MAX_VALIDATION_TEXTS,
    OTHER_LABEL,
    SURPLUS,
    TRAINING_COPY,
    TRUNCATED,
    LabelledText,
    filter_reasons,
    generator_data,
    prompt_for,
    writing_task_of,
    written_examples,
)
from compress.models.io.checkpoints import save_model
from compress.passes.generate import step
from compress.planning.keys import Fingerprints, all_parts, key_of
from compress.planning.steps import Plan, build_plan
from compress.profile.load import load_profile
from compress.profile.schema import DataSpec
from compress.step import StepContext
from compress.tasks.base import TrainingData
from tests.steps import context
from tests.tiny import LABELS, text_task, write_torch_artifact
from tests.tiny_language import byte_tokenizer, write_model

LICENSED = {"license": "mit", "license_ok": True}
TRAINED_ON = ("the red cat sleeps and the green dog sings", "a bird runs and a cat sleeps", "the dog")


def data_of(**generate: Any) -> DataSpec:
    spec = {"model": "writer", "count": 6, **LICENSED, **generate}
    return DataSpec.model_validate({"path": "data.csv", "max_length": 16, "unlabeled": {"generate": spec}})


def examples(texts: Sequence[str]) -> Examples:
    return Examples(tuple(texts), np.arange(len(texts)) % len(LABELS))


def none_copied(texts: Sequence[str]) -> list[bool]:
    return [False] * len(texts)


def test_a_label_is_asked_for_by_its_name_in_words():
    spec = data_of(ask="What one says of {label}, {label}: ").generate_spec
    assert spec is not None
    assert prompt_for(spec, "oil_change-how") == "What one says of oil change how, oil change how: "


def test_training_texts_are_learnt_behind_their_labels_and_validation_judges():
    data = data_of(most=4)
    texts = [f"text {number}" for number in range(MAX_VALIDATION_TEXTS + 50)]
    shown = generator_data(
        writing_task_of(data),
        TrainingData(examples(["the  red\ncat", "a b c d e"]), examples(texts), LABELS),
        data,
    )
    assert [json.loads(item) for item in shown.train.texts] == [
        {"prompt": "colour:\n", "completion": "the red cat"},
        {"prompt": "animal:\n", "completion": "a b c d", "ends": False},
    ]
    assert len(set(shown.validation.texts)) == MAX_VALIDATION_TEXTS
    assert writing_task_of(data).answered_task.data.max_length == 4 + 64
    # Not by their place, so that another order of the rows judges by the same ones.
    turned = generator_data(
        writing_task_of(data), TrainingData(examples(["x"]), examples(texts[::3]), LABELS), data
    )
    assert len(turned.validation) == len(texts[::3])


def test_what_is_kept():
    written = [
        LabelledText(0, "one two three four"),
        LabelledText(0, "?! "),
        LabelledText(1, "five six seven", is_complete=False),
        LabelledText(1, "One, two three FOUR."),
        LabelledText(1, "the dog"),
        LabelledText(0, "held out text here"),
        LabelledText(0, "of another label"),
        LabelledText(0, "eight"),
        LabelledText(0, "nine"),
        LabelledText(1, "nine"),
        LabelledText(1, "of another label"),
    ]

    def copied(texts: Sequence[str]) -> list[bool]:
        assert "?! " not in texts
        return [text.startswith("held") for text in texts]

    def agree(left: Sequence[LabelledText]) -> list[bool]:
        return [one.text != "of another label" or one.label == 1 for one in left]

    reasons = filter_reasons(written, [2, 2], TRAINED_ON, copied, agree)
    assert reasons == [
        ACCEPTED,
        EMPTY,
        TRUNCATED,
        DUPLICATE,
        TRAINING_COPY,
        HELD_OUT_COPY,
        OTHER_LABEL,
        ACCEPTED,
        SURPLUS,
        DUPLICATE,
        ACCEPTED,
    ]
    # A further text changes nothing for those before it; where nobody is asked, the label decides nothing.
    for count in range(len(written)):
        assert filter_reasons(written[:count], [2, 2], TRAINED_ON, copied, agree) == reasons[:count]
    freely = filter_reasons(written, [3, 1], TRAINED_ON, copied, accept_truncated=True)
    assert freely == [
        ACCEPTED,
        EMPTY,
        ACCEPTED,
        DUPLICATE,
        TRAINING_COPY,
        HELD_OUT_COPY,
        ACCEPTED,
        ACCEPTED,
        SURPLUS,
        DUPLICATE,
        DUPLICATE,
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """A tiny language model that writes any bytes, and a tiny classifier."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "model")
    writer = folder / "writer"
    save_model(transformers.LlamaForCausalLM.from_pretrained(folder / "model"), writer)
    write_text(writer / "tokenizer.json", byte_tokenizer().to_str())
    described = {
        "max_length": 80,
        "pad_id": 1,
        "begin_id": None,
        "end_id": 1,
        "chat_template": None,
        "special_tokens": {},
    }
    write_json(writer / "task.json", described)
    facts = {"parameters": 0, "source": "tiny", "validation_score": -9.0, "steps": 1, "epochs": 1.0}
    return {"writer": seal(writer, TORCH_FLOAT, facts), "teacher": write_torch_artifact(folder / "teacher")}


def desk(
    folder: Path, models: dict[str, Artifact], copied: Any = none_copied, **generate: Any
) -> StepContext:
    """The step, with training texts that are longer than what is written."""
    spec = data_of(**{"most": 6, "top_p": 1.0, "agree": False, **generate}).generate_spec
    assert spec is not None
    data = TrainingData(examples(TRAINED_ON), examples(["held"]), LABELS, is_heldout_copy=copied)
    return context(folder, spec, models, text_task(16), data)


def test_each_label_gets_its_share_and_nothing_is_asked_twice(tmp_path: Path, models: dict[str, Artifact]):
    first = desk(tmp_path / "first", models, count=7)
    result = step.run(first)
    facts = result.facts
    assert result.form == FORM
    assert {name: one[0] for name, one in facts["by_label"].items()} == {"colour": 3, "animal": 2, "verb": 2}
    assert facts["kept"] == len(written_examples(first.out)) == 7
    assert facts["by_reason"][ACCEPTED] == 7
    assert sum(facts["by_reason"].values()) == facts["answers"]
    assert (facts["model"], facts["license"]) == ("tiny", "mit")
    assert facts["written_before"] == 0 < facts["tokens"]
    assert 0 <= facts["agreed"] <= 7
    samples = json.loads((first.out / SAMPLES).read_text())["samples"]
    assert {one["prompt"] for one in samples if one["why"] == ACCEPTED} == {f"{name}:\n" for name in LABELS}
    (file,) = first.shared.glob("*/*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == len({answer.key for answer in read_answers(file)}) == facts["answers"]

    # A run that was killed in the middle of a line asks for the rest alone, and one of more texts for these alone.
    file.write_bytes(b"".join(lines[:3]) + lines[3][:9])
    again = replace(desk(tmp_path / "again", models, count=7), shared=first.shared)
    resumed = step.run(again).facts
    assert resumed["written_before"] == 3
    assert written_examples(again.out).texts == written_examples(first.out).texts
    assert sorted(file.read_bytes().splitlines(keepends=True)) == sorted(lines)
    more = replace(desk(tmp_path / "more", models, count=9), shared=first.shared)
    assert step.run(more).facts["written_before"] == facts["answers"]
    assert set(written_examples(first.out).texts) <= set(written_examples(more.out).texts)


def test_where_texts_go_more_are_written_up_to_the_tries(tmp_path: Path, models: dict[str, Artifact]):
    gone = Counter[str]()

    def every_second(texts: Sequence[str]) -> list[bool]:
        gone.update(texts)
        return [zlib.crc32(text.encode()) % 2 == 0 for text in texts]

    ctx = desk(tmp_path / "half", models, every_second, count=12)
    facts = step.run(ctx).facts
    assert all(kept == wanted < tried < 4 * wanted for wanted, tried, kept, _ in facts["by_label"].values())
    assert not any(every_second(written_examples(ctx.out).texts))
    assert "held" not in gone  # of what is held out the step is told nothing
    with pytest.raises(PassError) as caught:
        step.run(desk(tmp_path / "all", models, lambda texts: [True] * len(texts), count=3, tries=2))
    assert caught.value.message.startswith("none of the 6 generated texts is kept: ")
    assert caught.value.hint == "Validation and test texts resemble the training texts; raise `temperature`."


def test_the_teacher_may_decide(tmp_path: Path, models: dict[str, Artifact]):
    facts = step.run(desk(tmp_path / "agree", models, count=6, agree=True, tries=8)).facts
    assert facts["agreed"] == facts["kept"] < facts["answers"]
    assert facts["by_reason"][OTHER_LABEL] > 0


PROFILE: dict[str, Any] = {
    "name": "job",
    "task": "text-classification",
    "data": {"path": "data.csv", "unlabeled": {"generate": {"model": "owner/lm", "count": 9, **LICENSED}}},
    "teacher": {"model": "owner/model", "finetune": {"epochs": 1}},
    "passes": [{"distill": {"epochs": 1}}, {"prune": {"remove": {"heads": 0.5}}}, {"export": {}}],
}


def loaded(folder: Path, *assignments: str) -> Plan:
    (folder / "data.csv").write_text("text,label\nhello,a\n")
    (folder / "p.yaml").write_text(json.dumps(PROFILE))
    return build_plan(load_profile(folder / "p.yaml", assignments).profile)


def test_the_steps_are_those_of_any_model_and_their_keys_hold_what_decides(tmp_path: Path):
    plan, plain = loaded(tmp_path), loaded(tmp_path, "data.unlabeled=null")
    kinds = {one.name: (one.kind, dict(one.inputs)) for one in plan.steps if one.name.startswith("generate")}
    assert kinds == {
        "generate.writer.source": ("source", {}),
        "generate.writer": ("finetune", {"model": "generate.writer.source"}),
        "generate": ("generate", {"writer": "generate.writer", "teacher": "teacher"}),
    }
    assert plan.step("generate.writer").task(plan.profile) == "causal-lm"
    taught = [one.name for one in plan.steps if "unlabeled" in one.inputs]
    assert taught == ["distill", "prune"]

    known = Fingerprints(
        {("owner/model", None): "m", ("owner/lm", None): "w"}, "d", test="t", by_content=True
    )

    def keys(plan: Plan, known: Fingerprints = known) -> dict[str, str | None]:
        parts = all_parts(plan, known, Numerics("cpu", 2, bf16=True))
        return {name: key_of(one) for name, one in parts.items()}

    def changed(other: dict[str, str | None]) -> list[str]:
        return [name for name in ("teacher", *kinds, "distill") if keys(plan)[name] != other[name]]

    generate = "data.unlabeled.generate."
    assert keys(plan)["teacher"] == keys(plain)["teacher"]
    assert keys(plan)["teacher.onnx"] == keys(plain)["teacher.onnx"]
    written = ["generate", "distill"]
    assert changed(keys(loaded(tmp_path, f"{generate}count=8"))) == written
    assert changed(keys(plan, replace(known, test="u"))) == written
    assert changed(keys(loaded(tmp_path, f"{generate}finetune.epochs=1"))) == ["generate.writer", *written]
    assert changed(keys(loaded(tmp_path, f"{generate}ask='A {{label}}: '"))) == [*kinds, "distill"]
    assert changed(keys(loaded(tmp_path, "targets=[{threads: 2}]"))) == []


MORE = "data.unlabeled.generate"
REFUSED: list[tuple[list[str], str, str]] = [
    (
        ["data.unlabeled={}"],
        "data.unlabeled",
        "name the examples with `path`, or let a model write texts with `generate`",
    ),
    (
        ["data.unlabeled.path=data.csv"],
        "data.unlabeled",
        "`path` is for existing examples, and `generate` writes new ones: give one of the two",
    ),
    ([f"{MORE}.ask=A text"], MORE, "`ask` must contain {label}, which the name of the label replaces"),
    (
        [f"{MORE}.license_ok=false"],
        MORE,
        "training on what a model writes needs a licence that allows it: name the licence (`license: apache-2.0`) "
        "and confirm that you have read that it does (`license_ok: true`)",
    ),
    (
        [f"{MORE}.license=openai"],
        f"{MORE}.license",
        'OpenAI forbids training other models on what its models write: users must not "use Output to develop models '
        'that compete with OpenAI" (https://openai.com/policies/row-terms-of-use/); take a teacher whose '
        "licence allows it",
    ),
    ([f"{MORE}.model=nowhere/here/model"], f"{MORE}.model", "there is no "),
    ([f"{MORE}.model=encoder"], f"{MORE}.model", "a model of the family 'bert' cannot generate text here"),
    (
        [f"{MORE}.model=short"],
        f"{MORE}.most",
        "needs 192 tokens including the prompt, and the model takes 128",
    ),
    ([f"{MORE}.finetune={{smoothing: 0.1}}"], f"{MORE}.finetune.smoothing", "causal-lm has no labels"),
    (
        ["passes=[{quantize: {bits: 8}}]"],
        MORE,
        "no pass of this profile uses unlabeled texts; distill and prune do",
    ),
    (
        ["train={nodes: 2, rendezvous: 'a:1'}"],
        MORE,
        "with several machines (`train.nodes`), each would generate different texts",
    ),
    (
        ["task=image-classification"],
        MORE,
        "texts are generated from labels, and image-classification reads images: give examples with `path`",
    ),
    (
        ["task=sentence-embedding", "teacher.finetune=null", "passes.0.distill.losses=[{output: cosine}]"],
        MORE,
        "texts are generated from labels, and sentence-embedding reads texts, or pairs of them, without labels: give "
        "examples with `path`",
    ),
    (
        ["task=causal-lm", "passes=[{export: {}}]"],
        "data.unlabeled",
        "every text is its own target: give all of them as `data.path`",
    ),
]


@pytest.mark.parametrize(
    ("assignments", "place", "why"), REFUSED, ids=lambda one: one[0] if isinstance(one, list) else ""
)
def test_what_cannot_be_is_refused_by_name(assignments: list[str], place: str, why: str, tmp_path: Path):
    for name, config in (("encoder", {"model_type": "bert"}), ("short", {"model_type": "llama"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 128}))
        (tmp_path / name / "tokenizer.json").write_text("{}")
    with pytest.raises(ProfileError) as caught:
        loaded(tmp_path, *assignments)
    found = [fault.message for fault in caught.value.faults if fault.path == place]
    assert any(message == why or message.startswith(why) for message in found), caught.value.faults
