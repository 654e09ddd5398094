from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compress.core.errors import ModelError
from compress.models.anatomy.encoder import encoder_of
from compress.models.anatomy.stream import measure_stream
from compress.models.io.checkpoints import load_model, save_model
from compress.models.io.outputs import outputs_of
from compress.models.students.cut import make_student, student_shape
from compress.models.students.narrowing import copy_layers, project_layers
from compress.models.text.sentence import SentenceEncoder
from compress.profile.specs.student import StudentSpec
from tests.tiny import tiny_bert, tiny_classifier
from tests.unit.test_models_families import CONFIGS, VISION, bare, tiny_vision

IDS = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0]])
MASK = (IDS != 0).long()
PIXELS = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
TEXTS = {"input_ids": IDS, "attention_mask": MASK}
KINDS = [*CONFIGS, *VISION, *(f"{kind} sentences" for kind in CONFIGS)]


def texts() -> Iterable[dict[str, Tensor]]:
    return iter([TEXTS])


def pixels() -> Iterable[dict[str, Tensor]]:
    return iter([{"pixel_values": PIXELS}])


def tiny(kind: str, seed: int = 0) -> nn.Module | PreTrainedModel:
    """A teacher of any kind: three layers of 32 dimensions, with random weights that tell its inputs apart."""
    if kind in VISION:
        return tiny_vision(kind, seed)
    if kind in CONFIGS:
        return tiny_classifier(CONFIGS[kind], seed=seed)
    encoder = bare(kind.removesuffix(" sentences"))
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.15, generator=torch.Generator().manual_seed(seed))
    return SentenceEncoder(encoder, "mean", True).eval()


def outputs(model: nn.Module) -> Tensor:
    inside = getattr(model, "encoder", model)
    with torch.no_grad():
        return outputs_of(
            model(pixel_values=PIXELS) if inside.main_input_name == "pixel_values" else model(**TEXTS)
        )


def examples(kind: str) -> object:
    return pixels if kind in VISION else texts


def test_shapes_have_the_teachers_proportions() -> None:
    teacher = tiny_bert(hidden=48, layers=6, heads=6, ffn=96)
    shape = student_shape(teacher, StudentSpec(layers=2, hidden_size=16))
    assert (shape.layers, shape.hidden, shape.heads, shape.feed_forward) == ((2, 5), 16, 2, 32)
    assert student_shape(teacher, StudentSpec(hidden_size=36)).heads == 4
    assert student_shape(teacher, StudentSpec(hidden_size=20)).heads == 2
    assert student_shape(teacher, StudentSpec(hidden_size=4)).heads == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_teacher_has_shapes(kind: str) -> None:
    shape = student_shape(tiny(kind), StudentSpec(layers=2, hidden_size=16))
    assert (shape.layers, shape.hidden, shape.heads, shape.feed_forward) == ((0, 2), 16, 2, 24)


@pytest.mark.parametrize(
    "spec", [StudentSpec(hidden_size=64), StudentSpec(hidden_size=16, heads=3), StudentSpec(layers=9)]
)
def test_shapes_that_do_not_fit_are_refused(spec: StudentSpec) -> None:
    with pytest.raises(ModelError, match="student"):
        make_student(tiny_bert(), spec, 0)


@pytest.mark.parametrize("kind", ["bert", "vit", "bert sentences"])
def test_layers_chosen_by_similarity_are_those_that_change_the_stream(kind: str) -> None:
    teacher = tiny(kind)
    # A layer that writes nothing gives, before its norms, what it reads.
    idle = encoder_of(teacher).layers[1]
    with torch.no_grad():
        for linear in (idle.attention_output, idle.feed_out):
            linear.weight.zero_()
            linear.bias.zero_()
    shape = student_shape(teacher, StudentSpec(layers=2, choose="similarity"), examples(kind))  # type: ignore[arg-type]
    assert shape.layers == (0, 2)


def test_similarity_needs_examples() -> None:
    with pytest.raises(ModelError, match="compared on examples"):
        make_student(tiny_bert(), StudentSpec(layers=1, choose="similarity"), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_student_holds_the_teachers_layers_exactly(kind: str) -> None:
    teacher = tiny(kind)
    student = make_student(teacher, StudentSpec(layers=(2, 0)), 0)
    old, new = encoder_of(teacher), encoder_of(student)
    for mine, source in zip(new.layers, (2, 0), strict=True):
        theirs = old.layers[source]
        for name in ("query", "key", "value", "attention_output", "feed_in", "feed_out", "output_norm"):
            assert torch.equal(getattr(mine, name).weight, getattr(theirs, name).weight)
            assert torch.equal(getattr(mine, name).bias, getattr(theirs, name).bias)
    for name in (
        "words",
        "patches",
        "embedding_norm",
        "final_norm",
        "head_dense",
        "head_out",
        "head_teacher",
    ):
        part = getattr(old, name)
        assert part is None or torch.equal(getattr(new, name).weight, part.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_of_the_teachers_shape_is_the_teacher(kind: str) -> None:
    teacher = tiny(kind)
    student = make_student(teacher, StudentSpec(layers=3), 0)
    assert type(student) is type(teacher)
    assert torch.equal(outputs(student), outputs(teacher))


@pytest.mark.parametrize("basis", ["hidden", "embeddings"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_student_runs_saves_and_loads(kind: str, basis: str, tmp_path: Path) -> None:
    teacher = tiny(kind)
    before = outputs(teacher)
    spec = StudentSpec(layers=2, hidden_size=16, basis=basis)  # type: ignore[arg-type]
    student = make_student(teacher, spec, 0, examples(kind))  # type: ignore[arg-type]
    assert outputs(student).isfinite().all()
    assert outputs(student).shape == (len(before), 16 if "sentences" in kind else 3)
    assert encoder_of(student).hidden_size == 16
    assert torch.equal(outputs(teacher), before)
    save_model(student, tmp_path)
    assert torch.equal(outputs(load_model(tmp_path)), outputs(student))


def test_the_labels_stay() -> None:
    teacher = tiny_bert()
    student = make_student(teacher, StudentSpec(layers=1, hidden_size=16, basis="embeddings"), 0)
    assert isinstance(student, PreTrainedModel)
    assert student.config.id2label == teacher.config.id2label


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "bert sentences"])
def test_a_rotation_of_a_teacher_with_plain_norms_is_the_teacher(kind: str) -> None:
    """At full width, where every norm scales all dimensions alike, the projection loses nothing but the mean of
    the stream, which the norms take out anyway."""
    teacher, student = tiny(kind), tiny(kind, seed=1)
    old, new = encoder_of(teacher), encoder_of(student)
    with torch.no_grad():
        project_layers(old, new, range(3), measure_stream(old, texts))
    assert old.words is not None
    assert new.words is not None
    assert not torch.allclose(new.words.weight, old.words.weight, atol=1e-2)
    if "sentences" in kind:
        # Other axes: the angles between texts are what stays.
        mine, theirs = outputs(student), outputs(teacher)
        assert torch.allclose(mine @ mine.T, theirs @ theirs.T, atol=1e-4)
    else:
        assert torch.allclose(outputs(student), outputs(teacher), atol=1e-4)


@pytest.mark.parametrize("kind", VISION)
@given(seed=st.integers(0, 50))
@settings(deadline=None, max_examples=8)
def test_a_rotation_of_an_image_teacher_with_any_norms_is_the_teacher(kind: str, seed: int) -> None:
    teacher, student = tiny(kind, seed), tiny(kind, seed + 1)
    old, new = encoder_of(teacher), encoder_of(student)
    with torch.no_grad():
        project_layers(old, new, range(3), measure_stream(old, pixels))
    assert not torch.allclose(new.layers[0].query.weight, old.layers[0].query.weight, atol=1e-2)
    assert torch.allclose(outputs(student), outputs(teacher), atol=2e-4)


@pytest.mark.parametrize("kind", VISION)
def test_a_narrow_student_is_exact_where_the_teacher_uses_no_more(kind: str) -> None:
    """A stream of 15 dimensions beside its mean, heads of rank 4 and 24 live neurons: half the sizes hold all of it."""
    teacher = tiny(kind)
    encoder = encoder_of(teacher)
    plane = torch.randn(32, 15, generator=torch.Generator().manual_seed(1))
    plane = torch.linalg.qr(plane - plane.mean(dim=0)).Q
    inside = plane @ plane.T
    with torch.no_grad():
        for name, parameter in encoder.embedding.named_parameters():
            if "projection" not in name:
                parameter.copy_(parameter @ inside)
        assert encoder.patches is not None
        assert encoder.patches.bias is not None
        encoder.patches.weight.copy_((inside @ encoder.patches.weight.flatten(1)).view(32, 1, 2, 2))
        encoder.patches.bias.copy_(inside @ encoder.patches.bias)
        for layer in encoder.layers:
            for linear in (layer.attention_output, layer.feed_out):
                linear.weight.copy_(inside @ linear.weight)
                linear.bias.copy_(inside @ linear.bias)
            for linear in (layer.query, layer.key, layer.value):
                linear.weight.view(4, 8, 32)[:, 4:] = 0
                linear.bias.view(4, 8)[:, 4:] = 0
            layer.feed_out.weight[:, ::2] = 0
    student = make_student(teacher, StudentSpec(layers=3, hidden_size=16, heads=4), 0, pixels)
    assert encoder_of(student).layers[0].feed_forward == 24
    assert torch.allclose(outputs(student), outputs(teacher), atol=2e-4)


def test_hidden_states_make_a_better_narrow_student_than_embeddings() -> None:
    """On a teacher whose layers write other directions than its embeddings do."""
    teacher = tiny_vision("vit")
    errors = {}
    for basis in ("hidden", "embeddings"):
        spec = StudentSpec.model_validate({"layers": 3, "hidden_size": 24, "heads": 3, "basis": basis})
        difference = outputs(make_student(teacher, spec, 0, pixels)) - outputs(teacher)
        errors[basis] = float(difference.square().mean())
    assert errors["hidden"] < 0.7 * errors["embeddings"]


def test_hidden_states_need_examples() -> None:
    with pytest.raises(ModelError, match="no examples") as error:
        make_student(tiny_bert(), StudentSpec(layers=1, hidden_size=16), 0)
    assert "basis: embeddings" in str(error.value)


def test_a_narrow_image_student_of_a_teacher_without_biases_gets_them() -> None:
    teacher = tiny_vision("vit", qkv_bias=False)
    assert torch.equal(outputs(make_student(teacher, StudentSpec(layers=3), 0)), outputs(teacher))
    student = make_student(teacher, StudentSpec(layers=3, hidden_size=16), 0, pixels)
    assert encoder_of(student).layers[0].query.bias is not None
    assert outputs(student).isfinite().all()


def test_a_student_keeps_the_teachers_most_important_neurons() -> None:
    teacher = tiny_bert(hidden=32, heads=4, ffn=64)
    layer = encoder_of(teacher).layers[0]
    with torch.no_grad():
        layer.feed_in.weight[8:] *= 1e-3
        layer.feed_out.weight[:, 8:] *= 1e-3
    student = make_student(teacher, StudentSpec(layers=(0, 1), intermediate_size=8), 0)
    mine = encoder_of(student).layers[0]
    assert torch.allclose(mine.feed_in.weight, layer.feed_in.weight[:8])
    assert torch.allclose(mine.feed_out.weight, layer.feed_out.weight[:, :8])


def test_from_scratch_depends_on_the_seed_alone() -> None:
    spec = StudentSpec(layers=1, hidden_size=16, from_="scratch")
    first, again, other = (
        make_student(tiny_bert(seed=s), spec, seed) for s, seed in ((0, 5), (1, 5), (0, 6))
    )
    words = [encoder_of(model).words for model in (first, again, other)]
    tables = [table.weight for table in words if table is not None]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_making_a_student_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    make_student(tiny_bert(), StudentSpec(layers=1, hidden_size=16), 3, texts)
    assert torch.equal(torch.rand(3), expected)


def test_a_pruned_teacher_gives_a_regular_student() -> None:
    teacher = tiny_bert(ffn=64)
    layer = encoder_of(teacher).layers[0]
    with torch.no_grad():
        layer.feed_in.weight = torch.nn.Parameter(layer.feed_in.weight[:40].clone())
        layer.feed_in.bias = torch.nn.Parameter(layer.feed_in.bias[:40].clone())
        layer.feed_out.weight = torch.nn.Parameter(layer.feed_out.weight[:, :40].clone())
        layer.feed_in.out_features = layer.feed_out.in_features = 40
    student = make_student(teacher, StudentSpec(layers=2), 0)
    assert encoder_of(student).layers[0].feed_forward == 64
    assert torch.equal(encoder_of(student).layers[0].feed_in.weight[:40], layer.feed_in.weight)


@pytest.mark.parametrize("heads", [1, 2, 8, 16])
def test_heads_are_regrouped_at_the_same_width(heads: int) -> None:
    teacher = tiny_bert(hidden=32, heads=4)
    student = make_student(teacher, StudentSpec(layers=2, heads=heads), 0)
    layer, old = encoder_of(student).layers[0], encoder_of(teacher).layers[0]
    assert (layer.heads, layer.head_size) == (heads, 32 // heads)
    # What all heads write together when they attend to everything alike stays the same.
    found, expected = (one.attention_output.weight @ one.value.weight for one in (layer, old))
    assert torch.allclose(found, expected, atol=1e-5)


def test_more_layers_of_the_same_teacher_are_filled_in_place() -> None:
    old, new = encoder_of(tiny_bert(hidden=32, heads=2)), encoder_of(tiny_bert(hidden=32, heads=4, seed=1))
    with torch.no_grad():
        copy_layers(old, new, range(2))
    assert new.layers[0].heads == 4
    assert torch.equal(new.layers[1].feed_in.weight, old.layers[1].feed_in.weight)


def test_unknown_families_are_refused() -> None:
    config: PretrainedConfig = transformers.MPNetConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=50
    )
    with pytest.raises(ModelError, match="mpnet"):
        make_student(transformers.MPNetForSequenceClassification(config), StudentSpec(layers=1), 0)
