"""Texts side by side in blocks: the loss of all of them is that of each by itself, and padding falls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from compress import api
from compress.encoding.inputs import model_inputs
from compress.encoding.packing import pack_texts
from compress.encoding.tokens import INPUT_IDS, TokenInputs
from compress.models.io.outputs import outputs_of, without_cache
from compress.store.flat import Ragged
from compress.tasks.causal_lm.text.windows import BYTES, LOSS_MASK, WindowInputs
from tests.tiny_decoders import CONFIGS, WORDS, tiny_decoder
from tests.tiny_language import profile, write_model, write_texts


def windows(lengths: list[int]) -> WindowInputs:
    random = np.random.default_rng(0)
    learnt = [(np.arange(length) > 0) & (random.random(length) < 0.7) for length in lengths]
    return WindowInputs(
        [random.integers(3, WORDS, length) for length in lengths],
        ("input_ids", "attention_mask"),
        0,
        target_mask=Ragged.of(learnt),
        documents=np.arange(len(lengths)),
        target_bytes=np.array(lengths, np.int64),
    )


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=40))
def test_every_text_stands_in_one_block(lengths: list[int]):
    inputs = windows(lengths)
    blocks = pack_texts(inputs, 16)
    placed = np.concatenate([blocks.bins[place] for place in range(len(blocks))])
    assert sorted(placed.tolist()) == list(range(len(lengths)))
    assert blocks.lengths.tolist() == [sum(lengths[i] for i in one) for one in blocks.bins]
    for place, size in enumerate(blocks.lengths):
        assert size <= 16 or len(blocks.bins[place]) == 1
    # No two blocks could be one.
    assert sum(blocks.lengths <= 8) <= 1
    batch = blocks.batch(range(len(blocks)))
    assert batch[LOSS_MASK].sum() == sum(int(one.sum()) for one in inputs.target_mask)
    assert BYTES not in batch
    assert blocks.digest() == pack_texts(windows(lengths), 16).digest()


def loss_of(model: torch.nn.Module, inputs: TokenInputs, rows: list[int]) -> torch.Tensor:
    batch = {name: torch.from_numpy(values) for name, values in inputs.batch(rows).items()}
    logits = outputs_of(model(**model_inputs(batch)))
    learnt = batch[LOSS_MASK][:, 1:].bool()
    return functional.cross_entropy(logits[:, :-1][learnt], batch[INPUT_IDS][:, 1:][learnt], reduction="sum")


def compare(name: str) -> None:
    model = tiny_decoder(name)
    inputs = windows([9, 3, 24, 14, 5, 1, 8, 19, 2])
    blocks = pack_texts(inputs, 30)
    assert len(blocks) == 3
    apart = sum(loss_of(model, inputs, [place]) for place in range(len(inputs)))
    expected = torch.autograd.grad(apart, model.get_input_embeddings().weight)[0]
    with without_cache(model):
        together = loss_of(model, blocks, [0, 1, 2])
    assert model.config.use_cache
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)
    found = torch.autograd.grad(together, model.get_input_embeddings().weight)[0]
    assert float((found - expected).abs().max()) < 1e-3 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_loss_of_a_block_is_that_of_its_texts(name: str):
    compare(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("llama", "gpt2")])
def test_so_it_is_of_every_family(name: str):
    compare(name)


@pytest.mark.slow
def test_a_language_model_learns_from_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    write_model(tmp_path / "model")
    write_texts(tmp_path / "data")
    # Everything that is particular about training one, in one run.
    finetune = {"epochs": 4, "learning_rate": 1e-2, "batch_size": 4, "pack": True, "lora": {"rank": 8}}
    body = profile(
        teacher={"model": "model", "finetune": finetune},
        targets=[{"runtime": "torch", "sequence_lengths": [16]}],
    )
    body["passes"] = [{"quantize": {"library": "bitsandbytes", "bits": 8}}]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(body))
    done = api.run(tmp_path / "p.yaml", quiet=True)
    # Guesses among all bytes have a perplexity of 260.
    assert done.record.steps[0].measurements[0].accuracy.metrics[0].value < 200
    facts = next(record.facts for record in done.record.steps if "packed_blocks" in record.facts)
    assert facts["packed_blocks"] < 0.9 * 180
    assert facts["trained_parameters"] < 0.5 * facts["parameters"]


def test_only_texts_that_are_gone_on_with_are_packed(tmp_path: Path):
    write_texts(tmp_path / "data")
    teacher = {"model": "x/y", "finetune": {"pack": True}}
    distill = {"teachers": [teacher], "losses": [{"logits": {}}]}
    body = profile(task="text-classification", teacher=teacher, passes=[{"distill": distill}])
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(body))
    found = [fault.path for fault in api.validate(tmp_path / "p.yaml").faults if "are packed" in str(fault)]
    assert found == ["teacher.finetune.pack", "passes.0.distill.teachers.0.finetune.pack"]
