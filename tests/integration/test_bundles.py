"""Bundles of each task: exported, verified, used from the command line, tampered with. No torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.bundles.manifest import write_manifest_metrics
from compress.bundles.verify import verify_bundle
from compress.core.artifacts import Artifact
from compress.data.splits import UNLABELLED, Examples, Item
from compress.passes.export import step as export
from compress.passes.export.spec import ExportSpec
from compress.profile.schema import DataSpec
from compress.runtimes import runner
from compress.tasks.base import TrainingData, task_of
from tests.steps import context, run
from tests.tiny_onnx import (
    HALVES,
    LABELS,
    VOCABULARY,
    write_embedder_artifact,
    write_halves_artifact,
    write_votes_artifact,
)

WORDS = list(VOCABULARY)[2:]
GOLDEN = 5


def texts(count: int = 40) -> list[Item]:
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, generator.integers(1, 12))) for _ in range(count)]


def pictures(count: int = 40) -> list[Item]:
    """Of other sizes than the model's, so that they are scaled."""
    generator = np.random.default_rng(0)
    return [
        generator.integers(0, 256, (9 + number % 3, 12, *[3] * (number % 2)), np.uint8)
        for number in range(count)
    ]


KINDS: dict[str, tuple[Callable[[Path], Artifact], Sequence[Item], tuple[str, ...]]] = {
    "text-classification": (write_votes_artifact, texts(), LABELS),
    "image-classification": (write_halves_artifact, pictures(), HALVES),
    "sentence-embedding": (write_embedder_artifact, texts(), ()),
}
IMAGES, SENTENCES = "image-classification", "sentence-embedding"


def export_bundle(folder: Path, task: str) -> Path:
    write, items, labels = KINDS[task]
    examples = Examples(items, np.full(len(items), UNLABELLED))
    spec = ExportSpec(formats=("onnx", "ort"), golden=GOLDEN)
    kind = task_of(task, DataSpec(path="unused", max_length=16))
    data = TrainingData(examples, examples, labels)
    return run(export, context(folder, spec, {"model": write(folder / "model")}, kind, data))[0].path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {task: export_bundle(tmp_path_factory.mktemp(task), task) for task in KINDS}


@pytest.fixture(params=KINDS)
def bundle(request: pytest.FixtureRequest, made: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[request.param], tmp_path / "bundle"))


def copy_of(made: dict[str, Path], task: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[task], tmp_path / task))


def predict(bundle: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-B", str(bundle / "predict.py"), *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, cwd=bundle.parent
    )


def edit_golden(bundle: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the golden examples and make the hashes right again."""
    golden = json.loads((bundle / "golden.json").read_text())
    change(golden["examples"])
    (bundle / "golden.json").write_text(json.dumps(golden))
    write_manifest_metrics(bundle, {})


def test_a_bundle_of_each_task_verifies_in_both_formats(bundle: Path):
    result = verify_bundle(bundle)
    assert result.problems == ()
    assert (result.examples, result.models) == (GOLDEN, ("model.onnx", "model.ort"))


def test_every_file_but_the_manifest_has_its_hash(bundle: Path):
    manifest = json.loads((bundle / "manifest.json").read_text())
    present = {file.relative_to(bundle).as_posix() for file in bundle.rglob("*") if file.is_file()}
    assert set(manifest["files"]) == present - {"manifest.json", "artifact.json"}


def test_what_a_bundle_holds_follows_its_task(made: dict[str, Path]):
    names = {task: {file.name for file in folder.iterdir()} for task, folder in made.items()}
    common = {"model.onnx", "model.ort", "task.json", "golden.json", "runner.py", "predict.py", "README.md"}
    assert all(common <= found for found in names.values())
    assert [task for task, found in names.items() if "labels.json" in found] == list(KINDS)[:2]
    assert [task for task, found in names.items() if "tokenizer.json" in found] == [
        "text-classification",
        SENTENCES,
    ]
    assert [file.name for file in sorted((made[IMAGES] / "golden").iterdir())] == [
        f"{number:03d}.png" for number in range(GOLDEN)
    ]


def test_the_manifest_says_how_inputs_are_made(made: dict[str, Path]):
    manifests = {task: json.loads((folder / "manifest.json").read_text()) for task, folder in made.items()}
    assert manifests[IMAGES]["image"] == {"size": [6, 8], "channels": 1, "mean": [0.5], "std": [0.25]}
    assert manifests[IMAGES]["inputs"][0]["shape"] == ["batch", 1, 6, 8]
    assert "max_length" not in manifests[IMAGES]
    assert "pillow" in manifests[IMAGES]["libraries"]
    assert "tokenizers" not in manifests[IMAGES]["libraries"]
    assert (manifests[SENTENCES]["width"], manifests[SENTENCES]["max_length"]) == (3, 16)
    assert manifests[SENTENCES]["labels"] == []


def test_the_card_speaks_of_its_own_task(made: dict[str, Path]):
    cards = {task: " ".join((folder / "README.md").read_text().split()) for task, folder in made.items()}
    assert "pip install onnxruntime numpy pillow python predict.py picture.png" in cards[IMAGES]
    assert "resized to 6 x 8 pixels" in cards[IMAGES]
    assert "normalized with the mean 0.5 and the standard deviation 0.25" in cards[IMAGES]
    assert "okens" not in cards[IMAGES]
    assert "pip install onnxruntime numpy tokenizers" in cards[SENTENCES]
    assert "a vector of 3 numbers" in cards[SENTENCES]
    assert "with a cosine similarity of 0.9999 or more" in cards[SENTENCES]
    assert "abel" not in cards[SENTENCES]
    assert "at most 16 tokens, padded with 0 on the right" in cards["text-classification"]


def test_golden_images_are_those_of_training_at_the_models_size(made: dict[str, Path]):
    predictor = runner.open_predictor(str(made[IMAGES]))
    examples = json.loads((made[IMAGES] / "golden.json").read_text())["examples"]
    every = runner.softmax(np.concatenate([predictor.outputs([item]) for item in KINDS[IMAGES][1]]))
    for example in examples:
        with Image.open(made[IMAGES] / example["image"]) as image:
            assert (image.size, image.mode) == ((8, 6), "L")
        nearest = np.abs(every - example["probabilities"]).max(axis=1).min()
        assert nearest < 1e-6


def test_predict_classifies_image_files(made: dict[str, Path], tmp_path: Path):
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:, :20] = 255
    Image.fromarray(pixels).save(tmp_path / "left.png")
    Image.fromarray(pixels[:, ::-1]).save(tmp_path / "right.jpg")
    done = predict(made[IMAGES], str(tmp_path / "left.png"), str(tmp_path / "right.jpg"))
    assert done.returncode == 0, done.stderr
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["left", "right"]
    done = predict(made[IMAGES], "--json", "--model", "model.ort", stdin=f"{tmp_path / 'left.png'}\n")
    answer = json.loads(done.stdout)
    assert (answer["image"], answer["label"]) == (str(tmp_path / "left.png"), "left")
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-6)


def test_predict_names_the_file_that_is_no_image(made: dict[str, Path], tmp_path: Path):
    (tmp_path / "notes.txt").write_text("hello")
    for file in (tmp_path / "notes.txt", tmp_path / "missing.png"):
        done = predict(made[IMAGES], str(file))
        assert done.returncode == 1
        assert done.stderr.startswith(f"cannot read {file} as an image: ")


def test_predict_embeds_texts_as_json_lines(made: dict[str, Path]):
    done = predict(made[SENTENCES], "--json", "red blue cat", "runs")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"text": "red blue cat", "embedding": [2, 1, 0]},
        {"text": "runs", "embedding": [0, 0, 1]},
    ]


def test_predict_writes_embeddings_to_a_file(made: dict[str, Path], tmp_path: Path):
    done = predict(made[SENTENCES], "--out", str(tmp_path / "e.npy"), stdin="red blue cat\n\nruns\n")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    embeddings = np.load(tmp_path / "e.npy")
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, [[2, 1, 0], [0, 0, 1]])


def test_predict_compares_two_texts(made: dict[str, Path]):
    done = predict(made[SENTENCES], "--similar", "red blue cat", "dog cat", "--model", "model.ort")
    assert done.stdout == "0.4472\n", done.stderr
    assert predict(made[SENTENCES], "--similar", "one text").returncode == 2


def test_a_changed_golden_image_is_found(made: dict[str, Path], tmp_path: Path):
    bundle = copy_of(made, IMAGES, tmp_path)
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(bundle / "golden" / "001.png")
    result = verify_bundle(bundle)
    assert [problem.split(":")[0] for problem in result.problems] == ["golden/001.png was changed"]
    assert result.models == ()
    write_manifest_metrics(bundle, {})
    problems = verify_bundle(bundle).problems
    assert [problem.split(":")[1] for problem in problems] == [" golden example 1"] * 2


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/hostname", "golden/../../secret.png", "golden/999.png"]
)
def test_a_golden_image_outside_the_bundle_is_refused(made: dict[str, Path], name: str, tmp_path: Path):
    bundle = copy_of(made, IMAGES, tmp_path)
    shutil.copyfile(bundle / "golden" / "000.png", tmp_path / "secret.png")

    def lead_out(examples: list[dict[str, Any]]) -> None:
        examples[0]["image"] = name

    edit_golden(bundle, lead_out)
    result = verify_bundle(bundle)
    assert result.problems == (f"golden example 0: it names {name!r}, which is not in the manifest",)
    assert result.models == ()


def test_another_direction_of_an_embedding_is_found_and_rounding_is_not(
    made: dict[str, Path], tmp_path: Path
):
    bundle = copy_of(made, SENTENCES, tmp_path)

    def turn(examples: list[dict[str, Any]]) -> None:
        examples[0]["embedding"] = [value * (1 + 1e-4) for value in examples[0]["embedding"]]
        examples[1]["embedding"] = [
            value + 0.1 * (place == 0) for place, value in enumerate(examples[1]["embedding"])
        ]
        examples[2]["embedding"] = examples[2]["embedding"][:2]

    edit_golden(bundle, turn)
    problems = [problem for problem in verify_bundle(bundle).problems if problem.startswith("model.onnx")]
    assert len(problems) == 2
    assert "golden example 1: the cosine is" in problems[0]
    assert "golden example 2: 3 outputs instead of 2" in problems[1]


def test_an_output_that_is_not_a_number_is_wrong(made: dict[str, Path], tmp_path: Path):
    bundle = copy_of(made, SENTENCES, tmp_path)

    def spoil(examples: list[dict[str, Any]]) -> None:
        examples[0]["embedding"][0] = float("nan")

    edit_golden(bundle, spoil)
    assert verify_bundle(bundle).problems == ("golden.json holds no golden examples",)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"examples": 3}'])
def test_golden_examples_that_cannot_be_read_are_found(made: dict[str, Path], content: str, tmp_path: Path):
    bundle = copy_of(made, IMAGES, tmp_path)
    (bundle / "golden.json").write_text(content)
    write_manifest_metrics(bundle, {})
    assert verify_bundle(bundle).problems == ("golden.json holds no golden examples",)


def test_a_bundle_of_another_layout_is_refused(made: dict[str, Path], tmp_path: Path):
    from compress.core.errors import ModelError

    bundle = copy_of(made, IMAGES, tmp_path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    with pytest.raises(ModelError, match="this bundle has format 1"):
        verify_bundle(bundle)
