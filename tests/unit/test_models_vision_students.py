from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import DeiTForImageClassificationWithTeacher, PreTrainedModel, ViTForImageClassification

from compress.core.errors import ModelError
from compress.models.anatomy.encoder import encoder_of
from compress.models.io.checkpoints import count_parameters, load_model, save_model
from compress.models.students.vision import new_vision_transformer
from compress.profile.specs.student import StudentSpec

LABELS = ("zero", "one", "two")


def make(size: tuple[int, int] = (8, 8), channels: int = 1, seed: int = 0, **spec: object) -> PreTrainedModel:
    asked = StudentSpec(**{"architecture": "deit", **spec})  # type: ignore[arg-type]
    return new_vision_transformer(asked, image_size=size, channels=channels, labels=LABELS, seed=seed)


def test_what_the_spec_leaves_open_has_documented_defaults() -> None:
    model = make((32, 32), 3, layers=3, architecture="vit")
    encoder = encoder_of(model)
    assert isinstance(model, ViTForImageClassification)
    assert encoder.patches is not None
    assert encoder.patches.weight.shape == (128, 3, 4, 4)
    assert len(encoder.layers) == 3
    assert (encoder.layers[0].heads, encoder.layers[0].head_size, encoder.layers[0].feed_forward) == (
        4,
        32,
        512,
    )
    assert model.config.id2label == dict(enumerate(LABELS))
    assert not model.training


@pytest.mark.parametrize(
    ("hidden", "heads"), [(64, 2), (48, 2), (96, 3), (40, 2), (16, 1), (31, 1), (37, 37)]
)
def test_heads_are_of_32_dimensions_or_as_near_below_as_divides_the_width(hidden: int, heads: int) -> None:
    assert encoder_of(make(hidden_size=hidden)).layers[0].heads == heads


@pytest.mark.parametrize(("size", "patch"), [((8, 8), 2), ((16, 24), 2), ((32, 32), 4), ((64, 128), 8)])
def test_patches_are_an_eighth_of_the_shorter_side(size: tuple[int, int], patch: int) -> None:
    model = make(size)
    patches = encoder_of(model).patches
    assert patches is not None
    assert patches.kernel_size == (patch, patch)
    with torch.no_grad():
        assert model(pixel_values=torch.zeros(2, 1, *size)).logits.shape == (2, 3)


@pytest.mark.parametrize(("size", "patch"), [((9, 9), None), ((8, 8), 3), ((8, 9), 2)])
def test_patches_that_do_not_divide_the_image_are_refused(size: tuple[int, int], patch: int | None) -> None:
    with pytest.raises(ModelError, match=f"do not divide images of {size[0]} x {size[1]}") as error:
        make(size, patch_size=patch)
    assert "student.patch_size" in str(error.value)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ModelError, match="3 heads do not divide the width 32"):
        make(hidden_size=32, heads=3)


def test_named_layers_are_refused() -> None:
    with pytest.raises(ModelError, match="takes no layers from its teacher"):
        make(layers=(0, 2))


@pytest.mark.parametrize("training", [False, True])
def test_the_logits_of_a_distillation_token_are_the_mean_of_both_heads(training: bool) -> None:
    model = make(hidden_size=32).train(training)
    assert isinstance(model, DeiTForImageClassificationWithTeacher)
    with torch.no_grad():
        found = model(pixel_values=torch.randn(4, 1, 8, 8))
    assert not torch.allclose(found.cls_logits, found.distillation_logits)
    assert torch.allclose(found.logits, (found.cls_logits + found.distillation_logits) / 2)


@pytest.mark.parametrize("architecture", ["vit", "deit"])
def test_tokens_and_positions_are_drawn_and_all_differ(architecture: str) -> None:
    embedding = encoder_of(make(architecture=architecture, hidden_size=64)).embedding
    names = ["cls_token", "position_embeddings", *(["distillation_token"] if architecture == "deit" else [])]
    for name in names:
        table = getattr(embedding, name)[0]
        assert 0.01 < table.std() < 0.03
        assert len(torch.unique(table, dim=0)) == len(table)


def test_the_seed_alone_decides_and_the_random_state_stays() -> None:
    torch.manual_seed(4)
    first = make(seed=1)
    after = torch.rand(2)
    torch.manual_seed(4)
    assert torch.equal(torch.rand(2), after)
    again, other = make(seed=1), make(seed=2)
    for one, same in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, same)
    assert not torch.equal(first.deit.layers[0].mlp.fc1.weight, other.deit.layers[0].mlp.fc1.weight)


def test_a_fresh_model_is_saved_and_read_back(tmp_path: Path) -> None:
    model = make((8, 16), 3, hidden_size=32)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    pixels = torch.randn(2, 3, 8, 16)
    with torch.no_grad():
        assert torch.equal(model(pixel_values=pixels).logits, again(pixel_values=pixels).logits)
    assert count_parameters(model) == count_parameters(again)
