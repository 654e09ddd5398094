"""A step stays what it was, however many parts and processes compute its batch, whatever its means are over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.core.terminal.progress import SilentProgress
from compress.data.splits import UNLABELLED
from compress.encoding.inputs import Inputs
from compress.encoding.tokens import TokenInputs
from compress.losses.contract import LossSpec
from compress.losses.masked_lm import term as masked_lm
from compress.losses.table import LOSS_ENTRIES
from compress.profile.specs.training import TrainingSpec
from compress.store.flat import Ragged
from compress.tasks.causal_lm.text.windows import WindowInputs
from compress.training.batches import to_tensors
from compress.training.distributed.world import World
from compress.training.loop import train
from compress.training.objective.batch_loss import batch_loss
from compress.training.objective.training_module import TrainingModule
from compress.training.objective.trust import TrustedTokens
from compress.training.objective.weighted_losses import build_objective
from compress.training.signals.answers import from_model
from compress.training.signals.capture import anatomy_of
from tests.tiny import SPECIAL, tiny_bert
from tests.tiny_decoders import WORDS, tiny_decoder
from tests.unit.test_training_objective import MASK_ID, SPECIAL_IDS, Convolutions, student_bert

COUNT = 10
LENGTHS = (2, 19, 3, 4, 17, 2, 11, 3, 20, 5)
LABELS = np.array([0, *[UNLABELLED] * 4, 1, 2, *[UNLABELLED] * 3])

Losses = Sequence[tuple[str, dict[str, Any]]]
ENCODER: Losses = (
    ("logits", {}),
    ("labels", {"smoothing": 0.1}),
    ("hidden", {}),
    ("hidden", {"distance": "cosine", "layers": "last"}),
    ("embedding", {}),
    ("attention", {"of": "scores"}),
    ("attention", {}),
    ("attention", {"distance": "kl", "heads": "mapped"}),
    ("relation", {"heads": 2}),
    ("output", {}),
    ("masked_lm", {}),
)
DECODER: Losses = (
    ("next_token", {}),
    ("logits", {"top_k": "all"}),
    ("logits", {"top_k": 4}),
    ("hidden", {}),
    ("embedding", {"distance": "cosine"}),
    ("attention", {"of": "scores"}),
    ("attention", {"distance": "kl"}),
    ("relation", {"heads": 2}),
)
IMAGES: Losses = (("logits", {}), ("labels", {}), ("hidden", {}), ("attention", {"of": "spatial"}))


class Pictures:
    """Images of one size."""

    lengths = np.ones(COUNT, np.int64)
    input_names = ("pixel_values",)
    pixels = np.random.default_rng(0).normal(size=(COUNT, 1, 8, 8)).astype(np.float32)

    def __len__(self) -> int:
        return COUNT

    def digest(self) -> str:
        return "pictures"

    def batch(self, indices: Any) -> dict[str, Any]:
        return {"pixel_values": self.pixels[indices]}


def texts(words: range) -> TokenInputs:
    random = np.random.default_rng(0)
    ids = [random.integers(words.start, words.stop, length) for length in LENGTHS]
    return TokenInputs(ids, ("input_ids", "attention_mask"), 0)


def windows() -> WindowInputs:
    """Of unequal length, of which a first part, between one token and all but one, is not learnt."""
    random, inner = np.random.default_rng(1), texts(range(3, WORDS))
    learnt = [np.arange(length) >= random.integers(1, length) for length in LENGTHS]
    nothing = np.zeros(COUNT, np.int64)
    return WindowInputs(
        inner.ids,
        inner.input_names,
        0,
        target_mask=Ragged.of(learnt),
        documents=nothing,
        target_bytes=nothing,
    )


@dataclass(frozen=True)
class Lesson:
    """Two models, what they read, and how the one learns from the other."""

    student: Callable[[], nn.Module]
    teacher: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    losses: Losses
    select: float | None = None
    mutual: float | None = None


def decoder(seed: int) -> nn.Module:
    """Of a family that looks back through windows of unlike length, with the weights of a seed."""
    model = tiny_decoder("gemma3")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def convolutions(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Convolutions(4)


LESSONS = {
    "encoder": Lesson(
        student_bert,
        lambda: tiny_bert(hidden=32, layers=4, heads=4, seed=1),
        lambda: texts(range(len(SPECIAL), 19)),
        ENCODER,
    ),
    "decoder": Lesson(lambda: decoder(1), lambda: decoder(2), windows, DECODER),
    "images": Lesson(lambda: convolutions(0), lambda: convolutions(1), Pictures, IMAGES),
}
LESSONS |= {
    "decoder, select": replace(LESSONS["decoder"], select=0.045),
    "images, online": replace(LESSONS["images"], mutual=0.5),
}


def learnt(lesson: Lesson, accumulate: int, work: Path) -> tuple[float, dict[str, Tensor]]:
    """The loss and the gradients of one step over all examples."""
    inputs, student, teacher = lesson.inputs(), lesson.student(), lesson.teacher().eval()
    batch = to_tensors(inputs.batch(np.arange(2)), "cpu")
    specs: list[LossSpec] = [LOSS_ENTRIES.parse(name, body) for name, body in lesson.losses]
    objective = build_objective(
        specs,
        anatomy_of(student, batch),
        anatomy_of(teacher, batch),
        seed=0,
        student_model=student,
        mask_id=MASK_ID,
        special_ids=SPECIAL_IDS,
        trusted=None if lesson.select is None else TrustedTokens(lesson.select, False, WORDS),
    )
    both = lesson.mutual is not None
    module = TrainingModule(student, objective, teacher=teacher if both else None)
    answers = from_model(teacher, objective.teacher_needs | {"outputs"}, "cpu", trainable=both)
    found: dict[str, Tensor] = {}

    def take() -> None:
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                found[name] = parameter.grad.clone()

    spec = TrainingSpec(epochs=1, batch_size=COUNT, accumulate=accumulate, dropout=0.0, max_grad_norm=1e9)
    result = train(
        module, inputs, batch_loss(module, answers, LABELS, mutual_weight=lesson.mutual), spec, lambda model: 0.0,
        work=work, seed=0, precision="fp32", device="cpu", progress=SilentProgress(), name="t", after_step=take,
    )  # fmt: skip
    return result.curve.points[0].train_loss, found


def hide_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masked language modelling hides every word, so that nothing is drawn."""
    monkeypatch.setattr(
        masked_lm, "mask_tokens", lambda ids, may, share, mask, words: (torch.where(may, mask, ids), may)
    )


def check_same(
    found: tuple[float, Mapping[str, Tensor]], expected: tuple[float, Mapping[str, Tensor]]
) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in expected[1].values())
    assert largest > 0
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5 * largest, rtol=1e-4)


@pytest.mark.parametrize("name", ["encoder", "decoder, select", "images, online"])
def test_a_step_in_parts_is_the_step_of_the_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of unequal lengths and with examples without labels, by every loss that compares no examples with each other."""
    hide_all(monkeypatch)
    one = learnt(LESSONS[name], 1, tmp_path / "1")
    check_same(learnt(LESSONS[name], 5, tmp_path / "5"), one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name, one in LESSONS.items() for place in range(len(one.losses))]
)
def test_each_loss_alone_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: int
) -> None:
    hide_all(monkeypatch)
    lesson = replace(LESSONS[name], losses=LESSONS[name].losses[place : place + 1])
    one = learnt(lesson, 1, tmp_path / "1")
    for parts in (2, 5, COUNT):
        check_same(learnt(lesson, parts, tmp_path / str(parts)), one)


def test_factors_make_the_means_of_parts_those_of_the_batch() -> None:
    """A mean over 4 and 1 things, one over 3 and 3, and one over nothing."""
    first, second = World().mean_factors(
        [torch.tensor([4.0, 3.0, 0.0]).double(), torch.tensor([1.0, 3.0, 0.0]).double()]
    )
    assert first.tolist() == pytest.approx([0.8, 0.5, 0])
    assert second.tolist() == pytest.approx([0.2, 0.5, 0])


def test_a_moving_average_follows_once_a_step(tmp_path: Path) -> None:
    lesson = LESSONS["images"]
    inputs, student = lesson.inputs(), lesson.student()
    anatomy = anatomy_of(student, to_tensors(inputs.batch(np.arange(2)), "cpu"))
    objective = build_objective([LOSS_ENTRIES.parse("labels", {})], anatomy, anatomy, seed=0)
    module = TrainingModule(student, objective, decay=0.9)
    assert module.moving_average is not None
    before = {name: weight.detach().clone() for name, weight in student.named_parameters()}
    train(
        module, inputs, batch_loss(module, lambda indices, shown: {}, LABELS),
        TrainingSpec(epochs=1, batch_size=COUNT, accumulate=5, learning_rate=0.1), lambda model: 0.0,
        work=tmp_path, seed=0, precision="fp32", device="cpu", progress=SilentProgress(), name="t",
        after_step=module.after_step,
    )  # fmt: skip
    now = dict(student.named_parameters())
    for name, average in module.moving_average.named_parameters():
        torch.testing.assert_close(average, 0.9 * before[name] + 0.1 * now[name].detach())
