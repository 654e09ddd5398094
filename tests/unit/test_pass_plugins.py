"""A pass that an installed distribution adds: schema, reference, validation, plan and keys treat it like a built-in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.plugins import compress, describe, install, python

PROFILE = """\
name: job
task: text-classification
data: {path: data.csv}
teacher: {model: m}
passes:
  - cluster: {values: 8}
  - quantize: {bits: 8}
"""
KEYS = """
import json, pathlib
from compress.core.numerics import local_numerics
from compress.planning.keys import Fingerprints, all_parts
from compress.planning.steps import build_plan
from compress.profile.load import load_profile
plan = build_plan(load_profile(pathlib.Path("p.yaml")).profile)
known = Fingerprints({(plan.profile.teacher.model, None): "m"}, "d")
print(json.dumps(all_parts(plan, known, local_numerics())))
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder that holds the distribution `weight-clustering` 0.3, and a job with its pass."""
    install(tmp_path, "weight_clustering")
    (tmp_path / "data.csv").write_text("text,label\nred,colour\n")
    (tmp_path / "m").mkdir()
    (tmp_path / "p.yaml").write_text(PROFILE)
    return tmp_path


def test_the_schema_and_the_reference_hold_it(site: Path) -> None:
    schema = json.loads(compress(site, "schema"))
    said = schema["$defs"]["ClusterSpec"]["properties"]["values"]["description"]
    assert said == "How many values a map's weights may take."
    assert {"$ref": "#/$defs/ClusterEntry"} in schema["properties"]["passes"]["items"]["oneOf"]
    page = python(site, "-m", "compress.profile.reference")
    assert '<a id="passes-cluster"></a>`passes[].cluster`' in page


def test_it_is_listed_with_its_distribution(site: Path) -> None:
    assert json.loads(compress(site, "plugins", "--json")) == [
        {
            "group": "compress.passes",
            "name": "cluster",
            "target": "weight_clustering.kind:CLUSTER",
            "distribution": "weight-clustering",
            "version": "0.3",
        }
    ]
    (table,) = [line.split() for line in compress(site, "plugins").splitlines()[1:]]
    assert table == ["passes", "cluster", "weight-clustering", "0.3", "weight_clustering.kind:CLUSTER"]


def test_it_is_validated(site: Path) -> None:
    (site / "p.yaml").write_text(PROFILE.replace("values", "value") + "  - cluster: {}\n")
    told = compress(site, "validate", "p.yaml", code=2)
    assert "passes.0.cluster.value: unknown key; did you mean `values`?" in told
    assert "passes.2.cluster: needs a float torch model, but passes.1.quantize gives" in told


def keys_of(site: Path) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = json.loads(python(site, "-c", KEYS))
    return parts


def test_its_code_and_its_distribution_enter_its_key_alone(site: Path) -> None:
    before = keys_of(site)
    assert list(before) == [
        "source",
        "source.onnx",
        "cluster",
        "cluster.onnx",
        "quantize",
    ]
    assert before["cluster"]["spec"] == {"values": 8, "recover": None}
    assert before["cluster"]["libraries"]["weight-clustering"] == "0.3"
    assert "weight-clustering" not in before["quantize"]["libraries"]
    (site / "weight_clustering" / "kmeans.py").write_text("ROUNDS = 16")
    after = keys_of(site)
    assert {name for name in before if before[name]["code"] != after[name]["code"]} == {"cluster"}


@pytest.mark.parametrize(
    ("point", "told"),
    [
        ("cluster = weight_clustering.kind:NONE", "the plugin 'cluster' of weight-clustering 0.3"),
        ("prune = weight_clustering.kind:CLUSTER", "'prune' is defined twice in compress.passes"),
        ("knead = weight_clustering.kind:CLUSTER", "the plugin 'knead' of weight-clustering 0.3"),
    ],
)
def test_what_is_wrong_with_it_is_told(site: Path, point: str, told: str) -> None:
    name, _, target = point.partition(" = ")
    describe(site, "weight-clustering", "0.3", {"compress.passes": {name: target}})
    message = compress(site, "validate", "p.yaml", code=2)
    assert told in message
    assert "Traceback" not in message
    compress(site, "--help")


def test_two_tasks_of_one_name_hinder_only_who_asks_for_tasks(tmp_path: Path) -> None:
    for number in "12":
        describe(tmp_path, f"tagging{number}", "1.0", {"compress.tasks": {"tagging": "tagging:KIND"}})

    assert "Run a profile" in compress(tmp_path, "--help")
    told = compress(tmp_path, "measure", "--help", code=2)
    assert "[plugin-name]" in told
    assert "Traceback" not in told
