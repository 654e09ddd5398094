from __future__ import annotations

import pytest
import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from compress.errors import ModelError
from compress.models.checkpoints import load_model, save_model
from compress.models.families import encoder_of
from compress.models.students import _fill_layer, _project, choose_layers, make_student, student_shape
from compress.profile.pass_specs import StudentSpec
from tests.tiny import tiny_bert, tiny_classifier
from tests.unit.test_models_families import CONFIGS

IDS = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0]])
MASK = (IDS != 0).long()


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, attention_mask=MASK).logits
    return found


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(1, (5,)), (2, (2, 5)), (3, (1, 3, 5)), (4, (0, 2, 3, 5)), (6, (0, 1, 2, 3, 4, 5)), ((4, 0), (4, 0))],
)
def test_layers_are_evenly_spread_or_as_given(
    wanted: int | tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert choose_layers(wanted, 6) == expected


@pytest.mark.parametrize("wanted", [7, (0, 6), (1, 1), ()])
def test_layers_that_the_teacher_lacks_are_refused(wanted: int | tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="layers"):
        choose_layers(wanted, 6)


def test_shapes_have_the_teachers_proportions() -> None:
    teacher = tiny_bert(hidden=48, layers=6, heads=6, ffn=96)
    shape = student_shape(teacher, StudentSpec(layers=2, hidden_size=16))
    assert (shape.layers, shape.hidden, shape.heads, shape.feed_forward) == ((2, 5), 16, 2, 32)
    assert student_shape(teacher, StudentSpec(hidden_size=36)).heads == 4
    assert student_shape(teacher, StudentSpec(hidden_size=20)).heads == 2
    assert student_shape(teacher, StudentSpec(hidden_size=4)).heads == 1


@pytest.mark.parametrize(
    "spec", [StudentSpec(hidden_size=64), StudentSpec(hidden_size=16, heads=3), StudentSpec(layers=9)]
)
def test_shapes_that_do_not_fit_are_refused(spec: StudentSpec) -> None:
    with pytest.raises(ModelError, match="student"):
        make_student(tiny_bert(), spec, 0)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_cut_student_holds_the_teachers_layers_exactly(kind: str) -> None:
    teacher = tiny_classifier(CONFIGS[kind])
    student = make_student(teacher, StudentSpec(layers=(2, 0)), 0)
    old, new = encoder_of(teacher), encoder_of(student)
    for mine, source in zip(new.layers, (2, 0), strict=True):
        theirs = old.layers[source]
        for name in ("query", "key", "value", "attention_output", "feed_in", "feed_out", "output_norm"):
            assert torch.equal(getattr(mine, name).weight, getattr(theirs, name).weight)
            assert torch.equal(getattr(mine, name).bias, getattr(theirs, name).bias)
    for name in ("words", "embedding_norm", "head_dense", "head_out"):
        assert torch.equal(getattr(new, name).weight, getattr(old, name).weight)


@pytest.mark.parametrize("kind", CONFIGS)
def test_all_layers_at_full_width_are_the_teacher(kind: str) -> None:
    teacher = tiny_classifier(CONFIGS[kind])
    assert torch.equal(logits(make_student(teacher, StudentSpec(layers=3), 0)), logits(teacher))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_narrow_student_runs_saves_and_loads(kind: str, tmp_path: object) -> None:
    teacher = tiny_classifier(CONFIGS[kind])
    before = logits(teacher)
    student = make_student(teacher, StudentSpec(layers=2, hidden_size=16), 0)
    assert logits(student).isfinite().all()
    assert encoder_of(student).hidden_size == 16
    assert student.config.id2label == teacher.config.id2label
    assert torch.equal(logits(teacher), before)
    save_model(student, tmp_path)  # type: ignore[arg-type]
    assert torch.equal(logits(load_model(tmp_path)), logits(student))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_a_rotation_of_a_teacher_with_plain_norms_is_the_teacher(kind: str) -> None:
    """At full width, where every norm scales all dimensions alike, the projection loses nothing but the mean of
    the stream, which the norms take out anyway."""
    teacher = tiny_classifier(CONFIGS[kind])
    student = type(teacher)(teacher.config).eval()
    old, new = encoder_of(teacher), encoder_of(student)
    with torch.no_grad():
        _project(old, new, range(3))
    assert not torch.allclose(new.words.weight, old.words.weight, atol=1e-2)
    assert torch.allclose(logits(student), logits(teacher), atol=1e-4)


def test_a_student_keeps_the_teachers_most_important_heads_and_neurons() -> None:
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
    words = [encoder_of(model).words.weight for model in (first, again, other)]
    assert torch.equal(words[0], words[1])
    assert not torch.equal(words[0], words[2])


def test_making_a_student_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    make_student(tiny_bert(), StudentSpec(layers=1, hidden_size=16), 3)
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


def test_more_heads_than_the_teacher_has_are_filled_as_far_as_they_go() -> None:
    old = encoder_of(tiny_bert(hidden=32, heads=2)).layers[0]
    new = encoder_of(tiny_bert(hidden=32, heads=4, seed=1)).layers[0]
    with torch.no_grad():
        _fill_layer(old, new, None, None)
    assert new.heads == 4
    assert new.query.weight.isfinite().all()


def test_unknown_families_are_refused() -> None:
    config: PretrainedConfig = transformers.MPNetConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=50
    )
    with pytest.raises(ModelError, match="mpnet"):
        make_student(transformers.MPNetForSequenceClassification(config), StudentSpec(layers=1), 0)
