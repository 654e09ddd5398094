"""A teacher's likeliest words in few bytes: what comes back, how many bytes, and what the loss makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.training.signals.top_k import TopK, source_signals, with_top_k


@pytest.mark.parametrize(("words", "most"), [(49_152, 200), (50_257, 200), (151_936, 216), (262_144, 216)])
def test_a_token_takes_few_bytes(words: int, most: int) -> None:
    assert TopK(64, 1.0, words).row_bytes <= most


@given(st.integers(2, 300), st.integers(1, 40), st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_ids_come_back_as_they_were_whatever_bits_they_need(words: int, k: int, seed: int) -> None:
    top = TopK(min(k, words), 1.0, words)
    logits = torch.randn(3, words, generator=torch.manual_seed(seed))
    ids, _ = top.unpack(top.pack(logits))
    # Of words that are as likely as each other any may come first.
    torch.testing.assert_close(logits.gather(-1, ids), logits.topk(top.k, -1).values)
    assert all(len(set(row)) == top.k for row in ids.tolist())


@pytest.mark.parametrize("words", [2**17 - 1, 2**18, 2**18 + 1])
def test_ids_of_large_vocabularies_come_back(words: int) -> None:
    logits = torch.zeros(1, words)
    logits[0, [words - 1, 0, words // 2]] = torch.tensor([9.0, 8.0, 7.0])
    top = TopK(3, 1.0, words)
    assert top.unpack(top.pack(logits))[0].tolist() == [[words - 1, 0, words // 2]]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_probabilities_come_back_and_add_up(temperature: float) -> None:
    logits = 4 * torch.randn(2, 5, 3000, generator=torch.manual_seed(0))
    top = TopK(64, temperature, 3000)
    rows = top.pack(logits)
    assert rows.shape == (2, 5, top.row_bytes)
    ids, found = top.unpack(rows.flatten(0, 1))
    said = torch.log_softmax(logits / temperature, -1).flatten(0, 1)
    kept = said.gather(-1, ids)
    torch.testing.assert_close(found[:, :-1], kept, rtol=0, atol=2e-2)
    torch.testing.assert_close(
        found[:, -1].exp(), 1 - kept.double().exp().sum(-1).float(), rtol=1e-2, atol=1e-4
    )
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(10))


def test_what_is_packed_is_off_by_little() -> None:
    """Logits as a language model gives them: a few words likely, the rest far below."""
    random = np.random.default_rng(0)
    ranks = np.arange(1, 49_153)
    logits = torch.tensor(
        np.stack(
            [random.permutation(-1.1 * np.log(ranks) + random.normal(0, 1, len(ranks))) for _ in range(32)]
        ),
        dtype=torch.float32,
    )
    top = TopK(64, 1.0, 49_152)
    ids, found = top.unpack(top.pack(logits))
    exact = top.log_probabilities_of(logits, ids)
    error = (exact.exp() * (exact - found)).sum(-1).mean().item()
    assert 0 <= error < 1.2e-3


def test_a_word_that_is_all_but_certain_leaves_no_rest() -> None:
    logits = torch.zeros(1, 2000)
    logits[0, 7] = 200.0
    top = TopK(4, 1.0, 2000)
    _, found = top.unpack(top.pack(logits))
    assert torch.isfinite(found).all()
    assert found[0, 0].item() == pytest.approx(0, abs=1e-3)
    assert torch.isfinite(top.log_probabilities_of(logits, torch.tensor([[7, 0, 1, 2]]))).all()


def test_a_students_log_probabilities_of_the_kept_words_and_of_all_others() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.2, 0.2, 0.1]]))
    found = TopK(2, 1.0, 4).log_probabilities_of(logits, torch.tensor([[3, 0]]))
    torch.testing.assert_close(found.exp(), torch.tensor([[0.1, 0.5, 0.4]]))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_gradient_of_what_is_kept_is_that_of_its_formula(temperature: float) -> None:
    ids = torch.tensor([[3, 0], [1, 5]])
    top, found = TopK(2, temperature, 6), []
    weights = torch.tensor([[0.2, -0.5, 1.0], [0.3, 0.1, -2.0]])
    for own in (True, False):
        logits = (3 * torch.randn(2, 6, generator=torch.manual_seed(0))).requires_grad_()
        said = torch.log_softmax(logits / temperature, -1)
        others = said.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
        kept = top.log_probabilities_of(logits, ids) if own else torch.cat([said.gather(-1, ids), others], -1)
        (weights * kept).sum().backward()
        found.append((kept.detach(), logits.grad))
    torch.testing.assert_close(found[0], found[1])


def test_names_say_what_is_kept() -> None:
    top = TopK(64, 2.5, 49_152)
    assert TopK.of(top.name) == top
    assert TopK.of("outputs") is None
    names = frozenset({top.name, "hidden.1"})
    assert source_signals(names) == {"outputs", "hidden.1"}
    signals = {"outputs": torch.randn(1, 2, 49_152), "hidden.1": torch.zeros(1, 2, 3)}
    found = with_top_k(signals, names)
    assert found.keys() == names
    assert found[top.name].shape == (1, 2, top.row_bytes)
