"""What lies inside two decoders compared: their own attention found again, and only what counts in the losses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from compress.core.disk.files import write_json
from compress.encoding.inputs import LOSS_MASK, model_inputs
from compress.losses.attention.term import AttentionTerm, scores_of
from compress.losses.contract import LossSpec
from compress.losses.table import LOSS_ENTRIES
from compress.profile.model_checks.files import ModelFiles
from compress.profile.model_checks.pairing import PairedModel, Pairing, loss_faults
from compress.training.loss_functions.attention import log_attention
from compress.training.loss_functions.logits import divergence
from compress.training.objective.terms import LossInputs
from compress.training.objective.trust import TrustedTokens
from compress.training.objective.weighted_losses import Objective, build_objective
from compress.training.signals.capture import anatomy_of, capture
from compress.training.signals.top_k import source_signals, with_top_k
from tests.tiny_decoders import CONFIGS, tiny_decoder
from tests.tiny_language import write_model

FUSED = {"gpt2", "gpt_neox", "phi3", "gpt_neox, one after the other"}
SEPARATE = sorted(CONFIGS.keys() - FUSED)
INSIDE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("hidden", {}),
    ("embedding", {}),
    ("relation", {"relations": ["qk", "vv", "kk"]}),
    ("attention", {}),
    ("attention", {"distance": "kl", "heads": "averaged"}),
    ("attention", {"of": "scores"}),
)


def padded(changed: int = 0, behind: int = 0) -> dict[str, Tensor]:
    """Two texts of 9 and 7 tokens; of both the tokens from 4 on are learnt.

    Args:
        changed: the id of the last token of the first text. behind: the id of the padding.
    """
    ids = torch.arange(18).reshape(2, 9) * 7 % 190 + 3
    real = torch.ones(2, 9, dtype=torch.int64)
    real[1, 7:] = 0
    ids[1, 7:] = behind
    ids[0, 8] = changed or ids[0, 8]
    learnt = real.clone()
    learnt[:, :4] = 0
    return {"input_ids": ids, "attention_mask": real, LOSS_MASK: learnt}


def packed_texts(first: int = 11) -> dict[str, Tensor]:
    """Two texts of 5 and 4 tokens in one block, all but the first of each learnt; `first`: the first word of all."""
    ids = torch.tensor([[first, 23, 37, 41, 59, 61, 73, 89, 97]])
    places = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]])
    return {"input_ids": ids, "position_ids": places, LOSS_MASK: (places > 0).long()}


def objective(
    student: PreTrainedModel, teacher: PreTrainedModel, *losses: tuple[str, dict[str, Any]]
) -> Objective:
    batch = padded()
    specs: list[LossSpec] = [LOSS_ENTRIES.parse(name, body) for name, body in losses]
    return build_objective(specs, anatomy_of(student, batch), anatomy_of(teacher, batch), seed=0)


def value(
    of: Objective, student: PreTrainedModel, teacher: PreTrainedModel, batch: dict[str, Tensor]
) -> Tensor:
    mine, theirs = (
        with_top_k(capture(model, batch, source_signals(names)), names)
        for model, names in ((student, of.student_needs), (teacher, of.teacher_needs))
    )
    unlabelled = torch.full((len(batch["input_ids"]),), -100)
    found: Tensor = of(mine, theirs, unlabelled, batch.get("attention_mask"), batch)
    return found


@pytest.mark.parametrize("name", SEPARATE)
def test_scores_are_those_that_the_model_itself_attends_by(name: str) -> None:
    """transformers' own maps: rotary positions, norms of queries, windows, shared keys, bounded scores."""
    model, batch = tiny_decoder(name), padded()
    with torch.no_grad():
        maps = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_attentions=True
        )
    other = tiny_decoder(name, num_hidden_layers=3)
    of = objective(other, model, ("attention", {"distance": "kl"}))
    (term,) = of.terms.values()
    assert isinstance(term, AttentionTerm)
    names = {one for pair in term.names for one in pair[1]}
    with torch.no_grad():
        signals = capture(model, batch, names)
    seen = LossInputs({}, {}, torch.zeros(2), batch["attention_mask"].bool(), batch)
    anatomy = anatomy_of(model, batch)
    for layer in range(3):
        query, key = (signals[f"turned_{part}.{layer}"] for part in ("query", "key"))
        looks = seen.causal_mask(anatomy.attention_windows[layer])
        found = log_attention(scores_of(anatomy, query, key, anatomy.head_counts[layer]), looks).exp()
        counts = looks.any(-1)[:, None, :, None].expand_as(found)
        torch.testing.assert_close(
            torch.where(looks[:, None], found, 0.0)[counts],
            maps.attentions[layer][counts],
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen2, windows"])
def test_equal_models_lose_nothing(name: str) -> None:
    model = tiny_decoder(name)
    of = objective(model, model, *INSIDE)
    assert value(of, model, model, padded()).item() == pytest.approx(0, abs=1e-6)


def test_a_narrower_student_with_other_heads_learns_from_all_of_them() -> None:
    teacher = tiny_decoder("llama")
    student = tiny_decoder(
        "llama",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    ).train()
    of = objective(student, teacher, *INSIDE)
    torch.autograd.backward(value(of, student, teacher, padded()))
    assert all(part > 0 for part in of.last_losses.values())
    query = student.model.layers[-1].self_attn.q_proj.weight.grad
    assert query is not None
    assert torch.isfinite(query).all()
    assert query.abs().sum() > 0


@pytest.mark.parametrize("loss", INSIDE, ids=str)
def test_what_counts_is_no_padding_and_nothing_that_stands_behind(loss: tuple[str, dict[str, Any]]) -> None:
    """The last token foretells nothing, and no other looks at it: what it is changes no loss."""
    teacher, student = tiny_decoder("llama"), tiny_decoder("qwen3", hidden_size=32)
    of = objective(student, teacher, loss)
    with torch.no_grad():
        base, other = (value(of, student, teacher, batch) for batch in (padded(), padded(150, 99)))
    assert base > 0
    torch.testing.assert_close(base, other)


@pytest.mark.parametrize("loss", INSIDE, ids=str)
def test_texts_of_a_block_do_not_look_at_each_other(loss: tuple[str, dict[str, Any]]) -> None:
    """A block says what its texts say apart, each with its share of what is counted."""
    teacher, student = tiny_decoder("llama"), tiny_decoder("mistral", head_dim=16)
    of = objective(student, teacher, loss)
    block = packed_texts()
    apart = [{name: rows[:, cut] for name, rows in block.items()} for cut in (slice(5), slice(5, 9))]
    with torch.no_grad():
        whole, *parts = (value(of, student, teacher, batch).item() for batch in (block, *apart))
    pairs = loss[0] == "attention" and loss[1].get("distance") != "kl"
    # 4 and 3 tokens foretell one; those look at 1 + 2 + 3 + 4 and at 1 + 2 + 3 tokens.
    shares = (10 / 16, 6 / 16) if pairs else (4 / 7, 3 / 7)
    assert whole == pytest.approx(math.fsum(map(math.prod, zip(shares, parts, strict=True))), rel=1e-4)


def test_hidden_states_count_before_what_is_learnt_alone() -> None:
    teacher, student = tiny_decoder("llama"), tiny_decoder("gpt2")
    of = objective(student, teacher, ("hidden", {"layers": "last"}), ("embedding", {}))
    batch = padded()
    with torch.no_grad():
        value(of, student, teacher, batch)
        mine, theirs = (capture(one, batch, {"hidden.2"})["hidden.2"] for one in (student, teacher))
    # Of the first text tokens 3 to 7 stand before a learnt one, of the second 3 to 5.
    rows = [(mine[0, 3:8], theirs[0, 3:8]), (mine[1, 3:6], theirs[1, 3:6])]
    first, second = (torch.cat(one) for one in zip(*rows, strict=True))
    wanted = functional.mse_loss(first, second)
    assert of.last_losses["hidden"] == pytest.approx(wanted.item(), rel=1e-5)


def test_tokens_are_trusted_by_confidence_and_by_being_right() -> None:
    """Of four tokens that are learnt the teacher holds 0.9, 0.9, 0.4 and 0.6 likeliest, and is wrong at the second."""
    batch = {"input_ids": torch.tensor([[5, 1, 2, 3, 0]]), LOSS_MASK: torch.tensor([[0, 1, 1, 1, 1]])}
    said = torch.full((1, 5, 2000), 1e-9)
    for place, (word, probability) in enumerate([(1, 0.9), (7, 0.9), (3, 0.4), (0, 0.6), (9, 1.0)]):
        said[0, place] = (1 - probability) / 1999
        said[0, place, word] = probability
    logits = said.log() + 3
    for confidence, right, left in (
        (0.5, False, [0, 1, 1, 0, 1]),
        (0.5, True, [0, 1, 0, 0, 1]),
        (0.0, True, [0, 1, 0, 1, 1]),
    ):
        trusted = TrustedTokens(confidence, right, 2000)
        signals = with_top_k({"outputs": logits}, frozenset({trusted.name}))
        assert trusted(batch, signals)[LOSS_MASK].tolist() == [left]
        found = trusted.count_selected([(batch, signals)] * 2)
        # The last token says 1.0, of a word that does not follow.
        assert (found.selected, found.total, found.max_confidence) == (
            2 * sum(left),
            8,
            pytest.approx(0.9, abs=1e-3),
        )


def test_what_is_not_trusted_is_learnt_by_no_loss_and_nothing_left_is_no_loss() -> None:
    teacher, student = tiny_decoder("llama"), tiny_decoder("gpt2")
    batch = padded()
    anatomies = [anatomy_of(model, batch) for model in (student, teacher)]
    losses: list[LossSpec] = [
        LOSS_ENTRIES.parse(name, {}) for name in ("logits", "next_token", "hidden", "embedding")
    ]
    with torch.no_grad():
        likeliest = torch.softmax(teacher(**model_inputs(batch)).logits, -1).max(-1).values
    at = likeliest[0, 3:8].median().item()
    trusted = TrustedTokens(at, False, 200)
    of = build_objective(losses, *anatomies, seed=0, trusted=trusted)
    selected = value(of, student, teacher, batch)
    fewer = {**batch, LOSS_MASK: batch[LOSS_MASK] * functional.pad((likeliest >= at)[:, :-1], (1, 0))}
    assert 0 < fewer[LOSS_MASK].sum() < batch[LOSS_MASK].sum()
    torch.testing.assert_close(
        selected, value(build_objective(losses, *anatomies, seed=0), student, teacher, fewer)
    )
    nothing = TrustedTokens(0.9999999, False, 200)
    left = value(build_objective(losses, *anatomies, seed=0, trusted=nothing), student, teacher, batch)
    assert left.item() == 0
    torch.autograd.backward(left)


def test_what_divergences_do_to_a_student_that_must_choose() -> None:
    """A discrete normal distribution learns two humps: by `forward` their mean and variance, by `reverse` one."""
    words = torch.arange(41, dtype=torch.float64)
    humps = torch.stack([-((words - middle) ** 2) / 8 for middle in (10, 30)])
    goal = (torch.softmax(humps, -1) * torch.tensor([[0.6], [0.4]], dtype=torch.float64)).sum(0).log()[None]
    moments = []
    for kind in ("forward", "reverse"):
        form = torch.tensor([12.0, 1.5], requires_grad=True)
        optimizer = torch.optim.Adam([form], lr=0.1)
        for rate in [0.3] * 200 + [0.05] * 150:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            student = (-((words - form[0]) ** 2) / (2 * (2 * form[1]).exp()))[None]
            torch.autograd.backward(divergence(student, goal, 1.0, kind))
            optimizer.step()
        found = torch.softmax(student.detach(), -1)[0]
        mean = (found * words).sum()
        moments.append((mean.item(), (found * (words - mean) ** 2).sum().sqrt().item()))
    # Mean 0.6 * 10 + 0.4 * 30; variance 4 inside the humps and 0.6 * 0.4 * 20^2 between them.
    assert moments[0] == pytest.approx((18, 10), abs=0.2)
    assert moments[1] == pytest.approx((10, 2), abs=0.3)


def test_other_tokenizers_and_maps_in_one_are_refused_by_the_files(tmp_path: Path) -> None:
    write_model(tmp_path / "one")
    write_model(tmp_path / "two", [("a", "b")])
    losses = [
        LOSS_ENTRIES.entry(LOSS_ENTRIES.parse(name, {})) for name in ("logits", "next_token", "relation")
    ]
    teachers = (PairedModel("teacher", "one"),)
    files = ModelFiles(tmp_path)
    assert not list(
        loss_faults(losses, Pairing(PairedModel("student", "one"), teachers, by_token=True), files)
    )
    found = dict(loss_faults(losses, Pairing(PairedModel("student", "two"), teachers, by_token=True), files))
    assert found.keys() == {0, 2}
    assert "train it on texts that the teacher writes" in found[0]
    write_json(tmp_path / "two" / "config.json", {"model_type": "gpt2"})
    fused = Pairing(PairedModel("student", "two"), teachers, by_token=True)
    assert "in one projection" in dict(loss_faults(losses, fused, ModelFiles(tmp_path)))[2]
