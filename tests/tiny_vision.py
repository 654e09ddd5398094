"""Tiny models of images from a seed, as artifacts, shared by the tests. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

from compress.core.artifacts import TASK, Artifact
from compress.core.disk.files import write_json
from compress.data.splits import Examples
from compress.models.io.checkpoints import save_model
from compress.models.io.plain import Origin, UserModule, make_module
from compress.profile.schema import DataSpec
from compress.tasks.image_classification.task import ImageClassification
from tests.tiny import sealed

LABELS = ("left", "right", "both")
SIZE = 8
CNN_CODE = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x):
        h = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(x + self.second_norm(self.second(h)))


class Network(nn.Module):
    '''A sum of branches, a concatenation, a depthwise and a grouped convolution, and columns of a flattened map.'''

    def __init__(self, labels=3):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(16)
        self.block = Block(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.point = nn.Conv2d(32, 24, 1)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(24 * 4 * 4, 32)
        self.head = nn.Linear(32, labels)

    def forward(self, x):
        x = self.block(torch.relu(self.stem_norm(self.stem(x))))
        x = nn.functional.relu6(self.depthwise_norm(self.depthwise(x)))
        x = torch.cat([x, torch.relu(self.grouped(x))], dim=1)
        x = self.pool(torch.relu(self.point(x)))
        return self.head(torch.relu(self.hidden(x.flatten(1))))


class Fixed(nn.Module):
    # Its widths are written out.

    def __init__(self, labels=3):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=4, padding=1)
        self.head = nn.Linear(8 * 2 * 2, labels)

    def forward(self, x):
        return self.head(torch.relu(self.stem(x)).reshape(-1, 8, 4).reshape(-1, 32))


def fixed():
    return Fixed()


def network():
    made = Network()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made


def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))
"""


def image_task() -> ImageClassification:
    """Image classification of whatever an artifact declares."""
    return ImageClassification(DataSpec(path="unused"))


def images(count: int, seed: int = 0) -> Examples:
    """8x8 images with a bright left half, right half, or both."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    pixels = random.integers(0, 90, (count, SIZE, SIZE))
    pixels[np.isin(labels, (0, 2)), :, : SIZE // 2] += 150
    pixels[np.isin(labels, (1, 2)), :, SIZE // 2 :] += 150
    return Examples(tuple(pixels.astype(np.uint8)), labels)


def tiny_network(folder: Path, name: str = "network", seed: int = 0) -> UserModule:
    """A network that the code file `tiny_network.py`, written into `folder`, builds; in eval mode."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny_network.py").write_text(CNN_CODE)
    origin = Origin.of(f"python:tiny_network:{name}", folder)
    return UserModule(make_module(origin, seed, allow_code=True)[0], origin).eval()


def tiny_vit(distilled: bool = False, seed: int = 0) -> PreTrainedModel:
    """A vision transformer of 16 patches, with a distillation token where asked; in eval mode."""
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": SIZE,
        "patch_size": 2,
        "num_channels": 1,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: index for index, label in enumerate(LABELS)},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: PreTrainedModel
        if distilled:
            made = DeiTForImageClassificationWithTeacher(DeiTConfig(**sizes))
        else:
            made = ViTForImageClassification(ViTConfig(**sizes))
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.15)
    return made.eval()


def write_image_artifact(out: Path, model: nn.Module) -> Artifact:
    """Write a sealed torch-form artifact of a model of 8x8 images."""
    save_model(model, out)
    write_json(
        out / TASK,
        {
            "task": "image-classification",
            "labels": list(LABELS),
            "input_names": ["pixel_values"],
            "output_names": ["logits"],
            "image": {"size": [SIZE, SIZE], "channels": 1, "mean": [0.5], "std": [0.25]},
        },
    )
    return sealed(out, model)
