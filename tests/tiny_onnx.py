"""ONNX models made by hand, whose predictions can be counted on one's fingers. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

from compress.core.artifacts import ONNX_MODEL, TASK, TOKENIZER, Artifact, seal
from compress.core.disk.files import write_json, write_text
from compress.core.forms import ONNX_FLOAT

VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "red": 2, "blue": 3, "cat": 4, "dog": 5, "runs": 6, "sings": 7}
LABELS = ("colour", "animal", "verb")
VOTES = {"red": 0, "blue": 0, "cat": 1, "dog": 1, "runs": 2, "sings": 2}


def votes_table(votes: Mapping[str, int] = VOTES) -> NDArray[np.float32]:
    """(vocabulary, labels): each word gives 1 to the label that it votes for."""
    table = np.zeros((len(VOCABULARY), len(LABELS)), np.float32)
    for word, label in votes.items():
        table[VOCABULARY[word], label] = 1
    return table


def write_votes_model(path: Path, table: NDArray[np.float32], ballast_mb: int = 0, matmuls: int = 0) -> None:
    """logits = the sum over the words, padding left out, of their rows of `table`.

    `ballast_mb` adds a constant of so many MB to the file; `matmuls` adds so much arithmetic of no effect.
    """
    tensors = {"table": table, "last": np.array([2]), "middle": np.array([1]), "zero": np.float32([0])}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["rows", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sum0"], keepdims=0),
    ]
    total = "sum0"
    if ballast_mb:
        tensors["ballast"] = np.random.default_rng(0).random(ballast_mb * 250_000, dtype=np.float32)
        nodes.append(helper.make_node("Unsqueeze", [total, "last"], ["sum3"]))
        nodes.append(helper.make_node("Mul", ["sum3", "ballast"], ["products"]))
        nodes.append(helper.make_node("ReduceMin", ["products", "last"], ["least"], keepdims=0))
        nodes.append(helper.make_node("Mul", ["least", "zero"], ["nothing"]))
        nodes.append(helper.make_node("Add", [total, "nothing"], ["sum1"]))
        total = "sum1"
    if matmuls:
        tensors["wide"] = np.zeros((len(LABELS), 512), np.float32)
        tensors["square"] = np.eye(512, dtype=np.float32)
        tensors["narrow"] = np.zeros((512, len(LABELS)), np.float32)
        names = ["wide", *["square"] * matmuls, "narrow"]
        value = total
        for number, weight in enumerate(names):
            nodes.append(helper.make_node("MatMul", [value, weight], [f"product{number}"]))
            value = f"product{number}"
        nodes.append(helper.make_node("Add", [total, value], ["sum2"]))
        total = "sum2"
    nodes.append(helper.make_node("Identity", [total], ["logits"]))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])]
    constants = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "votes", inputs, outputs, constants)
    _save(graph, path)


def word_tokenizer() -> Tokenizer:
    """One token a word, no special tokens in texts."""
    tokenizer = Tokenizer(WordLevel(dict(VOCABULARY), unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def write_votes_artifact(
    out: Path, votes: Mapping[str, int] = VOTES, ballast_mb: int = 0, matmuls: int = 0
) -> Artifact:
    """A sealed ONNX artifact of `write_votes_model` with `word_tokenizer`."""
    out.mkdir(parents=True)
    write_votes_model(out / ONNX_MODEL, votes_table(votes), ballast_mb, matmuls)
    write_text(out / TOKENIZER, word_tokenizer().to_str())
    task = {
        "task": "text-classification",
        "max_length": 16,
        "labels": list(LABELS),
        "input_names": ["input_ids", "attention_mask"],
        "output_names": ["logits"],
        "pad_id": VOCABULARY["[PAD]"],
        "unk_id": VOCABULARY["[UNK]"],
    }
    write_json(out / TASK, task)
    return seal(out, ONNX_FLOAT, {"parameters": int(votes_table().size)})


HALVES = ("left", "right")
GREY = {"size": [6, 8], "channels": 1, "mean": [0.5], "std": [0.25]}


def write_halves_artifact(out: Path, image: Mapping[str, Any] = GREY) -> Artifact:
    """A sealed image classifier: logits = the mean of the left half's values, and that of the right half's."""
    out.mkdir(parents=True)
    (height, width), channels = image["size"], image["channels"]
    weight = np.zeros((channels, height, width, len(HALVES)), np.float32)
    weight[:, :, : width // 2, 0] = weight[:, :, width // 2 :, 1] = 2 / (channels * height * width)
    nodes = [
        helper.make_node("Flatten", ["pixel_values"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "halves",
        [
            helper.make_tensor_value_info(
                "pixel_values", TensorProto.FLOAT, ["batch", channels, height, width]
            )
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(HALVES)])],
        [numpy_helper.from_array(weight.reshape(-1, len(HALVES)), "weight")],
    )
    _save(graph, out / ONNX_MODEL)
    task = {
        "task": "image-classification",
        "labels": list(HALVES),
        "input_names": ["pixel_values"],
        "output_names": ["logits"],
        "image": dict(image),
    }
    write_json(out / TASK, task)
    return seal(out, ONNX_FLOAT, {"parameters": int(weight.size)})


def write_embedder_artifact(out: Path) -> Artifact:
    """A sealed sentence encoder: embedding = the sum over the words, padding left out, of their votes."""
    artifact = write_votes_artifact(out)
    model = onnx.load(str(artifact.model_file))
    model.graph.node[-1].output[0] = model.graph.output[0].name = "embedding"
    onnx.save(model, str(artifact.model_file))
    described = {
        "task": "sentence-embedding",
        "labels": [],
        "output_names": ["embedding"],
        "width": len(LABELS),
    }
    write_json(out / TASK, {**artifact.read_json(TASK), **described})
    return seal(out, ONNX_FLOAT, artifact.facts)


def _save(graph: onnx.GraphProto, path: Path) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
