"""Modules of the user's own: what would not be the same in training, file and bundle is refused before training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.core.artifacts import Artifact, seal
from compress.core.errors import ModelError
from compress.data.splits import Examples, Item
from compress.lowering.export import export_graph, signature_of
from compress.models.io.checkpoints import load_model
from compress.models.io.plain import Origin, UserModule, make_module
from compress.passes.source.step import run as source
from compress.profile.schema import DataSpec, TeacherSpec
from compress.profile.specs.training import FinetuneSpec
from compress.tasks.base import TrainingData, task_of
from tests import steps

LABELS = ("a", "b")
CODE = """
import torch, torch.nn.functional as F
from pathlib import Path
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)
        self.begin()
    def begin(self): pass
    def features(self, x): return torch.relu(self.first(x)).mean((2, 3))
    def forward(self, x): return self.head(self.features(x))

class Dropped(Small):
    def forward(self, x): return self.head(F.dropout(self.features(x), 0.3))
class Noisy(Small):
    def forward(self, x): return self.head(self.features(x)) + torch.rand(2)
class Mask(Small):
    def begin(self): self.mask = torch.randn(4)
    def forward(self, x): return self.head(self.features(x) * self.mask)
class Passing(Small):
    def begin(self): self.register_buffer("mask", torch.randn(4), persistent=False)
    def forward(self, x): return self.head(self.features(x) * self.mask)
class Grows(nn.Module):
    width = 3
    def __init__(self):
        super().__init__()
        wide = 4 + int(torch.randint(100, ()))
        self.net = nn.Sequential(nn.Conv2d(3, wide, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 2))
    def forward(self, x): return self.net(x)
class Counting(Small):
    def begin(self): self.register_buffer("seen", torch.zeros(()))
    def forward(self, x):
        self.seen += 1
        return self.head(self.features(x))
class Remembers(Small):
    calls = 0
    def forward(self, x):
        self.calls += 1
        return self.head(self.features(x)) * self.calls
class Batched(Small):
    def begin(self): self.norm = nn.BatchNorm1d(4, track_running_stats=False)
    def forward(self, x): return self.head(self.norm(self.features(x)))
class Forever(Small):
    def begin(self): self.norm = nn.BatchNorm1d(4)
    def forward(self, x):
        return self.head(F.batch_norm(self.features(x), None, None, training=True))
class Cast(Small):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.head(self.features(x)).float()
class Branches(Small):
    def forward(self, x):
        found = self.features(x)
        return self.head(found if found.sum() > 0 else -found)
class Loops(Small):
    def forward(self, x):
        found = self.features(x)
        for _ in range(int(found.abs().max().item() * 3) % 3 + 1):
            found = found + 1
        return self.head(found)
class Listed(Small):
    def begin(self): self.more = [nn.Linear(4, 4)]
    def forward(self, x): return self.head(self.more[0](self.features(x)))
class Loose(Small):
    def begin(self): self.scale = torch.ones(4, requires_grad=True)
    def forward(self, x): return self.head(self.features(x) * self.scale)
class Both(Small):
    def forward(self, x): return self.head(self.features(x)), self.features(x)
class Named(Small):
    def forward(self, x): return {"scores": self.head(self.features(x)), "seen": x}
class Single(Small):
    def forward(self, x): return self.head(self.features(x))[:, 0]
class Moody(Small):
    def forward(self, x):
        found = self.head(self.features(x))
        return (found, found) if self.training else found
class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.LazyConv2d(4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(2))
    def forward(self, x): return self.net(x)

class Logits(Small):
    def forward(self, x): return {"logits": self.head(self.features(x)), "seen": x}
class Tupled(Small):
    def forward(self, x): return (self.head(self.features(x)),)
class Maps(Small):
    def begin(self): self.last = nn.Conv2d(4, 2, 1)
    def forward(self, x): return self.last(F.adaptive_avg_pool2d(torch.relu(self.first(x)), 1))
class Constant(Small):
    def begin(self): self.mean = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    def forward(self, x): return self.head(self.features(x - self.mean))
class Hooked(Small):
    def begin(self): self.first.register_forward_hook(lambda module, given, found: found * 2)
class Normed(Small):
    def begin(self): self.first = weight_norm(self.first)
class Side(nn.Module):
    '''A layer of another width stands first among its modules.'''
    def __init__(self):
        super().__init__()
        self.reduce = nn.Conv2d(8, 4, 1)
        self.first = nn.Conv2d(1, 8, 3)
        self.head = nn.Linear(4, 2)
    def forward(self, x): return self.head(self.reduce(self.first(x)).mean((2, 3)))
class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 28 * 28, 2)
    def forward(self, x): return self.head(x.flatten(1))

def lazy_run():
    made = Lazy()
    made(torch.zeros(1, 3, 8, 8))
    return made
def scripted(): return torch.jit.trace(Small(), torch.zeros(1, 3, 8, 8))
def part_scripted():
    made = Small()
    made.first = torch.jit.script(made.first)
    return made
def compiled(): return torch.compile(Small())
def in_training(): return Forever.__bases__[0]().train()
def fixed():
    torch.manual_seed(0)
    return Small(), ["a", "b"]
def drawn(): return Small(), ["a", "b"]
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(CODE)
    return tmp_path


def pictures(count: int, size: tuple[int, int] = (8, 8), channels: tuple[int, ...] = (3,)) -> Examples:
    generator = np.random.default_rng(count)
    items: tuple[Item, ...] = tuple(generator.integers(0, 256, (count, *size, *channels), np.uint8))
    return Examples(items, np.arange(count) % 2)


def made(
    base: Path, function: str, *, finetuned: bool = True, train: Examples | None = None, **data: Any
) -> Artifact:
    spec = TeacherSpec(model=f"python:own:{function}", finetune=FinetuneSpec() if finetuned else None)
    task = task_of("image-classification", DataSpec(path="unused", **data))
    shown = TrainingData(train or pictures(12), pictures(6), LABELS)
    ctx = replace(steps.context(base / "source", spec, {}, task, shown, base=base), allow_code=True)
    result = source(ctx)
    return seal(ctx.out, result.form, result.facts)


@pytest.mark.parametrize(
    ("function", "code"),
    [
        ("Dropped", "module-random"),
        ("Noisy", "module-random"),
        ("Mask", "module-random"),
        ("Passing", "module-random"),
        ("Grows", "module-random"),
        ("Remembers", "module-random"),
        ("Counting", "module-stateful"),
        ("Batched", "module-batch"),
        ("Forever", "module-batch"),
        ("Cast", "module-autocast"),
        ("Branches", "module-export"),
        ("Loops", "module-export"),
        ("Listed", "module-unregistered"),
        ("Loose", "module-unregistered"),
        ("Both", "module-outputs"),
        ("Named", "module-outputs"),
        ("Single", "module-outputs"),
        ("Moody", "module-outputs"),
        ("Lazy", "module-lazy"),
        ("scripted", "module-torchscript"),
        ("part_scripted", "module-torchscript"),
    ],
)
def test_what_would_be_another_model_later_is_refused_by_name(base: Path, function: str, code: str) -> None:
    with pytest.raises(ModelError) as caught:
        made(base, function)
    assert caught.value.code == code
    assert (caught.value.where or "").startswith(f"python:own:{function}")
    assert caught.value.hint or code == "module-outputs"
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "function",
    [
        "Small",
        "Logits",
        "Tupled",
        "Maps",
        "Constant",
        "Hooked",
        "Normed",
        "lazy_run",
        "compiled",
        "in_training",
    ],
)
def test_what_is_unusual_and_sound_comes_back_the_same(base: Path, function: str) -> None:
    artifact = made(base, function)
    again = load_model(artifact.path, allow_code=True)
    shown = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = again(shown), load_model(artifact.path, allow_code=True)(shown)
    assert torch.equal(first, second)
    assert first.shape == (3, 2)


def test_a_ready_module_that_cannot_be_traced_is_refused_as_such(base: Path) -> None:
    origin = Origin.of("python:own:Branches", base)
    module, _ = make_module(origin, 0, allow_code=True)
    task = {"input_names": ["x"], "output_names": ["y"], "image": {"channels": 3, "size": [8, 8]}}
    with pytest.raises(ModelError) as caught:
        export_graph(UserModule(module, origin).eval(), signature_of(task))
    assert (caught.value.code, caught.value.where) == ("module-export", "python:own:Branches")


# Which images a module takes.


def test_channels_are_those_that_the_module_runs_on(base: Path) -> None:
    image = made(base, "Side").read_json("task.json")["image"]
    assert (image["channels"], image["size"]) == (1, [8, 8])


def test_a_size_that_is_fixed_is_found(base: Path) -> None:
    artifact = made(base, "Flat")
    assert artifact.read_json("task.json")["image"]["size"] == [28, 28]
    (note,) = artifact.facts["notes"]
    assert "28 x 28" in note


def test_images_of_several_sizes_are_scaled_to_their_median_with_a_note(base: Path) -> None:
    mixed = Examples((*pictures(10).items, *pictures(1, (1200, 1600)).items), np.arange(11) % 2)
    artifact = made(base, "Small", train=mixed)
    assert artifact.read_json("task.json")["image"]["size"] == [8, 8]
    (note,) = artifact.facts["notes"]
    assert "2 sizes" in note
    assert "8 x 8" in note


# What a ready module takes.


def test_a_ready_module_needs_a_declaration(base: Path) -> None:
    with pytest.raises(ModelError) as caught:
        made(base, "fixed", finetuned=False)
    assert (caught.value.code, caught.value.where) == ("preprocess-undeclared", "python:own:fixed")
    (base / "source").rename(base / "before")
    said = {
        "size": 10,
        "resize": "shortest",
        "crop": [8, 6],
        "scale": 255,
        "mean": [1, 2, 3],
        "channels": "bgr",
    }
    artifact = made(base, "fixed", finetuned=False, preprocess=said)
    image = artifact.read_json("task.json")["image"]
    assert image == {
        "size": [8, 6],
        "channels": 3,
        "mean": [1 / 255, 2 / 255, 3 / 255],
        "std": [1 / 255] * 3,
        "resize": "shortest",
        "resize_to": [10],
        "order": "bgr",
    }
    assert json.loads(json.dumps(artifact.facts["image"])) == image


def test_weights_that_nobody_trained_need_none(base: Path) -> None:
    artifact = made(base, "drawn", finetuned=False)
    (note,) = artifact.facts["notes"]
    assert "its weights are random" in note
