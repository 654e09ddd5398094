"""Any `nn.Module` as a model: what is written, that it comes back bit for bit, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compress.core.artifacts import Artifact, seal
from compress.core.errors import ModelError, UsageError
from compress.core.spec import Spec
from compress.core.terminal.progress import SilentProgress
from compress.data.splits import Examples
from compress.models.io.checkpoints import count_parameters, load_for_labels, load_model, save_model
from compress.models.io.plain import Origin, UserModule, make_module
from compress.models.teacher.images import open_image_teacher
from compress.models.teacher.location import check_teacher
from compress.passes.finetune.step import run as finetune
from compress.passes.source.step import run as source
from compress.profile.schema import DataSpec, TargetSpec, TeacherSpec
from compress.profile.specs.training import FinetuneSpec
from compress.step import StepContext
from compress.targets.local import resolve
from compress.tasks.base import TrainingData, task_of
from compress.training.prediction import predict
from tests.processes import outputs_in_a_fresh_process

LABELS = ("left", "right", "whole")
CODE = """
import torch
from torch import nn

def make(width=4, labels=3):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten(), nn.Linear(12, labels),
    )

def named():
    return make(), ["Whole", "left", "right"]

def many():
    return make(labels=7)

def colour():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 3))

def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))

def five():
    return nn.Sequential(nn.Conv2d(5, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.head = nn.Linear(64, 3)
        self.register_buffer("scale", torch.tensor([2.0, 3.0, 4.0]))
        self.register_buffer("nothing", torch.zeros(0))
        self.register_buffer("empty", torch.zeros(0))
    def forward(self, pixels):
        return self.head(torch.relu(self.second(self.first(pixels.flatten(1))))) * self.scale

def tied():
    return Tied()

def nothing():
    return None

def fails():
    raise RuntimeError("out of order")
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "shop_net.py").write_text(CODE)
    return tmp_path


def plain(base: Path, function: str = "make", seed: int = 0) -> UserModule:
    origin = Origin.of(f"python:shop_net:{function}", base)
    return UserModule(make_module(origin, seed, allow_code=True)[0], origin).eval()


def pixels(count: int = 5, channels: int = 1, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, size, size, generator=generator)


def trained(model: UserModule) -> UserModule:
    """The same with other batch statistics and weights than its code draws."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(pixels(32) + 1)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def outputs(model: nn.Module, batch: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model(pixel_values=pixels() if batch is None else batch)


# There and back.


def test_every_weight_and_statistic_comes_back(base: Path) -> None:
    model = trained(plain(base))
    save_model(model, base / "out")
    again = load_model(base / "out", allow_code=True)
    assert isinstance(again, UserModule)
    assert not again.training
    assert torch.equal(outputs(again), outputs(model))
    states = model.state_dict(), again.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert states[1]["module.1.num_batches_tracked"] == 3
    assert not (base / "out" / "structure.json").exists()
    assert json.loads((base / "out" / "module.json").read_text()) == {
        "source": "python:shop_net:make",
        "base": str(base),
        "sha256": model.origin.sha256,
    }
    assert count_parameters(again) == count_parameters(model) == 4 * 9 + 4 + 8 + 6 * 4 * 9 + 12 + 39


def test_the_file_holds_the_names_of_the_users_own_module(base: Path) -> None:
    model = trained(plain(base))
    save_model(model, base / "out")
    own = make_module(model.origin, seed=9, allow_code=True)[0]
    own.load_state_dict(load_file(base / "out" / "model.safetensors"), strict=True)
    assert torch.equal(outputs(UserModule(own, model.origin)), outputs(model))


def test_tied_weights_and_empty_buffers_come_back(base: Path) -> None:
    model = trained(plain(base, "tied"))
    save_model(model, base / "out")
    again = load_model(base / "out", allow_code=True)
    assert torch.equal(outputs(again), outputs(model))
    assert again.module.first.weight is again.module.second.weight
    assert count_parameters(again) == 64 * 64 + 64 + 64 + 64 * 3 + 3


def test_linear_layers_of_other_widths_are_rebuilt_by_their_shapes(base: Path) -> None:
    model = plain(base, "wide")
    model.module[1], model.module[3] = nn.Linear(64, 5), nn.Linear(5, 3)
    save_model(model, base / "out")
    again = load_model(base / "out", allow_code=True)
    assert torch.equal(outputs(again), outputs(model))
    assert again.module[3].in_features == 5
    assert (base / "out" / "structure.json").exists()


def test_the_order_of_the_outputs_is_kept(base: Path) -> None:
    model = trained(plain(base))
    ordered = UserModule(model.module, model.origin, [2, 0, 1]).eval()
    save_model(ordered, base / "out")
    assert torch.equal(outputs(load_model(base / "out", allow_code=True)), outputs(model)[:, [2, 0, 1]])
    assert UserModule(model.module, model.origin, [0, 1, 2]).order is None


def test_a_fresh_process_loads_the_same_model(base: Path) -> None:
    model = trained(plain(base))
    save_model(model, base / "out")
    white = torch.ones(1, 1, 8, 8)
    found = outputs_in_a_fresh_process(base / "out", pixel_values=white)
    torch.testing.assert_close(found, outputs(model, white), rtol=1e-5, atol=1e-6)


def test_building_a_module_leaves_torchs_random_state(base: Path) -> None:
    before = torch.get_rng_state()
    first, again, other = (plain(base, seed=seed).state_dict()["module.0.weight"] for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not list(base.rglob("__pycache__"))


# What is refused.


def refused(base: Path, out: str = "out") -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_model(base / out, allow_code=True)
    assert caught.value.exit_code == 4
    return caught.value


def test_code_that_was_changed_is_refused(base: Path) -> None:
    save_model(plain(base), base / "out")
    (base / "shop_net.py").write_text(CODE + "\n# another\n")
    error = refused(base)
    assert error.message.startswith("the code of this model was changed: its file has the sha256 ")
    assert error.where == str(base / "shop_net.py")
    (base / "shop_net.py").unlink()
    assert refused(base).message == "there is no module 'shop_net'"


def test_changed_code_is_what_a_new_model_is_built_from(base: Path) -> None:
    assert plain(base).module[0].out_channels == 4
    (base / "shop_net.py").write_text(CODE.replace("width=4", "width=9"))
    assert plain(base).module[0].out_channels == 9


def test_another_folders_module_of_the_same_name_is_not_mixed_up(base: Path) -> None:
    first = plain(base)
    other = base / "other"
    other.mkdir()
    (other / "shop_net.py").write_text(CODE.replace("width=4", "width=5"))
    second = plain(other)
    save_model(first, base / "first")
    save_model(second, base / "second")
    assert load_model(base / "first", allow_code=True).module[0].out_channels == 4
    assert load_model(base / "second", allow_code=True).module[0].out_channels == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("1.running_var"), "the file lacks '1.running_var'"),
        (lambda tensors: tensors.pop("1.num_batches_tracked"), "the file lacks '1.num_batches_tracked'"),
        (
            lambda tensors: tensors.update(extra=torch.zeros(1)),
            "the file holds 'extra', which the model does not have",
        ),
        (
            lambda tensors: tensors.update({"8.bias": torch.zeros(4)}),
            "'8.bias' has the shape [4], expected [3]",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Any, message: str, base: Path) -> None:
    save_model(plain(base), base / "out")
    tensors = load_file(base / "out" / "model.safetensors")
    change(tensors)
    save_file(tensors, base / "out" / "model.safetensors")
    assert refused(base).message == message


def test_a_damaged_description_is_refused(base: Path) -> None:
    save_model(plain(base), base / "out")
    for text in (
        "{",
        "[]",
        "{}",
        '{"source": "python:shop_net:make", "base": ".", "sha256": "x", "order": [1]}',
    ):
        (base / "out" / "module.json").write_text(text)
        assert refused(base).message.startswith("this file is damaged: ")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "nothing",
            "expected the function to return an nn.Module, or (module, labels); it returned a NoneType",
        ),
        ("fails", "RuntimeError: out of order"),
        ("absent", "AttributeError: module 'shop_net' has no attribute 'absent'"),
    ],
)
def test_a_function_that_gives_no_module_is_refused(function: str, message: str, base: Path) -> None:
    with pytest.raises(ModelError) as caught:
        plain(base, function)
    assert caught.value.message == message
    assert caught.value.where == f"python:shop_net:{function}"


# As a teacher.

TASK = task_of("image-classification", DataSpec(path="unused"))


def halves(count: int, seed: int, size: int = 8) -> Examples:
    """Images that are bright on the left, on the right, or all over."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    images = generator.integers(0, 60, (count, size, size), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, : size // 2] += np.uint8(120 * (label != 1))
        image[:, size // 2 :] += np.uint8(120 * (label != 0))
    return Examples(tuple(images), labels)


def context(base: Path, name: str, spec: Spec, inputs: dict[str, Artifact], **changes: Any) -> StepContext:
    (base / name).mkdir()
    data = TrainingData(halves(240, 0), halves(60, 1), LABELS)
    settings: dict[str, Any] = {
        "task": TASK,
        "data": data,
        "seed": 3,
        "precision": "fp32",
        "device": "cpu",
        "timing_target": resolve(TargetSpec()),
        "progress": SilentProgress(),
        "shared": base / "shared",
        "base": base,
        "allow_code": True,
    }
    out, work = base / name / "out", base / name / "work"
    out.mkdir()
    return StepContext(spec=spec, inputs=inputs, out=out, work=work, **{**settings, **changes})


def made(base: Path, function: str = "make", finetuned: bool = True, **changes: Any) -> Artifact:
    given = {key: changes.pop(key) for key in ("labels",) if key in changes}
    spec = TeacherSpec(
        model=f"python:shop_net:{function}", finetune=FinetuneSpec() if finetuned else None, **given
    )
    ctx = context(base, f"source-{function}", spec, {}, **changes)
    result = source(ctx)
    return seal(ctx.out, result.form, result.facts)


def test_a_source_says_what_its_images_are(base: Path) -> None:
    artifact = made(base)
    task = artifact.read_json("task.json")
    pixels = np.stack(halves(240, 0).items) / 255
    assert task["image"]["mean"] == pytest.approx([pixels.mean()])
    assert task["image"]["std"] == pytest.approx([pixels.std()])
    assert (task["image"]["size"], task["image"]["channels"]) == ([8, 8], 1)
    assert {name: task[name] for name in ("task", "labels", "input_names", "output_names")} == {
        "task": "image-classification",
        "labels": list(LABELS),
        "input_names": ["pixel_values"],
        "output_names": ["logits"],
    }
    assert artifact.facts["architecture"] == "Sequential"
    assert artifact.facts["head"] == "as it was"
    assert artifact.facts["parameters"] == count_parameters(plain(base))


def test_the_size_that_the_profile_asks_for_wins(base: Path) -> None:
    task = task_of("image-classification", DataSpec(path="unused", image_size=(6, 10)))
    assert made(base, task=task).read_json("task.json")["image"]["size"] == [6, 10]


def test_named_outputs_are_put_into_the_order_of_the_labels(base: Path) -> None:
    artifact = made(base, "named", finetuned=False)
    assert artifact.facts["head"] == "matched"
    # The same seed draws the same weights; "Whole" is output 0 and label 2.
    expected = outputs(plain(base, "named", seed=3))[:, [1, 2, 0]]
    assert torch.equal(outputs(load_model(artifact.path, allow_code=True)), expected)


def test_outputs_that_nobody_names_are_refused_without_a_finetune(base: Path) -> None:
    with pytest.raises(ModelError, match="the meaning of this model's outputs is not declared"):
        made(base, finetuned=False)
    named = TeacherSpec(model="python:shop_net:make", labels=("left", "whole", "odd"))
    with pytest.raises(ModelError, match="the model's labels are not those of the data: it lacks 'right'"):
        open_image_teacher("image-classification", named, LABELS, base, allow_code=True, seed=0)


def test_names_of_the_profile_replace_those_of_the_code(base: Path) -> None:
    artifact = made(base, "named", finetuned=False, labels=("right", "whole", "left"))
    assert torch.equal(
        outputs(load_model(artifact.path, allow_code=True)),
        outputs(plain(base, "named", seed=3))[:, [2, 0, 1]],
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("many", "this model has 7 outputs, but the data has 3 labels"),
        ("five", "the model does not accept images of 1 x 8 x 8: Given groups=1"),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_refused(function: str, message: str, base: Path) -> None:
    with pytest.raises(ModelError) as caught:
        made(base, function)
    assert caught.value.message.startswith(message)
    assert caught.value.where == f"python:shop_net:{function}"


def test_a_colour_model_gets_three_channels_of_grey_images(base: Path) -> None:
    artifact = made(base, "colour")
    assert artifact.read_json("task.json")["image"]["channels"] == 3
    encoded = TASK.encode(halves(4, 5), artifact.path).batch([0, 1])
    assert encoded["pixel_values"].shape == (2, 3, 8, 8)


def test_code_runs_only_where_it_is_allowed(base: Path) -> None:
    spec = TeacherSpec(model="python:shop_net:make", finetune=FinetuneSpec())
    with pytest.raises(UsageError, match="code-not-allowed"):
        check_teacher(spec, LABELS, base, allow_code=False, task="image-classification")
    with pytest.raises(UsageError, match="code-not-allowed"):
        open_image_teacher("image-classification", spec, LABELS, base, allow_code=False, seed=0)
    artifact = made(base)
    folder = TeacherSpec(model=str(artifact.path))
    with pytest.raises(UsageError, match="code-not-allowed"):
        check_teacher(folder, LABELS, base, allow_code=False, task="image-classification")
    with pytest.raises(UsageError, match="code-not-allowed"):
        open_image_teacher("image-classification", folder, LABELS, base, allow_code=False, seed=0)


def test_a_pickled_checkpoint_is_never_loaded(base: Path) -> None:
    with (base / "net.pt").open("wb") as stream:
        pickle.dump({}, stream)
    with pytest.raises(ModelError, match="this checkpoint is a pickle") as caught:
        check_teacher(TeacherSpec(model="net.pt"), LABELS, base, allow_code=True, task="image-classification")
    assert caught.value.where == str(base / "net.pt")


def test_load_for_labels_keeps_the_head_and_refuses_another_width(base: Path) -> None:
    artifact = made(base)
    model = load_for_labels(artifact.path, LABELS, seed=0, allow_code=True)
    assert torch.equal(outputs(model), outputs(load_model(artifact.path, allow_code=True)))
    with pytest.raises(ModelError) as caught:
        load_for_labels(artifact.path, ("a", "b"), seed=0, allow_code=True)
    assert caught.value.message == "this model has 3 outputs, but the data has 2 labels"
    assert caught.value.hint == "Make the function build a model with 2 outputs."


def test_a_finetune_trains_weights_and_batch_statistics(base: Path) -> None:
    artifact = made(base)
    spec = FinetuneSpec(epochs=6, learning_rate=1e-2, batch_size=32, augment=True)
    ctx = context(base, "finetune", spec, {"model": artifact})
    result = finetune(ctx)
    after = seal(ctx.out, result.form, result.facts)
    assert result.facts["validation_score"] > 0.9
    before, now = load_model(artifact.path, allow_code=True), load_model(after.path, allow_code=True)
    assert not torch.equal(before.module[1].running_mean, now.module[1].running_mean)
    assert now.module[1].num_batches_tracked == result.facts["best_step"]
    inputs = TASK.encode(ctx.data.validation, after.path)
    predicted = predict(now, inputs, precision="fp32", device="cpu").argmax(axis=1)
    assert (predicted == ctx.data.validation.labels).mean() == result.facts["validation_score"]
    assert (after.path / "task.json").read_bytes() == (artifact.path / "task.json").read_bytes()
    again = context(base, "again", spec, {"model": artifact})
    finetune(again)
    weights = [folder / "model.safetensors" for folder in (after.path, again.out)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_an_artifact_serves_as_a_teacher_of_its_own(base: Path) -> None:
    artifact = made(base, "named", finetuned=False)
    spec = TeacherSpec(model=str(artifact.path))
    data = TrainingData(halves(40, 0), halves(20, 1), ("right", "left", "whole"))
    ctx = context(base, "again", spec, {}, data=data)
    result = source(ctx)
    assert result.facts["head"] == "matched"
    expected = outputs(load_model(artifact.path, allow_code=True))[:, [1, 0, 2]]
    assert torch.equal(outputs(load_model(ctx.out, allow_code=True)), expected)
    described = json.loads((ctx.out / "task.json").read_text())
    assert described["image"] == artifact.read_json("task.json")["image"]
