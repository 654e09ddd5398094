"""Write the manifest of a bundle, and the model card rendered from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2
import onnx

from compress import __version__
from compress.bundles.layout import (
    CARD,
    FORMAT,
    GOLDEN,
    GOLDEN_IMAGES,
    LABELS,
    MANIFEST,
    OPERATORS,
    PREDICT,
    PREDICTOR,
    RUNNER,
    TEMPLATES,
)
from compress.bundles.markdown import markdown_text
from compress.core.artifacts import (
    GENAI_CONFIG,
    GENAI_MODEL,
    GGUF_MODEL,
    LEARNT_FROM,
    ONNX_MODEL,
    ORT_MODEL,
    TASK,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from compress.core.disk.files import sha256_file, write_json, write_text
from compress.core.forms import Form, NumberFormat
from compress.core.units import format_count, megabytes
from compress.core.versions import installed_version
from compress.data.images.framing import DEFAULT_FRAMING

_LIBRARIES = ("onnxruntime", "onnx", "numpy", "torch", "transformers")
_INPUT_KEYS = ("max_length", "pad_id", "positions", "texts", "image", "width")
"""Keys of `task.json` on the preparation of inputs and the shape of outputs, as far as the task has them."""
_FILE_DESCRIPTIONS = {
    ONNX_MODEL: "the model",
    f"{ONNX_MODEL}.data": "its weights",
    ORT_MODEL: "the model in onnxruntime's mobile format",
    GGUF_MODEL: "the model with its tokenizer in llama.cpp's format",
    GENAI_MODEL: "the same model for onnxruntime-genai, on the same weights",
    GENAI_CONFIG: "how onnxruntime-genai runs it",
    TOKENIZER_CONFIG: "how onnxruntime-genai reads the tokenizer",
    OPERATORS: "the operators that it needs, for a reduced build of onnxruntime",
    TOKENIZER: "text to token ids",
    LABELS: "names of the outputs",
    TASK: "how inputs are prepared",
    GOLDEN: "examples with their expected outputs",
    PREDICT: "predicts from the command line",
    PREDICTOR: "prepares the inputs of this task",
    RUNNER: "loads and runs the model; Python code to reuse",
}
_NUMBERS_TEXT = {
    NumberFormat.FLOAT: "32-bit floating point",
    NumberFormat.OPERATOR: "8-bit integer weights and arithmetic",
    NumberFormat.QDQ: "8-bit integer weights and arithmetic",
    NumberFormat.HALF: "16-bit floating-point weights",
}


def write_manifest(
    bundle: Path, form: Form, facts: Mapping[str, Any], task: Mapping[str, Any], tolerance: float, name: str
) -> None:
    """Describe and hash every file of `bundle`, and write its model card."""
    model = onnx.load(str(bundle / ONNX_MODEL), load_external_data=False)
    input_libraries = (
        ("pillow",) if "image" in task else ("tokenizers",) if (bundle / TOKENIZER).exists() else ()
    )
    libraries = (*_LIBRARIES, *input_libraries)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "task": task["task"],
        "labels": task["labels"],
        **{key: task[key] for key in (*_INPUT_KEYS, LEARNT_FROM) if key in task},
        "form": form.as_dict(),
        "facts": dict(facts),
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "inputs": [_describe_value(value) for value in model.graph.input],
        "outputs": [_describe_value(value) for value in model.graph.output],
        "tolerance": tolerance,
        "libraries": {
            "compress": __version__,
            **{library: installed_version(library) for library in libraries},
        },
        "metrics": {},
        "profile": "",
    }
    _publish(bundle, manifest)


def write_manifest_metrics(
    bundle: Path, metrics: Mapping[str, Any], profile: str = "", name: str = ""
) -> None:
    """Add measurements (plain values), the profile's text and the run's name to an existing bundle.

    The model card is written again, and its hash updated; no other file changes.
    """
    manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    manifest["metrics"] = dict(metrics)
    manifest["profile"] = profile or manifest["profile"]
    manifest["name"] = name or manifest["name"]
    _publish(bundle, manifest)


def file_entries(bundle: Path) -> dict[str, dict[str, Any]]:
    """Return sha256 and bytes of every file of a bundle except the manifest, by relative path."""
    return {
        str(PurePosixPath(file.relative_to(bundle))): {
            "sha256": sha256_file(file),
            "bytes": file.stat().st_size,
        }
        for file in sorted(bundle.rglob("*"))
        if file.is_file() and file.name not in (MANIFEST, "artifact.json") and not file.name.startswith(".")
    }


def numbers_text(manifest: Mapping[str, Any]) -> str:
    """Describe how a bundle's model stores its weights, for readers."""
    numbers, facts = Form.from_dict(manifest["form"]).numbers, manifest["facts"]
    if numbers is not NumberFormat.WEIGHT_ONLY:
        return _NUMBERS_TEXT[numbers]
    bits = sorted({block["bits"] for block in facts.get("blocks", ())} or {facts["bits"]})
    return f"{'- and '.join(map(str, bits))}-bit weights"


def render_card(manifest: Mapping[str, Any]) -> str:
    """Render the model card from a manifest whose `files` are complete except for the card itself."""
    files = manifest["files"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, autoescape=False
    )
    environment.filters["text"] = markdown_text
    code = [file for file in files if file.endswith(".py") and file not in _FILE_DESCRIPTIONS]
    weights = [entry["bytes"] for file, entry in files.items() if file.startswith(ONNX_MODEL)]
    image = {"image": {**asdict(DEFAULT_FRAMING), **manifest["image"]}} if "image" in manifest else {}
    return environment.get_template("README.md.j2").render(
        **{**manifest, **image},
        contents=[
            (file, files[file]["bytes"], description)
            for file, description in {
                **_FILE_DESCRIPTIONS,
                **dict.fromkeys(code, "further code of this task"),
            }.items()
            if file in files
        ],
        golden_bytes=sum(
            entry["bytes"] for file, entry in files.items() if file.startswith(f"{GOLDEN_IMAGES}/")
        ),
        numbers_text=numbers_text(manifest),
        parameters_text=format_count(manifest["facts"]["parameters"]),
        size_text=f"{megabytes(sum(weights)):.2f}",
        onnx_domains=[domain for domain in manifest["opsets"] if domain != "ai.onnx"],
    )


def _publish(bundle: Path, manifest: dict[str, Any]) -> None:
    """Write the card, then the manifest, so that its hashes include the card's."""
    manifest["files"] = {file: entry for file, entry in file_entries(bundle).items() if file != CARD}
    write_text(bundle / CARD, render_card(manifest))
    manifest["files"] = file_entries(bundle)
    write_json(bundle / MANIFEST, manifest)


def _describe_value(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """Return name, element type and axes of an input or output; a dynamic axis is a name."""
    tensor = value.type.tensor_type
    axes = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
    return {
        "name": value.name,
        "type": onnx.TensorProto.DataType.Name(tensor.elem_type).lower(),
        "shape": axes,
    }
