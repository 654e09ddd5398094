"""What a pruned decoder's feed-forward parts write is refitted by least squares."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from compress.core.errors import ProfileError
from compress.passes.prune.choosing.saliency import ImportanceData
from compress.passes.prune.removing import reconstruction
from compress.passes.prune.removing.decoders import DecoderPruner
from compress.passes.prune.removing.reconstruction import reconstruct, ridge_update
from compress.passes.prune.spec import PruneSpec
from compress.profile.load import load_profile
from tests.tiny_decoders import WORDS, logits_of, parts_of, tiny_decoder
from tests.tiny_language import profile

IDS = torch.randint(3, WORDS, (4, 24), generator=torch.manual_seed(1))


class Texts:
    """Texts of unlike lengths, padded behind."""

    lengths = np.array([24, 17, 24, 11] * 16)
    ids = np.random.default_rng(0).integers(3, WORDS, (64, 24))

    def batch(self, indices: Any) -> dict[str, Any]:
        mask = (np.arange(24) < self.lengths[indices][:, None]).astype(np.int64)
        return {"input_ids": self.ids[indices] * mask, "attention_mask": mask}


def material(remove: dict[str, float]) -> ImportanceData:
    spec = PruneSpec.model_validate(
        {"remove": remove, "importance": "magnitude", "recover": None, "round_to": 16, "reconstruct": True}
    )
    return ImportanceData(Texts(), None, spec, 0, "cpu", 8)  # type: ignore[arg-type]


def test_a_change_is_that_of_least_squares_with_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.manual_seed(0)
    rows, short = (torch.randn(50, width, generator=generator) for width in (6, 3))
    rows[:, 0] *= 100
    # A ridge is as many further rows that ask for no change.
    price = (reconstruction.RIDGE * rows.square().sum(0)).sqrt().diag()
    expected = torch.linalg.lstsq(torch.cat([rows, price]), torch.cat([short, torch.zeros(6, 3)])).solution
    torch.testing.assert_close(ridge_update(rows, short), expected, rtol=1e-3, atol=1e-5)
    monkeypatch.setattr(reconstruction, "RIDGE", 0.0)
    exact = torch.randn(6, 3, generator=generator)
    torch.testing.assert_close(ridge_update(rows, rows @ exact), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_units_take_over_from_their_doubles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "RIDGE", 1e-6)
    model = tiny_decoder(name)
    decoder = parts_of(model)
    half = decoder.sizes["feed_forward"] // 2
    with torch.no_grad():
        for layer in range(decoder.sizes["layers"]):
            for share in decoder.units(layer)[:-1]:
                weight = (
                    share.linear.weight
                    if isinstance(share.linear, torch.nn.Linear)
                    else share.linear.weight.T
                )
                weight[half:] = weight[:half]
                if share.linear.bias is not None:
                    share.linear.bias[half:] = share.linear.bias[:half]
    whole, expected = copy.deepcopy(model), logits_of(model, IDS)
    for layer in range(decoder.sizes["layers"]):
        for share in decoder.units(layer):
            share.keep(range(half))
    decoder.set_size("feed_forward", half)
    without = float((logits_of(model, IDS) - expected).square().mean())
    layers = range(decoder.sizes["layers"])
    gone = reconstruct(parts_of(model), parts_of(whole), layers, material({"feed_forward": 0.5}))
    left = float((logits_of(model, IDS) - expected).square().mean())
    assert min(gone) > 0.99
    assert left < 1e-3 * without


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_what_is_left_follows_layers_that_are_gone(name: str) -> None:
    model = tiny_decoder(name)
    whole, expected = copy.deepcopy(model), logits_of(model, IDS).softmax(-1)
    pruner = DecoderPruner(model, material({"layers": 0.34, "feed_forward": 0.34}))
    pruner.advance(1.0)
    without = float((logits_of(model, IDS).softmax(-1) - expected).square().mean())
    gone = pruner.reconstruct(whole)
    assert len(gone) == 2
    assert all(0 < share < 1 for share in gone)
    assert float((logits_of(model, IDS).softmax(-1) - expected).square().mean()) < without
    assert all(
        not module._forward_hooks and not module._forward_pre_hooks
        for each in (model, whole)
        for module in each.modules()
    )


@pytest.mark.parametrize(
    ("remove", "model", "message"),
    [
        ({"hidden": 0.25}, {}, "`remove.hidden` narrows it"),
        (
            {"layers": 0.5},
            {"model_type": "gemma2"},
            "a gemma2 normalizes the outputs of its feed-forward parts",
        ),
    ],
)
def test_refused(remove: dict[str, float], model: dict[str, str], message: str, tmp_path: Path) -> None:
    config = {"model_type": "llama", "layers": 2, "hidden_size": 64, "tokenizer": {"vocabulary": 300}} | model
    teacher = {"config": config, "finetune": {"epochs": 1}}
    said = profile(teacher=teacher, passes=[{"prune": {"remove": remove, "reconstruct": True}}])
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(said))
    with pytest.raises(ProfileError, match=message):
        load_profile(tmp_path / "p.yaml")
