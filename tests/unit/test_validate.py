"""`compress validate` reads what lies on this machine and tells all that is wrong with it at once, by line and code."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import save_file

from compress.cli.root import main
from compress.core.disk.reading import read_mapping
from compress.core.errors import Fault, ProfileError
from compress.data.reading import sampling
from compress.engine.examining import Examination, check_models, examine
from compress.profile.load import load_profile
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.fit import fit_problems
from tests.model_folders import write_model_folder

DISTILL = {"layers": 2, "hidden_size": 16, "from": "teacher"}


def write_data(file: Path, rows: int = 30, extra: str = "") -> None:
    labels = ("a", "b", "c")
    lines = [f"text number {i},{labels[i % 3]}" for i in range(rows)]
    file.write_text("text,label\n" + "\n".join(lines) + "\n" + extra)


def write_profile(folder: Path, passes: list[Any] | None = None, **sections: Any) -> Path:
    body = {
        "name": "job",
        "task": "text-classification",
        "data": {"path": "./data.csv", "max_length": 64},
        "teacher": {"model": "./model", "finetune": {}},
        "passes": passes or [{"quantize": {"bits": 8}}, {"export": {}}],
    }
    for name, values in sections.items():
        body[name] = {**body[name], **values} if isinstance(body.get(name), dict) else values
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(body, sort_keys=False))
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path / "data.csv")
    write_model_folder(tmp_path / "model")
    return tmp_path


def found(file: Path) -> Examination:
    return examine(file)


def codes(faults: list[Fault]) -> list[tuple[str | None, str]]:
    return [(fault.code, fault.path) for fault in faults]


def test_what_was_looked_at_is_said(folder: Path):
    done = CliRunner().invoke(main, ["validate", str(write_profile(folder))])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        f"{folder}/job.yaml: valid; 2 passes, 1 target",
        "data: ./data.csv: train 21, validation 3, test 6",
        "labels: a 10, b 10, c 10",
        "model: ./model: bert, 3 layers of width 32, a WordPiece tokenizer",
    ]


def test_repeated_texts_are_counted(folder: Path):
    (folder / "data").mkdir()
    for split in ("train", "validation", "test"):
        rows = [f"text {i} of {split},{'ab'[i % 2]}" for i in (0, 1, 2, 3, 3, 3)]
        (folder / "data" / f"{split}.csv").write_text("\n".join(("text,label", *rows)))
    assert (
        "6 of these texts occur more than once"
        in found(write_profile(folder, data={"path": "./data"})).checked
    )


def test_what_was_not_looked_at_is_named(folder: Path):
    teacher = {"model": "python:nets:make", "finetune": None}
    target = {"device": "ssh://me@board", "runtime": "onnxruntime"}
    file = write_profile(folder, teacher=teacher, data={"path": "someone/data"}, targets=[target])
    done = CliRunner().invoke(main, ["validate", str(file)])
    assert done.exit_code == 0, done.output
    named = [line for line in done.output.splitlines() if line.startswith("not checked: ")]
    assert [line.removeprefix("not checked: ").split(",")[0] for line in named] == [
        "someone/data",
        "python:nets:make",
        "ssh://me@board",
    ]


def test_further_data_of_the_hub_are_not_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch):
    import socket

    def refuse(*words: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    file = write_profile(folder, data={"unlabeled": {"path": "someone/texts"}})
    assert not found(file).faults
    assert [name.split(",")[0] for name in found(file).unchecked] == ["someone/texts"]


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "adapter_config.json").write_text("{}")
    (tmp_path / "data.csv").write_text("a;b\n1;2\n")
    file = write_profile(tmp_path)
    done = CliRunner().invoke(main, ["validate", str(file)])
    assert done.exit_code == 4
    assert codes(found(file).faults) == [
        ("column-missing", "data.path"),
        ("column-missing", "data.path"),
        ("adapter", "teacher.model"),
        ("config-missing", "teacher.model"),
        ("weights-missing", "teacher.model"),
        ("tokenizer-missing", "teacher.model"),
    ]
    assert [fault.line for fault in found(file).faults] == [4, 4, 7, 7, 7, 7]
    for code in ("column-missing", "config-missing", "weights-missing", "tokenizer-missing"):
        assert f"[{code}]" in done.output


def test_of_many_faults_of_one_kind_the_first_few_are_told(folder: Path):
    write_data(folder / "data.csv", extra="".join(f"text {i} without a label,\n" for i in range(9)))
    found = examine(write_profile(folder)).faults
    assert [(fault.line, fault.message) for fault in found] == [
        *((line, "the label is blank") for line in (32, 33, 34)),
        (35, "and 6 more"),
    ]
    assert {fault.code for fault in found} == {"label-blank"}


@pytest.mark.parametrize(
    ("label", "told"),
    [(["a", "b"], "Several labels per example are not supported."), (0.5, "Regression is not supported.")],
)
def test_labels_of_tasks_that_are_not_there_are_refused_by_name(label: object, told: str, folder: Path):
    rows = [{"text": f"text number {i}", "label": label} for i in range(9)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = examine(write_profile(folder, data={"path": "./rows.jsonl"})).faults
    assert [fault.code for fault in found] == ["label-type"] * 4
    assert told in found[0].message


def test_data_are_looked_at_where_the_profile_is_wrong_elsewhere(folder: Path):
    write_data(folder / "data.csv", extra=" ,a\nx,\n")
    file = write_profile(folder, [{"quantize": {"bits": 9}}])
    faults = found(file).faults
    assert {fault.code for fault in faults} == {None, "text-blank", "label-blank"}
    assert sorted(fault.line or 0 for fault in faults if fault.code) == [32, 33]
    assert CliRunner().invoke(main, ["validate", str(file)]).exit_code == 2


def test_a_run_refuses_the_same_files_before_anything(folder: Path):
    (folder / "model" / "model.safetensors").unlink()
    with pytest.raises(ProfileError) as caught:
        check_models(load_profile(write_profile(folder)))
    assert codes(list(caught.value.faults)) == [("weights-missing", "teacher.model")]
    assert caught.value.exit_code == 4


def shorten(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def name_a_missing_shard(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    placed = {"weight": "model-00001-of-00002.safetensors", "bias": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


def misplace_a_weight(model: Path) -> None:
    name_a_missing_shard(model)
    save_file({"other": np.zeros(1, np.float32)}, model / "model-00002-of-00002.safetensors")


def leave_a_pickle(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def break_the_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text("{")


def drop_the_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def break_the_config(model: Path) -> None:
    (model / "config.json").write_text("[]")


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (shorten, "weights-damaged"),
        (name_a_missing_shard, "weights-missing"),
        (misplace_a_weight, "weights-index"),
        (leave_a_pickle, "weights-missing"),
        (break_the_tokenizer, "not-json"),
        (drop_the_tokenizer, "tokenizer-missing"),
        (break_the_config, "not-json"),
    ],
)
def test_a_model_whose_files_are_not_whole_is_refused(harm, code: str, folder: Path):
    harm(folder / "model")
    assert code in {fault.code for fault in found(write_profile(folder)).faults}


def test_shards_that_are_whole_are_valid(folder: Path):
    model = folder / "model"
    name_a_missing_shard(model)
    save_file({"bias": np.zeros(1, np.float32)}, model / "model-00002-of-00002.safetensors")
    save_file({"weight": np.zeros(1, np.float32)}, model / "model-00001-of-00002.safetensors")
    assert not found(write_profile(folder)).faults


@pytest.mark.parametrize(
    ("kind", "length", "fits"),
    [
        ("bert", 130, True),
        ("bert", 131, False),
        ("roberta", 128, True),
        ("roberta", 129, False),
        ("mpnet", 129, False),
    ],
)
def test_texts_are_no_longer_than_the_positions(kind: str, length: int, fits: bool, folder: Path):
    write_model_folder(folder / kind, kind, pad_token_id=1 if kind in ("roberta", "mpnet") else 0)
    file = write_profile(folder, teacher={"model": f"./{kind}"}, data={"max_length": length})
    assert codes(found(file).faults) == ([] if fits else [("max-length", "data.max_length")])


@pytest.mark.parametrize("tokenizer", ["BPE", "Unigram"])
def test_only_word_pieces_are_trimmed(tokenizer: str, folder: Path):
    write_model_folder(folder / "other", "roberta", tokenizer)
    passes = [
        {"distill": {"student": DISTILL, "vocabulary": "trim", "losses": [{"logits": {}}]}},
        {"prune": {"remove": {"vocabulary": "unused"}}},
    ]
    assert codes(found(write_profile(folder, passes, teacher={"model": "./other"})).faults) == [
        ("vocabulary-fixed", "passes.0.distill.vocabulary"),
        ("vocabulary-fixed", "passes.1.prune.remove.vocabulary"),
    ]
    assert not found(write_profile(folder, passes)).faults


@pytest.mark.parametrize(
    ("student", "code", "key"),
    [
        ({"layers": 4}, "student-deeper", "layers"),
        ({"layers": [0, 3]}, "student-deeper", "layers"),
        ({"hidden_size": 64}, "student-wider", "hidden_size"),
        ({"heads": 3}, "student-heads", "heads"),
    ],
)
def test_a_student_fits_its_teacher(student: dict[str, Any], code: str, key: str, folder: Path):
    passes = [{"distill": {"student": student, "losses": [{"logits": {}}]}}]
    assert codes(found(write_profile(folder, passes)).faults) == [(code, f"passes.0.distill.student.{key}")]


def test_the_student_of_a_student_fits_that(folder: Path):
    first = {"distill": {"student": DISTILL, "losses": [{"logits": {}}]}}
    second = {"distill": {"student": {"layers": 3}, "losses": [{"logits": {}}]}}
    faults = found(write_profile(folder, [first, second])).faults
    assert codes(faults) == [("student-deeper", "passes.1.distill.student.layers")]


def test_a_model_of_the_hub_is_held_against_the_same_once_it_is_here(folder: Path):
    passes = [{"distill": {"student": {"hidden_size": 64}, "vocabulary": "trim", "losses": [{"logits": {}}]}}]
    profile = load_profile(write_profile(folder, passes, teacher={"model": "owner/model"})).profile
    place = write_model_folder(
        folder / "fetched", "roberta", "BPE", pad_token_id=1, max_position_embeddings=34
    )
    assert not list(fit_problems(profile, ModelFiles(folder)))
    fetched = ModelFiles(folder, {"owner/model": place})
    assert [problem.code for _, problem in fit_problems(profile, fetched)] == [
        "max-length",
        "student-wider",
        "vocabulary-fixed",
    ]


def test_each_file_of_a_model_is_parsed_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []

    def noted(file: Path) -> dict[str, Any]:
        read.append(file.name)
        return read_mapping(file)

    monkeypatch.setattr("compress.profile.model_checks.files.read_mapping", noted)
    passes = [
        {"distill": {"student": DISTILL, "vocabulary": "trim", "losses": [{"logits": {}}, {"hidden": {}}]}},
        {"prune": {"remove": {"heads": 0.5}, "recover": {"losses": [{"logits": {}}]}}},
        {"quantize": {"bits": 8}},
    ]
    assert found(write_profile(folder, passes)).ok
    assert {"config.json", "tokenizer.json"} <= set(read)
    assert len(read) == len(set(read))


def test_what_a_family_cannot_do_is_told(folder: Path):
    write_model_folder(folder / "mpnet", "mpnet", pad_token_id=1)
    passes = [
        {"distill": {"student": DISTILL, "losses": [{"logits": {}}]}},
        {"prune": {"remove": {"heads": 0.5}}},
    ]
    faults = found(write_profile(folder, passes, teacher={"model": "./mpnet"})).faults
    assert codes(faults) == [
        ("family-unsupported", "passes.0.distill.student"),
        ("family-unsupported", "passes.1.prune.remove.heads"),
    ]


def test_a_head_of_other_labels_is_told(folder: Path):
    labels = {"0": "x", "1": "y", "2": "z"}
    write_model_folder(folder / "head", architectures=["BertForSequenceClassification"], id2label=labels)
    faults = found(write_profile(folder, teacher={"model": "./head", "finetune": None})).faults
    assert [fault.exit_code for fault in faults] == [4]


def test_a_few_of_many_images_are_opened(folder: Path):
    for label in ("cat", "dog"):
        (folder / "pictures" / label).mkdir(parents=True)
        for i in range(250):
            Image.new("L", (2, 2), i % 251).save(folder / "pictures" / label / f"{i:03}.png")
    (folder / "pictures" / "cat" / "000.png").write_bytes(b"no image")
    (folder / "pictures" / "cat" / "001.png").write_bytes(b"no image")
    teacher = {"model": "python:nets:make"}
    file = write_profile(folder, task="image-classification", data={"path": "./pictures"}, teacher=teacher)
    faults = found(file).faults
    # Every third is opened: the first, but not the second.
    assert [(fault.code, fault.message.count("000.png")) for fault in faults] == [("image-unreadable", 1)]


def write_text_files(folder: Path) -> None:
    for label in ("a", "b"):
        (folder / "texts" / label).mkdir(parents=True)
        for i in range(9):
            (folder / "texts" / label / f"{i}.txt").write_text(f"text {i} of {label}")


def test_a_few_of_many_text_files_are_opened(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sampling, "MAX_TEXTS_READ", 10)
    monkeypatch.setattr(sampling, "SAMPLE_SIZE", 6)
    write_text_files(folder)
    file = write_profile(folder, data={"path": "./texts"})
    assert "6 of 18 text files were opened" in found(file).notes
    assert "labels: a 9, b 9" in found(file).checked
    for name in ("a/1.txt", "a/3.txt"):
        (folder / "texts" / name).write_bytes(b"PK\0\0x")
    # Every third is opened.
    assert [fault.message.count("3.txt") for fault in found(file).faults] == [1]


def test_files_that_do_not_open_are_told_together(folder: Path):
    write_text_files(folder)
    (folder / "texts" / "a" / "3.txt").write_bytes(b"PK\0\0x")
    (folder / "texts" / "b" / "4.txt").write_bytes("größe und Köln, aber f".encode() + b"\xfcr")
    (folder / "texts" / "empty").mkdir()
    file = write_profile(folder, data={"path": "./texts"})
    assert [fault.code for fault in found(file).faults] == ["class-empty"]
    (folder / "texts" / "empty").rmdir()
    assert [fault.code for fault in found(file).faults] == ["not-text"]


def test_torch_stays_out_and_a_hundred_thousand_rows_take_seconds(folder: Path):
    rng = random.Random(0)
    words = ["soil", "seed", "tulip", "rake", "spade", "compost", "bloom", "hedge", "lawn", "petal"]
    rows = (f"{' '.join(rng.choices(words, k=20))} {i},{rng.choice('abc')}" for i in range(100_000))
    (folder / "data.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    heavy = "{'torch', 'transformers', 'onnxruntime', 'pandas', 'datasets'}"
    code = (
        "import sys; from pathlib import Path; from compress.engine.examining import examine; "
        f"found = examine(Path({str(write_profile(folder))!r})); assert not found.faults, found.faults; "
        f"print(*({heavy} & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.split() == []
    # Of its own time: what other processes of the machine take does not count.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3
