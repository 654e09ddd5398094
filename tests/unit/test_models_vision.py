"""Vision models of transformers: from a folder to an artifact and back, with what their preprocessors say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    BertConfig,
    ConvNextConfig,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    EfficientNetConfig,
    MobileNetV2Config,
    PretrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    ViTConfig,
    ViTModel,
)

from compress.core.artifacts import Artifact, seal
from compress.core.errors import ModelError
from compress.core.spec import Spec
from compress.data.splits import Examples
from compress.models.io.checkpoints import count_parameters, load_for_labels, load_model
from compress.models.teacher.images import open_image_teacher
from compress.models.teacher.location import check_teacher, fingerprint
from compress.passes.finetune.step import run as finetune
from compress.passes.source.step import run as source
from compress.profile.schema import DataSpec, TeacherSpec
from compress.profile.specs.training import FinetuneSpec
from compress.step import StepContext
from compress.tasks.base import TrainingData, task_of
from tests import steps
from tests.tiny import tiny_bert

LABELS = ("cat", "dog", "hen")
TASK = "image-classification"
TRANSFORMER: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2}
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "vit": lambda: ViTConfig(**TRANSFORMER),
    "deit": lambda: DeiTConfig(**TRANSFORMER, architectures=["DeiTForImageClassification"]),
    "resnet": lambda: ResNetConfig(**STAGES, embedding_size=8, layer_type="basic"),
    "convnext": lambda: ConvNextConfig(**STAGES),
    "mobilenet_v2": lambda: MobileNetV2Config(depth_multiplier=0.1, min_depth=4, finegrained_output=False),
    "efficientnet": lambda: EfficientNetConfig(
        width_coefficient=0.1, depth_coefficient=0.1, depth_divisor=2, hidden_dim=128, image_size=32
    ),
}


def classifier(kind: str, labels: tuple[str, ...] = LABELS, seed: int = 0) -> PreTrainedModel:
    """A classifier with random weights, and batch statistics other than those it starts with."""
    config = CONFIGS[kind]()
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageClassification.from_config(config)
        model.train()(pixel_values=pixels(8) * 2)
    return model.eval()


def pixels(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def outputs(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values=pixels()).logits


def images(count: int, seed: int) -> Examples:
    generator = np.random.default_rng(seed)
    return Examples(
        tuple(generator.integers(0, 256, (count, 20, 24, 3), np.uint8)), generator.integers(0, 3, count)
    )


def context(folder: Path, spec: Spec, inputs: dict[str, Artifact] | None = None) -> StepContext:
    data = TrainingData(images(24, 0), images(9, 1), LABELS)
    task = task_of(TASK, DataSpec(path="unused"))
    return steps.context(folder, spec, inputs or {}, task, data, base=folder)


def written(folder: Path, model: PreTrainedModel, finetuned: bool = False, **preprocessor: Any) -> Artifact:
    model.save_pretrained(folder / "model")
    if not finetuned:
        own = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
        if preprocessor or not (folder / "model" / "processor_config.json").exists():
            (folder / "model" / "preprocessor_config.json").write_text(json.dumps(own | preprocessor))
    spec = TeacherSpec(model=str(folder / "model"), finetune=FinetuneSpec() if finetuned else None)
    check_teacher(spec, LABELS, folder, allow_code=False, task=TASK)
    ctx = context(folder / "source", spec)
    result = source(ctx)
    return seal(ctx.out, result.form, result.facts)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_classifier_comes_back_with_its_outputs_in_the_order_of_the_data(kind: str, tmp_path: Path):
    model = classifier(kind, ("Hen", "cat", "dog"))
    artifact = written(tmp_path, model)
    again = load_model(artifact.path)
    assert type(again) is type(model)
    assert again.config.id2label == dict(enumerate(LABELS))
    assert torch.allclose(outputs(again), outputs(model)[:, [1, 2, 0]], atol=1e-5)
    assert artifact.facts["parameters"] == count_parameters(model)
    assert artifact.facts["head"] == "matched"
    buffers = dict(model.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in again.named_buffers())


@pytest.mark.parametrize("kind", CONFIGS)
def test_other_labels_get_a_fresh_head_on_the_same_encoder(kind: str, tmp_path: Path):
    model = classifier(kind, ("x", "y"))
    artifact = written(tmp_path, model, finetuned=True)
    first, same, other = (load_for_labels(artifact.path, LABELS, seed) for seed in (1, 1, 2))
    assert torch.equal(outputs(first), outputs(same))
    assert not torch.equal(outputs(first), outputs(other))
    assert outputs(first).shape == (3, 3)
    base = model.base_model.state_dict()
    kept = first.base_model.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in base.items())


def test_a_bare_encoder_is_finetuned_under_a_fresh_head(tmp_path: Path):
    torch.manual_seed(0)
    encoder = ViTModel(ViTConfig(**TRANSFORMER), add_pooling_layer=False)
    artifact = written(tmp_path, encoder, finetuned=True)
    assert artifact.facts["head"] == "none"
    spec = FinetuneSpec(epochs=1, batch_size=8)
    ctx = context(tmp_path / "finetune", spec, {"model": artifact})
    result = finetune(ctx)
    model = load_model(ctx.out)
    assert type(model).__name__ == "ViTForImageClassification"
    assert model.config.id2label == dict(enumerate(LABELS))
    assert result.facts["parameters"] == count_parameters(model)
    assert not (ctx.out / "tokenizer.json").exists()
    described = json.loads((ctx.out / "task.json").read_text())
    assert described["image"]["size"] == [32, 32]


def test_a_pooler_that_the_files_lack_is_not_written(tmp_path: Path):
    torch.manual_seed(0)
    ViTModel(ViTConfig(**TRANSFORMER), add_pooling_layer=False).save_pretrained(tmp_path / "model")
    spec = TeacherSpec(model=str(tmp_path / "model"), finetune=FinetuneSpec())
    teacher = open_image_teacher("image-classification", spec, LABELS, tmp_path, allow_code=False, seed=0)
    assert teacher.untrained == {"pooler.dense.weight", "pooler.dense.bias"}
    assert isinstance(AutoModel.from_pretrained(tmp_path / "model"), ViTModel)


def test_a_distilled_deit_keeps_both_of_its_heads(tmp_path: Path):
    config = DeiTConfig(
        **TRANSFORMER, id2label=dict(enumerate(LABELS)), label2id={n: i for i, n in enumerate(LABELS)}
    )
    torch.manual_seed(0)
    model = DeiTForImageClassificationWithTeacher(config).eval()
    artifact = written(tmp_path, model)
    for again in (load_model(artifact.path), load_for_labels(artifact.path, LABELS, seed=0)):
        assert isinstance(again, DeiTForImageClassificationWithTeacher)
        assert torch.allclose(outputs(again), outputs(model), atol=1e-6)


# What the images are.


PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.25, 0.2],
    "rescale_factor": 1 / 255,
    "size": {"height": 24, "width": 40},
}


def test_a_preprocessor_decides_what_task_json_says(tmp_path: Path):
    model = classifier("resnet")
    image = written(tmp_path, model, **PREPROCESSOR).read_json("task.json")["image"]
    assert image == {
        "size": [24, 40],
        "channels": 3,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.5, 0.25, 0.2],
        "transparency": "drop",
    }


def test_one_file_may_hold_all_processors_of_a_model(tmp_path: Path):
    inside = {"image_processor": {**PREPROCESSOR, "resample": 3}}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "processor_config.json").write_text(json.dumps(inside))
    image = written(tmp_path, classifier("resnet")).read_json("task.json")["image"]
    assert (image["size"], image["interpolation"]) == ([24, 40], "bicubic")


def test_a_ready_model_without_a_preprocessor_needs_a_declaration(tmp_path: Path):
    classifier("resnet").save_pretrained(tmp_path / "model")
    spec = TeacherSpec(model=str(tmp_path / "model"))
    with pytest.raises(ModelError) as caught:
        source(context(tmp_path / "source", spec))
    assert (caught.value.code, caught.value.where) == ("preprocess-undeclared", spec.model)
    ctx = context(tmp_path / "declared", spec)
    said = {"size": 26, "resize": "shortest", "crop": 24, "mean": 0.5, "std": 0.25}
    object.__setattr__(ctx.task, "data", DataSpec(path="unused", preprocess=said))
    source(ctx)
    image = json.loads((ctx.out / "task.json").read_text())["image"]
    assert image == {
        "size": [24, 24],
        "channels": 3,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "resize": "shortest",
        "resize_to": [26],
    }


def test_a_declaration_against_the_models_own_is_refused(tmp_path: Path):
    classifier("resnet").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    spec = TeacherSpec(model=str(tmp_path / "model"))
    own = {"size": (24, 40), "mean": (0.5, 0.4, 0.3), "std": (0.5, 0.25, 0.2)}
    for number, (said, code) in enumerate([(own, None), ({**own, "channels": "bgr"}, "image-processor")]):
        ctx = context(tmp_path / str(number), spec)
        object.__setattr__(ctx.task, "data", DataSpec(path="unused", preprocess=said))
        if code is None:
            source(ctx)
            continue
        with pytest.raises(ModelError) as caught:
            source(ctx)
        assert (caught.value.code, caught.value.where) == (code, "data.preprocess")


def test_a_processor_that_cannot_be_carried_over_is_refused_before_training(tmp_path: Path):
    classifier("resnet").save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "preprocessor_config.json"
    file.write_text(json.dumps({"image_processor_type": "PerceiverImageProcessor"}))
    spec = TeacherSpec(model=str(tmp_path / "model"), finetune=FinetuneSpec())
    with pytest.raises(ModelError) as caught:
        source(context(tmp_path / "source", spec))
    assert (caught.value.code, caught.value.where) == ("image-processor", str(file))


def test_without_a_preprocessor_the_training_images_decide(tmp_path: Path):
    artifact = written(tmp_path, classifier("resnet"), finetuned=True)
    image = artifact.read_json("task.json")["image"]
    trained = np.stack(images(24, 0).items) / 255
    assert (image["size"], image["channels"]) == ([20, 24], 3)
    np.testing.assert_allclose(image["mean"], trained.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(image["std"], trained.std(axis=(0, 1, 2)))


def test_a_preprocessor_is_part_of_the_fingerprint(tmp_path: Path):
    classifier("resnet").save_pretrained(tmp_path)
    before = fingerprint(str(tmp_path), None, tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    assert fingerprint(str(tmp_path), None, tmp_path) != before


# What is refused.


def refused(folder: Path, spec: TeacherSpec, task: str = TASK, checked: bool = True) -> ModelError:
    if checked:
        with pytest.raises(ModelError) as caught:
            check_teacher(spec, LABELS, folder, allow_code=False, task=task)
    else:
        with pytest.raises(ModelError) as caught:
            open_image_teacher("image-classification", spec, LABELS, folder, allow_code=False, seed=0)
    return caught.value


def test_models_of_another_task_are_refused_before_any_work(tmp_path: Path):
    tiny_bert().save_pretrained(tmp_path / "bert")
    classifier("vit").save_pretrained(tmp_path / "vit")
    spec = TeacherSpec(model="./bert", finetune=FinetuneSpec())
    error = refused(tmp_path, spec)
    assert error.message == "this model takes texts, but the task is image-classification"
    assert refused(tmp_path, spec, checked=False).message == error.message
    error = refused(tmp_path, TeacherSpec(model="./vit"), task="text-classification")
    assert error.message == "this model takes images, but the task is text-classification"


def test_an_encoder_of_texts_is_no_encoder_of_images(tmp_path: Path):
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    AutoModel.from_config(config).save_pretrained(tmp_path / "bert")
    spec = TeacherSpec(model="./bert", finetune=FinetuneSpec())
    error = refused(tmp_path, spec, checked=False)
    assert (error.message, error.where) == ("a BertModel does not take images", "./bert")


def test_labels_that_do_not_match_are_refused_before_any_work(tmp_path: Path):
    classifier("convnext", ("cat", "dog", "cow")).save_pretrained(tmp_path / "model")
    error = refused(tmp_path, TeacherSpec(model="./model"))
    assert error.message == (
        "the model's labels are not those of the data: it lacks 'hen'; the data lacks its 'cow'"
    )
    check_teacher(
        TeacherSpec(model="./model", labels=("cat", "dog", "hen")),
        LABELS,
        tmp_path,
        allow_code=False,
        task=TASK,
    )


def test_a_pickle_beside_a_config_is_never_loaded(tmp_path: Path):
    classifier("vit").config.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"pickle")
    error = refused(tmp_path, TeacherSpec(model="./model", finetune=FinetuneSpec()), checked=False)
    assert error.message.startswith("no safetensors here, only pytorch_model.bin, a pickle")


def test_a_size_that_the_model_does_not_take_is_refused(tmp_path: Path):
    classifier("vit").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    ctx = context(tmp_path / "source", TeacherSpec(model=str(tmp_path / "model")))
    object.__setattr__(ctx.task, "data", DataSpec(path="unused", image_size=(24, 24)))
    with pytest.raises(ModelError, match="the model does not accept images of 3 x 24 x 24") as caught:
        source(ctx)
    assert caught.value.hint == "Set `data.image_size` to the height and width that it accepts."
