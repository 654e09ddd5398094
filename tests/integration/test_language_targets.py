"""A language model measured in batches, with onnxruntime and with torch; and what its target cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from compress import api
from compress.runtimes.runner import CACHE_CAPACITY, LOGIT_POSITIONS, CachedSession, open_session
from compress.runtimes.torch_decoder import TorchDecoder
from tests.tiny_decoders import tiny_decoder
from tests.tiny_language import profile, write_model, write_texts
from tests.unit.test_decoder_graph import lowered_decoder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    write_model(tmp_path / "model")
    write_texts(tmp_path / "data")
    return tmp_path


def job(folder: Path, *targets: dict, **changed: object) -> Path:
    body = profile(teacher={"model": "model"}, targets=[*targets], **changed)
    (folder / "p.yaml").write_text(yaml.safe_dump(body))
    return folder / "p.yaml"


@pytest.mark.slow
def test_tokens_of_a_batch_count_together(folder: Path):
    # What torch runs must end in its form.
    student = {"student": {"model": "model"}, "losses": [{"next_token": {}}], "epochs": 1, "batch_size": 32}
    found = api.run(
        job(
            folder,
            {"sequence_lengths": [16, 24], "batch_sizes": [4, 1]},
            {"runtime": "torch", "sequence_lengths": [16], "batch_sizes": [2]},
            passes=[{"distill": student}],
            budget={"decode_tokens_per_s": 1, "first_token_ms": 10_000},
        ),
        quiet=True,
    )
    first, second = found.record.steps[0].measurements
    timed = {(one.batch_size, one.lengths): one.p50_ms for one in first.latency}
    assert len(timed) == 8
    row = found.rows.iloc[0]
    assert row["decode_tokens_per_s"] == pytest.approx(4000 / timed[4, "write:16"])
    assert row["prefill_tokens_per_s"] == pytest.approx(64_000 / timed[4, "read:16"])
    one = row["decode_tokens_per_s[cpu-onnxruntime-1t b1 write:24]"]
    assert one == pytest.approx(1000 / timed[1, "write:24"])
    torch_ms = {latency.lengths: latency.p50_ms for latency in second.latency}
    assert row["decode_tokens_per_s[cpu-torch-1t b2 write:16]"] == pytest.approx(2000 / torch_ms["write:16"])
    assert row["first_token_ms[cpu-torch-1t b2 read:16]"] == pytest.approx(torch_ms["read:16"])
    # Of the longest prompt, at the first batch size.
    assert (first.memory.lengths, second.memory.lengths) == ("read:24 write:32", "read:16 write:32")
    assert {limit.held for limit in found.record.limits} <= {True, None}
    assert len(found.record.limits) == 2


def test_a_prompt_that_its_answer_has_no_room_behind_is_refused_before_any_work(folder: Path):
    faults = api.validate(job(folder, {}, {"name": "long", "sequence_lengths": [64, 97]})).faults
    said = {fault.path: fault.message for fault in faults}
    # 128 tokens where none are named, of a model with 128 positions.
    assert said["targets.0.sequence_lengths"].startswith(
        "measuring time and memory at the default length needs 160 tokens"
    )
    assert "the teacher takes 128 at most" in said["targets.1.sequence_lengths"]
    assert not api.validate(job(folder, {"sequence_lengths": [96]})).faults


def test_a_cache_with_room_is_kept_from_the_prompt_to_its_answer(tmp_path: Path):
    model = tiny_decoder("llama")
    session = CachedSession(open_session(str(lowered_decoder(model, tmp_path))))
    decoder = TorchDecoder(model)
    ids = np.random.default_rng(0).integers(3, 60, (2, 12))
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits.numpy()
    for start, end in ((0, 8), (8, 9), (9, 10), (10, 11), (8, 9)):
        batch = {
            "input_ids": np.ascontiguousarray(ids[:, start:end]),
            "attention_mask": np.ones((2, end), np.int64),
            LOGIT_POSITIONS: np.full((2, 1), end - start - 1),
            CACHE_CAPACITY: np.full(2, 12),
        }
        given = session(batch)
        with torch.no_grad():
            ours = decoder({name: torch.from_numpy(array) for name, array in batch.items()}).numpy()
        for found in (given, ours):
            np.testing.assert_allclose(found[:, 0], wanted[:, end - 1], atol=2e-4)
