"""The divergences of logits against values derived another way, and in chunks against themselves as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError
from scipy.special import rel_entr, softmax
from torch import Tensor
from torch.nn import functional

from compress.encoding.inputs import LOSS_MASK
from compress.losses.contract import Divergence
from compress.losses.logits.spec import LogitsLoss
from compress.losses.logits.term import compare_logits
from compress.training.loss_functions.chunks import in_chunks
from compress.training.loss_functions.logits import divergence
from compress.training.objective.terms import LossInputs

KINDS: tuple[Divergence, ...] = ("forward", "reverse", "jsd", "skew", "skew_reverse")
logits = arrays("float64", (4, 5), elements=st.floats(-8, 8))


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(rel_entr(p, q).sum(axis=-1).mean())


def derived(kind: Divergence, p: np.ndarray, q: np.ndarray, mix: float) -> float:
    """Of probabilities, as the papers write it: p the teacher's, q the student's."""
    mean = mix * p + (1 - mix) * q
    return {
        "forward": kl(p, q),
        "reverse": kl(q, p),
        "jsd": mix * kl(p, mean) + (1 - mix) * kl(q, mean),
        "skew": kl(p, mean),
        "skew_reverse": kl(q, (1 - mix) * p + mix * q),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
@given(logits, logits, st.floats(0.5, 4), st.floats(0.05, 0.95))
@settings(deadline=None, max_examples=25)
def test_each_is_what_its_paper_says(
    kind: Divergence, student: np.ndarray, teacher: np.ndarray, temperature: float, mix: float
) -> None:
    p, q = softmax(teacher / temperature, axis=-1), softmax(student / temperature, axis=-1)
    found = divergence(torch.tensor(student), torch.tensor(teacher), temperature, kind, mix).item()
    assert found == pytest.approx(temperature**2 * derived(kind, p, q, mix), rel=1e-3, abs=1e-5)
    assert found >= -1e-5


def test_the_half_mixture_is_the_divergence_of_jensen_and_shannon() -> None:
    one, other = torch.randn(2, 3, 6, generator=torch.manual_seed(0))
    there = divergence(one, other, 1.0, "jsd", 0.5).item()
    assert there == pytest.approx(divergence(other, one, 1.0, "jsd", 0.5).item(), rel=1e-5)
    assert there < np.log(2)


def test_skewed_gradients_stay_bounded_where_plain_ones_do_not() -> None:
    teacher = torch.tensor([[0.0, -40.0]])
    sizes = {}
    for kind in ("reverse", "skew_reverse"):
        student = torch.tensor([[0.0, 0.0]], requires_grad=True)
        divergence(student, teacher, 1.0, kind, 0.1).backward()
        assert student.grad is not None
        sizes[kind] = float(student.grad.abs().max())
    assert sizes["reverse"] > 9
    assert sizes["skew_reverse"] < 1


def fitted(kind: Divergence) -> tuple[float, float]:
    """A student of one hump, taught by a teacher of two: shares of the humps that it took."""
    places = torch.arange(64.0)
    teacher = torch.log(
        0.6 * torch.exp(-(((places - 14) / 4) ** 2) / 2)
        + 0.4 * torch.exp(-(((places - 50) / 4) ** 2) / 2)
        + 1e-9
    )
    # Beside the nearer hump: reverse has a second, shallower minimum that is wide.
    hump = torch.tensor([20.0, 1.0], requires_grad=True)
    optimizer = torch.optim.Adam([hump], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        student = -(((places - hump[0]) / hump[1].exp()) ** 2) / 2
        divergence(student[None], teacher[None], 1.0, kind, 0.1).backward()
        optimizer.step()
    hump = hump.detach()
    shares = (-(((places - hump[0]) / hump[1].exp()) ** 2) / 2).softmax(-1)
    return float(shares[:27].sum()), float(shares[38:].sum())


def test_forward_covers_both_humps_and_reverse_keeps_to_one() -> None:
    low, high = fitted("forward")
    assert min(low, high) > 0.25
    low, high = fitted("reverse")
    assert max(low, high) > 0.98


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_give_the_value_and_the_gradient_of_the_whole(kind: Divergence, dtype: torch.dtype) -> None:
    generator = torch.manual_seed(0)
    teacher = torch.randn(11, 7, generator=generator).to(dtype)
    found = []
    for numbers in (10**6, 21, 1):
        student = torch.randn(11, 7, generator=torch.manual_seed(1)).to(dtype).requires_grad_()
        loss = 3 * in_chunks(
            lambda some, goal: divergence(some, goal, 2.0, kind, 0.3), student, teacher, numbers
        )
        loss.backward()
        assert student.grad is not None
        assert loss.dtype == torch.float32
        found.append((loss.item(), student.grad.float()))
    for value, gradient in found[1:]:
        assert value == pytest.approx(found[0][0], rel=1e-5)
        torch.testing.assert_close(
            gradient, found[0][1], rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6
        )


def test_chunks_without_a_gradient() -> None:
    values, goal = torch.randn(9, 4), torch.randint(0, 4, (9,))
    expected = functional.cross_entropy(values, goal)
    torch.testing.assert_close(in_chunks(functional.cross_entropy, values, goal, 8), expected)


def test_no_more_than_a_chunk_is_taken_to_float32() -> None:
    taken = []

    def loss(some: Tensor, goal: Tensor) -> Tensor:
        taken.append(some.numel())
        return divergence(some, goal, 1.0)

    in_chunks(loss, torch.randn(100, 10), torch.randn(100, 10), 200)
    assert taken == [200] * 5


@pytest.mark.parametrize(("device", "chunks"), [("cpu", 4), ("meta", 1)])
def test_a_gpu_is_given_larger_chunks(device: str, chunks: int) -> None:
    """A launch takes longer than the work on as many numbers as a CPU's caches hold."""
    taken = []

    def loss(some: Tensor, goal: Tensor) -> Tensor:
        taken.append(some.numel())
        return functional.cross_entropy(some, goal)

    words = torch.zeros(2**12, dtype=torch.int64, device=device)
    in_chunks(loss, torch.zeros(2**12, 2**10, device=device), words)
    assert len(taken) == chunks


def test_rows_that_are_not_compared_have_no_part_in_it() -> None:
    generator = torch.Generator().manual_seed(0)
    goal = torch.randint(0, 6, (3, 5), generator=generator)
    compared = torch.rand(3, 5, generator=generator) > 0.4
    found = []
    for chosen in (True, False):
        logits = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
        rows, words = (logits, goal[compared]) if chosen else (logits[compared], goal[compared])
        loss = 0.3 * in_chunks(functional.cross_entropy, rows, words, 12, compared if chosen else None)
        loss.backward()
        found.append((loss.item(), logits.grad))
    assert found[0][0] == pytest.approx(found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


def test_a_spec_carries_its_divergence() -> None:
    student, teacher = torch.randn(2, 4, 5, generator=torch.manual_seed(3))
    spec = LogitsLoss(temperature=1.5, divergence="jsd", mix=0.2)
    assert compare_logits(spec, student, teacher).item() == pytest.approx(
        divergence(student, teacher, 1.5, "jsd", 0.2).item()
    )
    assert LogitsLoss(divergence="skew").mix_weight == 0.1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hard": True, "divergence": "reverse"}, "leave one of them out"),
        ({"mix": 0.3}, "`mix` belongs to jsd, skew, skew_reverse"),
        ({"divergence": "jsd", "mix": 1}, "less than 1"),
    ],
)
def test_keys_that_make_no_sense_together(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LogitsLoss(**keys)


def test_of_texts_that_are_gone_on_with_the_tokens_before_those_that_are_learnt_are_compared() -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    learnt = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0]])
    seen = LossInputs({}, {}, torch.zeros(2), mask, {LOSS_MASK: learnt})
    assert seen.output_mask is not None
    assert seen.output_mask.int().tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]
    assert LossInputs({}, {}, torch.zeros(2), mask, {}).output_mask is mask
