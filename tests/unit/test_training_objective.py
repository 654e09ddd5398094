from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    ViTConfig,
)

from compress.core.errors import ModelError, PassError
from compress.data.splits import UNLABELLED
from compress.losses.attention.spec import AttentionLoss
from compress.losses.contract import LossSpec
from compress.losses.contrastive.spec import ContrastiveLoss
from compress.losses.embedding.spec import EmbeddingLoss
from compress.losses.hidden.spec import HiddenLoss
from compress.losses.labels.spec import LabelsLoss
from compress.losses.logits.spec import LogitsLoss
from compress.losses.masked_lm.spec import MaskedLmLoss
from compress.losses.output.spec import OutputLoss
from compress.losses.relation.spec import RelationLoss
from compress.losses.similarity.spec import SimilarityLoss
from compress.training.checkpointing import restore_state, training_state
from compress.training.loss_functions.hidden import hidden_mse
from compress.training.objective.weighted_losses import Objective, build_objective
from compress.training.signals.capture import Anatomy, anatomy_of, capture
from tests.tiny import SPECIAL, tiny_bert

SPECIAL_IDS = range(len(SPECIAL))
MASK_ID = SPECIAL.index("[MASK]")

COMPARISONS: dict[str, LossSpec] = {
    "logits": LogitsLoss(),
    "standardized logits": LogitsLoss(standardize=True),
    "hidden": HiddenLoss(),
    "hidden cosine": HiddenLoss(distance="cosine", layers="last"),
    "embedding": EmbeddingLoss(),
    "attention scores": AttentionLoss(of="scores"),
    "attention probabilities": AttentionLoss(),
    "attention kl, mapped": AttentionLoss(distance="kl", heads="mapped"),
    "relation": RelationLoss(heads=2),
    "relation of MiniLMv2": RelationLoss(relations=("qq", "kk", "vv"), heads=8, layers="uniform"),
    "distances": SimilarityLoss(of="distance"),
    "angles": SimilarityLoss(of="angle"),
    "cosines": SimilarityLoss(of="cosines"),
    "matrix": SimilarityLoss(of="matrix", representation="outputs"),
    "output": OutputLoss(),
    "output cosine": OutputLoss(distance="cosine"),
}
"""Losses that are 0 where the student equals its teacher."""
EVERY = (
    *COMPARISONS.values(),
    LogitsLoss(hard=True, standardize=True),
    LabelsLoss(smoothing=0.1),
    MaskedLmLoss(share=0.5),
    ContrastiveLoss(negatives=5, dimensions=4),
)


class Convolutions(nn.Module):
    """Two stages; `width` channels in the last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, width, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(width, 3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.second(self.first(pixel_values)).mean((2, 3)))


def teacher_bert() -> PreTrainedModel:
    return tiny_bert(hidden=32, layers=4, heads=4, seed=1)


def student_bert(heads: int = 4) -> PreTrainedModel:
    return tiny_bert(hidden=16, layers=2, heads=heads, ffn=24)


def text_batch(padding: int = 0, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([6, 4, 5, 6])
    mask = (torch.arange(6 + padding) < lengths[:, None]).long()
    ids = torch.randint(len(SPECIAL), 19, (4, 6), generator=generator)
    return {"input_ids": nn.functional.pad(ids, (0, padding)) * mask, "attention_mask": mask}


def image_model(kind: str, seed: int = 0, hidden: int = 24, patch: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "cnn":
        return Convolutions(hidden).eval()
    sizes = {
        "image_size": 8,
        "patch_size": patch,
        "num_channels": 1,
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_labels": 3,
    }
    if kind == "deit":
        return DeiTForImageClassificationWithTeacher._from_config(DeiTConfig(**sizes)).eval()
    return AutoModelForImageClassification.from_config(ViTConfig(**sizes)).eval()


IMAGES = {"pixel_values": torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))}
LABELS = torch.tensor([0, 1, UNLABELLED, 2])


def between(
    student: nn.Module,
    teacher: nn.Module | None,
    losses: Sequence[LossSpec],
    batch: dict[str, Tensor],
    seed: int = 0,
) -> Objective:
    return build_objective(
        losses,
        anatomy_of(student, batch),
        None if teacher is None else anatomy_of(teacher, batch),
        seed=seed,
        student_model=student,
        mask_id=MASK_ID,
        special_ids=SPECIAL_IDS,
    )


def loss_of(
    objective: Objective,
    student: nn.Module,
    teacher: nn.Module | None,
    batch: dict[str, Tensor],
    labels: Tensor = LABELS,
) -> Tensor:
    mine = capture(student, batch, objective.student_needs)
    theirs = {} if teacher is None else capture(teacher, batch, objective.teacher_needs)
    return objective(mine, theirs, labels, batch.get("attention_mask"), batch)


def test_every_loss_at_once_is_the_weighted_sum_and_teaches_the_student_alone() -> None:
    student, teacher, batch = student_bert(), teacher_bert(), text_batch()
    losses = [spec.model_copy(update={"weight": 0.5 + place}) for place, spec in enumerate(EVERY)]
    objective = between(student, teacher, losses, batch)
    value = loss_of(objective, student, teacher, batch)
    parts = objective.last_losses
    assert value.item() == pytest.approx(
        sum(spec.weight * part for spec, part in zip(losses, parts.values(), strict=True)), rel=1e-5
    )
    value.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in objective.parameters())
    layer = student.bert.encoder.layer[0].attention.self.query.weight.grad
    assert layer is not None
    assert layer.isfinite().all()
    assert all(weight.grad is None for weight in teacher.parameters())


@pytest.mark.parametrize("spec", COMPARISONS.values(), ids=COMPARISONS)
def test_a_loss_is_zero_where_the_student_equals_the_teacher(spec: LossSpec) -> None:
    teacher, batch = teacher_bert(), text_batch()
    objective = between(teacher, teacher, [spec], batch)
    assert not list(objective.parameters())
    value = loss_of(objective, teacher, teacher, batch)
    assert value.item() == pytest.approx(0, abs=1e-6)
    other = tiny_bert(hidden=32, layers=4, heads=4, seed=2)
    assert loss_of(objective, other, teacher, batch).item() > 1e-4


@pytest.mark.parametrize("spec", [*EVERY[:-2], ContrastiveLoss()], ids=lambda spec: type(spec).__name__)
def test_padding_changes_no_loss(spec: LossSpec) -> None:
    student, teacher = student_bert(), teacher_bert()
    objective = between(student, teacher, [spec], text_batch()).eval()
    values = [loss_of(objective, student, teacher, text_batch(padding)).item() for padding in (0, 3)]
    assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_under_bf16_every_loss_is_float32_and_its_gradients_finite() -> None:
    student, teacher, batch = student_bert(), teacher_bert(), text_batch()
    objective = between(student, teacher, EVERY, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss_of(objective, student, teacher, batch)
    value.backward()
    assert value.dtype == torch.float32
    gradients = [weight.grad for module in (student, objective) for weight in module.parameters()]
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


def test_half_precision_signals_of_a_teacher_are_taken() -> None:
    student, teacher, batch = student_bert(), teacher_bert(), text_batch()
    objective = between(student, teacher, list(COMPARISONS.values()), batch)
    mine = capture(student, batch, objective.student_needs)
    theirs = capture(teacher, batch, objective.teacher_needs)
    exact, half = (
        objective(mine, signals, LABELS, batch["attention_mask"], batch).item()
        for signals in (theirs, {name: signal.half() for name, signal in theirs.items()})
    )
    assert half == pytest.approx(exact, rel=1e-2)


def test_only_what_a_loss_needs_is_asked_for() -> None:
    student, teacher, batch = student_bert(), teacher_bert(), text_batch()
    objective = between(student, teacher, [LogitsLoss(), LabelsLoss()], batch)
    assert objective.student_needs == {"outputs.teacher", "outputs.labels"}
    assert objective.teacher_needs == {"outputs"}
    objective = between(student, teacher, [RelationLoss(relations=("qk",), layers="uniform")], batch)
    assert objective.student_needs == {"query.0", "key.0", "query.1", "key.1"}
    assert objective.teacher_needs == {"query.1", "key.1", "query.3", "key.3"}
    assert between(student, teacher, [LabelsLoss(), MaskedLmLoss()], batch).teacher_needs == set()


def test_projections_stand_where_widths_differ_and_come_from_the_seed() -> None:
    student, teacher, batch = student_bert(), teacher_bert(), text_batch()
    losses = [HiddenLoss(), EmbeddingLoss(), OutputLoss()]
    first, again, other = (between(student, teacher, losses, batch, seed) for seed in (1, 1, 2))
    shapes = [tuple(weight.shape) for weight in first.parameters()]
    assert shapes == [(32, 16)] * 3
    for one, two, three in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        assert not torch.equal(one, three)
        torch.testing.assert_close(one.T @ one, torch.eye(16), rtol=0, atol=1e-5)


def test_building_leaves_the_global_generator_alone_where_it_has_its_own() -> None:
    student, teacher, batch = student_bert(), teacher_bert(), text_batch()
    weights = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        weights.append(list(between(student, teacher, EVERY, batch).parameters()))
    assert all(torch.equal(one, two) for one, two in zip(*weights, strict=True))


def test_hidden_states_of_a_layer_map_are_compared_through_their_projections() -> None:
    student, teacher, batch = student_bert(), teacher_bert(), text_batch()
    objective = between(student, teacher, [HiddenLoss(layers=((0, 1), (1, 2)))], batch)
    mine = capture(student, batch, {"hidden.0", "hidden.1"})
    theirs = capture(teacher, batch, {"hidden.1", "hidden.2"})
    mask = batch["attention_mask"].bool()
    expected = [
        hidden_mse(mine[f"hidden.{place}"] @ weight.T, theirs[f"hidden.{place + 1}"], mask)
        for place, weight in enumerate(objective.parameters())
    ]
    value = loss_of(objective, student, teacher, batch)
    torch.testing.assert_close(value, sum(expected) / 2)


def test_a_few_steps_bring_every_loss_down() -> None:
    student, teacher, batch = student_bert(), teacher_bert(), text_batch()
    objective = between(student, teacher, list(COMPARISONS.values()), batch)
    optimizer = torch.optim.AdamW([*student.parameters(), *objective.parameters()], lr=3e-3)
    first: dict[str, float] = {}
    for _ in range(60):
        value = loss_of(objective, student, teacher, batch)
        first = first or objective.last_losses
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    last = objective.last_losses
    assert {name for name in first if last[name] >= first[name]} == set()


def test_a_second_loss_of_a_kind_has_a_name_of_its_own() -> None:
    student, teacher, batch = student_bert(), teacher_bert(), text_batch()
    objective = between(student, teacher, [HiddenLoss(), HiddenLoss(distance="cosine"), HiddenLoss()], batch)
    loss_of(objective, student, teacher, batch)
    assert list(objective.last_losses) == ["hidden", "hidden-2", "hidden-3"]


def test_only_the_labels_leave_unlabelled_examples_out() -> None:
    student, teacher, batch = student_bert(), teacher_bert(), text_batch()
    nobody = torch.full_like(LABELS, UNLABELLED)
    objective = between(student, teacher, [LogitsLoss(), LabelsLoss(), HiddenLoss()], batch)
    loss_of(objective, student, teacher, batch)
    labelled = objective.last_losses
    loss_of(objective, student, teacher, batch, nobody)
    assert objective.last_losses == {**labelled, "labels": 0.0}
    assert labelled["labels"] > 0


class TestImages:
    def test_class_and_distillation_tokens_take_no_part(self) -> None:
        student, teacher = image_model("deit"), image_model("vit", seed=1)
        losses = [HiddenLoss(layers="last"), EmbeddingLoss(), RelationLoss(heads=2), AttentionLoss()]
        objective = between(student, teacher, losses, IMAGES)
        mine = capture(student, IMAGES, objective.student_needs)
        theirs = capture(teacher, IMAGES, objective.teacher_needs)
        before = objective(mine, theirs, LABELS, None, IMAGES).item()
        for signals, extra in ((mine, 2), (theirs, 1)):
            for name in signals:
                signals[name] = torch.cat([signals[name][:, :extra] + 1e3, signals[name][:, extra:]], 1)
        assert objective(mine, theirs, LABELS, None, IMAGES).item() == before
        expected = (mine["hidden.1"][:, 2:] - theirs["hidden.1"][:, 1:]).square().mean()
        assert objective.last_losses["hidden"] == pytest.approx(expected.item(), rel=1e-5)

    def test_the_distillation_head_learns_from_the_teacher_and_the_class_head_from_the_labels(self) -> None:
        student, teacher = image_model("deit"), image_model("cnn")
        for spec, learning, resting in (
            (LogitsLoss(hard=True), "distillation_classifier", "cls_classifier"),
            (LabelsLoss(), "cls_classifier", "distillation_classifier"),
        ):
            student.zero_grad()
            loss_of(between(student, teacher, [spec], IMAGES), student, teacher, IMAGES).backward()
            assert student.get_submodule(learning).weight.grad.any()
            assert student.get_submodule(resting).weight.grad is None

    def test_convolutions_teach_by_feature_maps_and_where_they_are_active(self) -> None:
        student, teacher = image_model("cnn", hidden=6), image_model("cnn", seed=1, hidden=10)
        losses = [HiddenLoss(), AttentionLoss(of="spatial"), SimilarityLoss(), ContrastiveLoss(dimensions=4)]
        objective = between(student, teacher, losses, IMAGES)
        assert objective.student_needs == {"feature.first", "feature.second"}
        loss_of(objective, student, teacher, IMAGES).backward()
        assert student.first[0].weight.grad.any()
        hidden = objective.terms["hidden"]
        assert [tuple(weight.shape) for weight in hidden.parameters()] == [(10, 6)]
        objective = between(teacher, teacher, losses[:3], IMAGES)
        assert loss_of(objective, teacher, teacher, IMAGES).item() == pytest.approx(0, abs=1e-6)

    def test_a_convolutional_teacher_teaches_a_transformer_by_relations_between_images(self) -> None:
        student, teacher = image_model("deit"), image_model("cnn")
        losses = [SimilarityLoss(of="distance"), ContrastiveLoss(dimensions=4)]
        objective = between(student, teacher, losses, IMAGES)
        assert objective.student_needs == {"hidden.1"}
        assert objective.teacher_needs == {"feature.second"}
        loss_of(objective, student, teacher, IMAGES).backward()
        assert student.deit.layers[0].attention.q_proj.weight.grad.any()


class TestMemory:
    def spec(self, negatives: int) -> ContrastiveLoss:
        return ContrastiveLoss(negatives=negatives, dimensions=4)

    def test_it_holds_the_latest_representations_of_the_teacher_and_only_while_training(self) -> None:
        student, teacher = student_bert(), teacher_bert()
        objective = between(student, teacher, [self.spec(6)], text_batch())
        term = objective.terms["contrastive"]
        expected = []
        for seed in range(2):
            batch = text_batch(seed=seed)
            loss_of(objective, student, teacher, batch)
            hidden, mask = (
                capture(teacher, batch, {"hidden.3"})["hidden.3"],
                batch["attention_mask"][..., None],
            )
            expected.append(((hidden * mask).sum(1) / mask.sum(1)).detach())
        # Eight rows in six places: the last two went over the first two.
        first, second = expected
        torch.testing.assert_close(term.memory, torch.cat([second[2:], first[2:], second[:2]]))
        objective.eval()
        before = term.memory.clone()
        loss_of(objective, student, teacher, text_batch(seed=2))
        assert torch.equal(term.memory, before)

    def test_unwritten_places_and_the_same_example_are_no_negatives(self) -> None:
        student, teacher, batch = student_bert(), teacher_bert(), text_batch()
        values = []
        for negatives in (0, 100):
            objective = between(student, teacher, [self.spec(negatives)], batch)
            # From the second time on the memory holds these very examples.
            values += [loss_of(objective, student, teacher, batch).item() for _ in range(2)]
        # The batch's other examples, seen a second time, count twice as negatives; the example itself does not.
        assert values[0] == values[1] == pytest.approx(values[2], rel=1e-6)
        assert values[3] > values[2]
        single = {name: tensor[:1] for name, tensor in batch.items()}
        objective = between(student, teacher, [self.spec(100)], batch)
        for _ in range(3):
            assert loss_of(objective, student, teacher, single, LABELS[:1]).item() == 0

    def test_a_checkpoint_goes_on_bit_by_bit(self) -> None:
        losses = [self.spec(6), HiddenLoss(), MaskedLmLoss(share=0.3)]

        def made() -> tuple[nn.ModuleDict, torch.optim.Optimizer]:
            student = student_bert().train()
            objective = between(student, teacher_bert(), losses, text_batch())
            trainee = nn.ModuleDict({"student": student, "objective": objective})
            return trainee, torch.optim.AdamW(trainee.parameters(), lr=1e-2)

        def step(trainee: nn.ModuleDict, optimizer: torch.optim.Optimizer, seed: int) -> float:
            value = loss_of(trainee["objective"], trainee["student"], teacher, text_batch(seed=seed))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            return value.item()

        teacher = teacher_bert()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            trainee, optimizer = made()
            for seed in range(3):
                step(trainee, optimizer, seed)
            state = {name: tensor.clone() for name, tensor in training_state(trainee, optimizer).items()}
            expected = [step(trainee, optimizer, seed) for seed in range(3, 6)]
            other, other_optimizer = made()
            torch.manual_seed(5)
            restore_state(other, other_optimizer, state)
            assert [step(other, other_optimizer, seed) for seed in range(3, 6)] == expected


class TestMaskedLm:
    def test_the_student_reads_a_copy_with_tokens_hidden_and_special_ones_untouched(self) -> None:
        student, batch = student_bert(), text_batch(padding=2)
        batch["input_ids"][:, 0] = SPECIAL.index("[CLS]")
        objective = between(student, None, [MaskedLmLoss(share=0.9)], batch)
        read: list[Tensor] = []
        handle = student.bert.embeddings.word_embeddings.register_forward_hook(
            lambda module, given, result: read.append(given[0])
        )
        original = batch["input_ids"].clone()
        objective({}, {}, LABELS, batch["attention_mask"], batch)
        handle.remove()
        assert torch.equal(batch["input_ids"], original)
        (masked,) = read
        special = original < len(SPECIAL)
        assert torch.equal(masked[special], original[special])
        assert (masked[~special] == MASK_ID).float().mean() > 0.4

    def test_it_trains_the_word_embeddings_and_owns_only_its_head(self) -> None:
        student, batch = student_bert(), text_batch()
        objective = between(student, None, [MaskedLmLoss(share=0.9)], batch)
        names = {name.removeprefix("terms.masked_lm.") for name, _ in objective.named_parameters()}
        assert names == {"dense.weight", "dense.bias", "norm.weight", "norm.bias", "bias"}
        objective({}, {}, LABELS, batch["attention_mask"], batch).backward()
        words = student.bert.embeddings.word_embeddings.weight.grad
        assert words is not None
        # Words that no text holds learn as well: they are wrong guesses of the tied decoder.
        absent = sorted(set(range(5, 19)) - set(batch["input_ids"].flatten().tolist()))
        assert words[[MASK_ID, *absent]].any(1).all()

    def test_it_learns_to_guess(self) -> None:
        torch.manual_seed(0)
        student, batch = student_bert(), text_batch()
        objective = between(student, None, [MaskedLmLoss(share=0.4)], batch)
        optimizer = torch.optim.AdamW([*student.parameters(), *objective.parameters()], lr=5e-3)
        values = []
        for _ in range(80):
            value = objective({}, {}, LABELS, batch["attention_mask"], batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.item())
        assert sum(values[-10:]) < 0.6 * sum(values[:10])

    def test_a_tokenizer_without_a_mask_token_is_refused(self) -> None:
        student, batch = student_bert(), text_batch()
        for mask_id, special in ((-1, SPECIAL_IDS), (None, SPECIAL_IDS), (4, None)):
            with pytest.raises(ModelError, match="no mask token"):
                build_objective(
                    [MaskedLmLoss()],
                    anatomy_of(student, batch),
                    None,
                    seed=0,
                    student_model=student,
                    mask_id=mask_id,
                    special_ids=special,
                )

    def test_a_student_of_images_is_refused(self) -> None:
        with pytest.raises(ModelError, match="not a transformer that reads tokens"):
            between(image_model("vit"), None, [MaskedLmLoss()], IMAGES)


WIDE = Anatomy(
    num_outputs=3, num_layers=4, hidden_size=32, head_counts=(4, 4, 2, 4), head_size=8, embedding_size=32
)
NARROW = Anatomy(
    num_outputs=3, num_layers=2, hidden_size=20, head_counts=(2, 2), head_size=10, embedding_size=20
)
FUSED = Anatomy(num_outputs=3, num_layers=2, hidden_size=20, embedding_size=20)
PLAIN = Anatomy(num_outputs=3)
PATCHES = Anatomy(
    num_outputs=3,
    num_layers=2,
    hidden_size=8,
    head_counts=(2, 2),
    head_size=4,
    embedding_size=8,
    num_patches=16,
)


@pytest.mark.parametrize(
    ("spec", "student", "teacher", "reason"),
    [
        (LogitsLoss(), PLAIN, Anatomy(num_outputs=4), "logits: the student has 3 outputs, the teacher 4"),
        (LogitsLoss(), PLAIN, None, "logits: this loss compares with a teacher, and there is none"),
        (HiddenLoss(), PLAIN, WIDE, "hidden: the student has no transformer layers"),
        (HiddenLoss(), PATCHES, WIDE, "student and teacher see 16 patches and words"),
        (HiddenLoss(layers=((0, 9),)), NARROW, WIDE, r"hidden.layers: the pair \[0, 9\] names layer 9"),
        (EmbeddingLoss(), NARROW, PLAIN, "embedding: the teacher has no transformer layers"),
        (AttentionLoss(), NARROW, FUSED, "the teacher computes query, key and value in one map"),
        (AttentionLoss(heads="mapped"), NARROW, WIDE, "layer 0 of the student has 2 heads and layer 1 .* 4"),
        (AttentionLoss(of="spatial"), PATCHES, PATCHES, "of: spatial .* the student has none"),
        (RelationLoss(), FUSED, WIDE, "relation: the student computes query, key and value in one map"),
        (
            RelationLoss(heads=3),
            NARROW,
            WIDE,
            "3 relation heads do not divide the student's attention width 20",
        ),
        (
            RelationLoss(heads=5),
            NARROW,
            WIDE,
            "5 relation heads do not divide the teacher's attention width 32",
        ),
        (SimilarityLoss(), PLAIN, WIDE, "similarity: the student has no layers and no feature maps"),
        (ContrastiveLoss(), WIDE, PLAIN, "contrastive: the teacher has no layers and no feature maps"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(
    spec: LossSpec, student: Anatomy, teacher: Anatomy | None, reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        build_objective([spec], student, teacher, seed=0)


def test_signals_of_unlike_lengths_are_refused() -> None:
    student, teacher = student_bert(), teacher_bert()
    objective = between(student, teacher, [HiddenLoss()], text_batch())
    mine = capture(student, text_batch(), objective.student_needs)
    theirs = capture(teacher, text_batch(padding=2), objective.teacher_needs)
    with pytest.raises(PassError, match="must split their inputs alike"):
        objective(mine, theirs, LABELS, text_batch()["attention_mask"], text_batch())
