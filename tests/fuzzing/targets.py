"""What reads files and answers of others, each as a function of bytes: it returns, or raises an error for a user."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from click.testing import CliRunner
from PIL import Image
from pydantic import ValidationError

from compress.bundles.verify import hash_problems, listed_files, read_manifest
from compress.cli.root import main
from compress.core.artifacts import MODEL_CONFIG, ONNX_MODEL, STRUCTURE, TASK, TOKENIZER
from compress.core.disk.reading import parse_json
from compress.data.sources import fingerprint, load
from compress.encoding.tokens import encode_texts
from compress.engine.foreign.onnx_file import ModelSettings, import_model, task_of_file
from compress.measuring.results import result_fault
from compress.models.io.checkpoints import load_model
from compress.models.teacher.location import check_teacher
from compress.profile.load import load_profile
from compress.profile.schema import DataSpec, TeacherSpec
from compress.profile.yaml_lines import override, read_source
from compress.reporting.data.frame import contract_text
from compress.runtimes.runner import write_batches
from compress.store.runs import RunStore
from compress.targets.ssh.device import DeviceFacts
from tests.fuzzing.mutations import changed_bytes, changed_json
from tests.jobs import write_job
from tests.records import bert_run
from tests.tiny import LABELS, write_torch_artifact
from tests.tiny_onnx import LABELS as VOTE_LABELS
from tests.tiny_onnx import write_halves_artifact, write_votes_artifact

Change = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class FuzzTarget:
    """A reader, the right inputs that it starts from, and how these are changed.

    `prepare` makes what stands around the input in a folder, once; `read` is given the input and that folder.
    """

    name: str
    prepare: Callable[[Path], list[bytes]]
    read: Callable[[bytes, Path], object]
    change: Change = changed_json


def reads_profile(data: bytes, folder: Path) -> None:
    (folder / "p.yaml").write_bytes(data)
    load_profile(folder / "p.yaml")


def prepare_profile(folder: Path) -> list[bytes]:
    made = write_job(folder).read_bytes()
    kept = [file.read_bytes() for file in sorted((Path(__file__).parents[2] / "profiles").glob("*.yaml"))]
    return [made, *kept[:4]]


def reads_assignment(data: bytes, folder: Path) -> None:
    override(read_source(folder / "tiny.yaml"), (data.decode("utf-8", "surrogateescape"),))
    load_profile(folder / "tiny.yaml", (data.decode("utf-8", "surrogateescape"),))


def prepare_assignment(folder: Path) -> list[bytes]:
    write_job(folder)
    return [
        b"seed=1",
        b"passes.0.distill.epochs=2",
        b"targets=[{threads: 1}]",
        b"data.max_length=010",
        b"budget.size_mb=6.5",
    ]


def reads_manifest(data: bytes, folder: Path) -> None:
    (folder / "manifest.json").write_bytes(data)
    hash_problems(folder, listed_files(folder, read_manifest(folder)))


def prepare_manifest(folder: Path) -> list[bytes]:
    (folder / ONNX_MODEL).write_bytes(b"model")
    body = {"format": 1, "files": {ONNX_MODEL: {"sha256": "0" * 64, "bytes": 5}}, "form": {}, "facts": {}}
    return [json.dumps(body).encode()]


def reads_report(data: bytes, folder: Path) -> None:
    """As `compare` and `check` do, whichever of the two reports is the changed one."""
    (folder / "changed.json").write_bytes(data)
    right, changed = str(folder / "right.json"), str(folder / "changed.json")
    for words in (["compare", right, changed, "--anyway"], ["check", changed, "--against", right]):
        verb(*words)


def prepare_report(folder: Path) -> list[bytes]:
    text = contract_text(bert_run()).encode()
    (folder / "right.json").write_bytes(text)
    return [text]


def reads_run(data: bytes, folder: Path) -> None:
    (folder / "run.json").write_bytes(data)
    verb("report", str(folder), "--json")
    if len(data) % 60 == 0:
        verb("report", str(folder), "--out", str(folder / "report"))


def prepare_run(folder: Path) -> list[bytes]:
    RunStore(folder).begin(bert_run())
    for position, step in enumerate(bert_run().steps):
        RunStore(folder).add(position, step)
    return [(folder / "run.json").read_bytes()]


def reads_record(data: bytes, folder: Path) -> None:
    next((folder / "records").glob("05-*.json")).write_bytes(data)
    verb("report", str(folder), "--json")
    if len(data) % 60 == 0:
        verb("report", str(folder), "--out", str(folder / "report"))


def prepare_record(folder: Path) -> list[bytes]:
    prepare_run(folder)
    return [file.read_bytes() for file in sorted((folder / "records").glob("*.json"))[-2:]]


def reads_task(data: bytes, folder: Path) -> None:
    (folder / "votes" / TASK).write_bytes(data)
    out = folder / "taken"
    shutil.rmtree(out, ignore_errors=True)
    task = task_of_file(folder / "votes", ModelSettings()) or "text-classification"
    import_model(folder / "votes", ModelSettings(), task, VOTE_LABELS, 16, out)
    encode_texts(["red cat", ""], out / TOKENIZER, out / TASK)


def prepare_task(folder: Path) -> list[bytes]:
    write_votes_artifact(folder / "votes")
    (folder / "votes" / "artifact.json").unlink()
    write_halves_artifact(folder / "halves")
    return [(folder / name / TASK).read_bytes() for name in ("votes", "halves")]


def reads_tokenizer(data: bytes, folder: Path) -> None:
    (folder / TOKENIZER).write_bytes(data)
    if len(data) % 5 == 0:
        (folder / "teacher" / TOKENIZER).write_bytes(data)
        verb("validate", str(folder / "tiny.yaml"))
    encode_texts(["red cat sings", "", "\0", "é" * 50, "[CLS] [MASK]"], folder / TOKENIZER, folder / TASK)


def prepare_tokenizer(folder: Path) -> list[bytes]:
    write_job(folder)
    write_torch_artifact(folder / "model")
    shutil.copyfile(folder / "model" / TASK, folder / TASK)
    return [(folder / "model" / TOKENIZER).read_bytes()]


def reads_structure(data: bytes, folder: Path) -> None:
    (folder / STRUCTURE).write_bytes(data)
    load_model(folder)


def prepare_structure(folder: Path) -> list[bytes]:
    write_torch_artifact(folder)
    weights = "bert.encoder.layer.0.intermediate.dense.weight"
    body = {
        "shapes": {weights: [64, 32]},
        "attributes": {"bert.encoder.layer.0.attention.self": {"num_attention_heads": 4}},
    }
    factors = {"bert.encoder.layer.0.output.dense": {"rank": 8}}
    return [json.dumps(one).encode() for one in (body, {**body, "factors": factors})]


def reads_config(data: bytes, folder: Path) -> None:
    (folder / "teacher" / MODEL_CONFIG).write_bytes(data)
    verb("validate", str(folder / "tiny.yaml"))
    verb(
        "init",
        str(folder / "teacher"),
        str(folder / "data.csv"),
        "--out",
        str(folder / "out.yaml"),
        "--force",
    )
    check_teacher(
        TeacherSpec(model=str(folder / "teacher")),
        LABELS,
        folder,
        allow_code=False,
        task="text-classification",
    )
    load_model(folder / "teacher")


def prepare_config(folder: Path) -> list[bytes]:
    write_job(folder)
    return [(folder / "teacher" / MODEL_CONFIG).read_bytes()]


def reads_onnx(data: bytes, folder: Path) -> None:
    (folder / "votes" / ONNX_MODEL).write_bytes(data)
    out = folder / "taken"
    shutil.rmtree(out, ignore_errors=True)
    import_model(folder / "votes", ModelSettings(), "text-classification", VOTE_LABELS, 16, out)


def prepare_onnx(folder: Path) -> list[bytes]:
    prepare_task(folder)
    return [(folder / "votes" / ONNX_MODEL).read_bytes()]


def changed_onnx(raw: bytes, chance: random.Random) -> bytes:
    """Other names, types, shapes and numbers in the graph; now and then other bytes."""
    if chance.random() < 0.4:
        return changed_bytes(raw, chance)
    model = onnx.load_model_from_string(raw)
    graph = model.graph
    for _ in range(chance.randint(1, 3)):
        kind = chance.randrange(9)
        value = chance.choice([*graph.input, *graph.output])
        if kind == 0:
            value.name = chance.choice(("", "x", "\0", "input_ids", "logits", "é"))
        elif kind == 1:
            value.type.tensor_type.elem_type = chance.choice((0, 1, 7, 8, 16, 99))
        elif kind == 2:
            axes = value.type.tensor_type.shape.dim
            axes.add().dim_value = chance.choice((0, -1, 10**12))
        elif kind == 3:
            value.type.ClearField("tensor_type")
        elif kind == 4 and graph.node:
            node = chance.choice(list(graph.node))
            node.op_type = chance.choice(("", "Gather", "Nothing", "If"))
        elif kind == 5 and graph.initializer:
            tensor = chance.choice(list(graph.initializer))
            tensor.dims[:] = chance.choice(([], [0], [-1], [10**12], [2, 2, 2]))
        elif kind == 6 and graph.initializer:
            tensor = chance.choice(list(graph.initializer))
            tensor.data_location = onnx.TensorProto.EXTERNAL
            entry = tensor.external_data.add()
            entry.key = chance.choice(("location", "offset", "length", ""))
            entry.value = chance.choice(("x", "../x", "", "-1", "9" * 50, "\0"))
        elif kind == 7:
            model.opset_import[0].version = chance.choice((0, -1, 10**6))
        else:
            entry = model.metadata_props.add()
            entry.key, entry.value = (
                chance.choice(("labels", "", "\0")),
                chance.choice(("[", "\ufeff", "x" * 9999)),
            )
    return bytes(model.SerializeToString())


def reads_answer(data: bytes, folder: Path) -> None:
    answer = parse_json(data, "a device")
    for job in json.loads((folder / "jobs.json").read_text()):
        result_fault(job, answer)
    with suppress(ValidationError):
        DeviceFacts.model_validate(answer)


def prepare_answer(folder: Path) -> list[bytes]:
    write_batches(str(folder / "feeds.npz"), [{"x": np.zeros((2, 3))}])
    feeds = str(folder / "feeds.npz")
    jobs = [
        {"kind": "score", "feeds": feeds},
        {"kind": "latency", "models": ["a", "b"], "scenarios": [{"feeds": [feeds, feeds]}],
         "tokenization": {"texts": ["a"]}},
        {"kind": "memory"},
    ]  # fmt: skip
    (folder / "jobs.json").write_text(json.dumps(jobs))
    answers: list[Any] = [
        {"examples": 2, "shape": [3], "refused": None, "seconds": 1.0},
        {"scenarios": [{"samples_ns": [[1], [2]], "inputs": [0]}], "tokenization_ns": [5], "seconds": 1.0},
        {"before_load_bytes": 1, "peak_bytes": 2, "method": "VmHWM", "gpu_peak_bytes": None, "seconds": 1.0},
        {
            "python": "3.11", "system": "Linux", "machine": "x", "board": "", "cpuinfo": "", "cores": [0],
            "fault": None, "memory_bytes": 2**30, "libraries": {"numpy": "2", "onnxruntime": "1"}, "tokenizers": None,
        },
    ]  # fmt: skip
    return [json.dumps(answer).encode() for answer in answers]


def reads_table(data: bytes, folder: Path) -> None:
    suffix = {b"[": ".json", b"{": ".jsonl", b"P": ".parquet"}.get(data[:1], ".csv")
    (folder / f"data{suffix}").write_bytes(data)
    spec = DataSpec(path=f"data{suffix}")
    if len(data) % 5 == 0:
        verb(
            "init",
            str(folder / "teacher"),
            str(folder / spec.path),
            "--out",
            str(folder / "out.yaml"),
            "--force",
        )
        verb("validate", str(folder / "tiny.yaml"), "--set", f"data.path={folder / spec.path}")
    fingerprint(spec, folder, "text-classification")
    load(spec, folder, 0, "text-classification")


def prepare_table(folder: Path) -> list[bytes]:
    write_job(folder)
    rows = [{"text": f"text {n} is of {n % 2}", "label": "ab"[n % 2]} for n in range(40)]
    pd.DataFrame(rows).to_parquet(folder / "made.parquet")
    lines = "\n".join(json.dumps(row) for row in rows)
    csv = "text,label\n" + "\n".join(f'"{row["text"]}",{row["label"]}' for row in rows)
    made = (folder / "made.parquet").read_bytes()
    return [
        csv.encode(),
        csv.replace(",", "\t").encode("utf-16"),
        lines.encode(),
        json.dumps(rows).encode(),
        made,
    ]


def reads_image(data: bytes, folder: Path) -> None:
    (folder / "images" / "a" / "0.png").write_bytes(data)
    load(DataSpec(path="images"), folder, 0, "image-classification")


def prepare_image(folder: Path) -> list[bytes]:
    pixels = np.random.default_rng(0)
    for label in "ab":
        (folder / "images" / label).mkdir(parents=True)
        for number in range(8):
            image = Image.fromarray(pixels.integers(0, 255, (6, 8, 3), np.uint8))
            image.save(folder / "images" / label / f"{number}.png")
    made = []
    for kind in ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF"):
        stream = io.BytesIO()
        image.save(stream, kind)
        made.append(stream.getvalue())
    return made


def verb(*words: str) -> None:
    """A verb of the command line in this process.

    Raises:
        AssertionError: it ended with exit code 1, or printed a traceback.
    """
    done = CliRunner().invoke(main, list(words))
    if done.exit_code == 1 or "Traceback" in done.output:
        raise AssertionError(f"{words[0]}: {done.output[-2000:]}") from done.exception


TARGETS = {
    target.name: target
    for target in (
        FuzzTarget("profile", prepare_profile, reads_profile, changed_bytes),
        FuzzTarget("assignment", prepare_assignment, reads_assignment, changed_bytes),
        FuzzTarget("manifest", prepare_manifest, reads_manifest),
        FuzzTarget("report", prepare_report, reads_report),
        FuzzTarget("run", prepare_run, reads_run),
        FuzzTarget("record", prepare_record, reads_record),
        FuzzTarget("task", prepare_task, reads_task),
        FuzzTarget("tokenizer", prepare_tokenizer, reads_tokenizer),
        FuzzTarget("structure", prepare_structure, reads_structure),
        FuzzTarget("config", prepare_config, reads_config),
        FuzzTarget("onnx", prepare_onnx, reads_onnx, changed_onnx),
        FuzzTarget("answer", prepare_answer, reads_answer),
        FuzzTarget("table", prepare_table, reads_table, changed_bytes),
        FuzzTarget("image", prepare_image, reads_image, changed_bytes),
    )
}
