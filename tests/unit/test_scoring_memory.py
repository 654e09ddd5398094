"""How much memory scoring a decoder takes: no more for many texts than for few, whatever the batch size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from transformers import AutoModelForCausalLM

from compress.core.units import MIB
from compress.measuring.scoring import LOGITS_BYTES
from compress.models.anatomy.observing import removing_hooks
from compress.runtimes import runner
from compress.runtimes.torch_decoder import TorchDecoder
from compress.runtimes.torch_worker import TorchModel
from compress.store.flat import Ragged
from compress.tasks.causal_lm import scorer
from compress.tasks.causal_lm.keys import LanguageData
from compress.tasks.causal_lm.task import CausalLanguageModel
from compress.tasks.causal_lm.text.windows import WindowInputs
from compress.training import prediction
from tests.tiny_decoders import lowered_decoder, tiny_decoder

WORDS, TOKENS = 49152, 256
PEAK = """
import re, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    # Not `ru_maxrss`, which begins with what the parent takes.
    print(1024 * int(re.search("VmHWM:[^0-9]*([0-9]+)", open("/proc/self/status").read())[1]))
"""


def wide_decoder(positions: int, folder: Path) -> Path:
    """A decoder of one small layer and many words."""
    config = transformers.LlamaConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        intermediate_size=16,
        vocab_size=WORDS,
        max_position_embeddings=positions,
    )
    return lowered_decoder(AutoModelForCausalLM.from_config(config, attn_implementation="eager"), folder)


def peak_of(
    model: Path, windows: int, together: int, folder: Path, length: int = TOKENS, every_nth: int = 1
) -> int:
    """Bytes that a scoring process takes at most; every n-th token of a window is scored."""
    random = np.random.default_rng(0)
    ids = [random.integers(3, WORDS, length).astype(np.int32) for _ in range(windows)]
    learnt = (np.arange(length) % every_nth == every_nth - 1).astype(np.int32)
    inputs = WindowInputs(
        ids,
        ("input_ids", "attention_mask"),
        0,
        target_mask=Ragged.of([learnt] * windows),
        documents=np.arange(windows),
        target_bytes=np.full(windows, length),
    ).against(None)
    every = np.arange(windows)
    batches = [inputs.batch(every[start : start + together]) for start in range(0, windows, together)]
    runner.write_batches(str(folder / "feeds.npz"), batches)
    job = {
        "kind": "score",
        "model": str(model),
        "feeds": str(folder / "feeds.npz"),
        "scorer": scorer.__file__,
        "settings": {"length": length, "words": WORDS},
        "outputs": str(folder / "answers.npz"),
        "threads": 1,
        "device": "cpu",
    }
    (folder / "job.json").write_text(json.dumps(job))
    command = [
        sys.executable,
        "-c",
        PEAK,
        runner.__file__,
        str(folder / "job.json"),
        str(folder / "result.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_the_peak_does_not_grow_with_the_texts(tmp_path: Path):
    model = wide_decoder(TOKENS, tmp_path)
    few, many = (peak_of(model, windows, 1, tmp_path) for windows in (8, 64))
    # Of 14,336 further tokens logits are 2,700 MiB; what is kept of them, and the tokens, stay below a hundredth.
    assert many - few < 24 * MIB
    size = model.stat().st_size
    assert many - size < 600 * MIB
    # As many at once as are let: 256 MiB of logits.
    together = LOGITS_BYTES // (4 * WORDS * TOKENS)
    assert together == 5
    wide = peak_of(model, 20, together, tmp_path)
    assert wide - size < 1000 * MIB


def test_the_peak_does_not_grow_with_the_window(tmp_path: Path):
    length = 8192
    model = wide_decoder(length, tmp_path)
    # Its logits are 1,536 MiB.
    peak = peak_of(model, 1, 1, tmp_path, length, every_nth=64)
    assert peak - model.stat().st_size < 600 * MIB


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_a_window_in_pieces_scores_as_it_does_whole(
    family: str, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = tiny_decoder(family)
    if runtime == "torch":
        predict: Any = TorchModel(model, "cpu", TorchDecoder(model))
    else:
        predict = runner.CachedSession(runner.open_session(str(lowered_decoder(model, tmp_path))))
    length = 101
    random = np.random.default_rng(1)
    inputs = WindowInputs(
        [random.integers(3, 200, size).astype(np.int32) for size in (length, 40)],
        ("input_ids", "attention_mask"),
        0,
        target_mask=Ragged.of([random.integers(0, 2, size).astype(np.int32) for size in (length, 40)]),
        documents=np.arange(2),
        target_bytes=np.full(2, length),
    )
    settings = {"length": length, "words": 200}

    def found(batch: dict[str, Any]) -> dict[str, Any]:
        return scorer.answers(scorer.outputs(predict, batch, settings), batch, settings)

    baseline = [found(inputs.against(None).batch([place])) for place in range(2)]
    reference = {name: runner.concatenate_padded([one[name] for one in baseline]) for name in baseline[0]}
    # As a model's that says something else.
    reference["top_logs"] = reference["top_logs"] - np.float32(0.1)
    sides = [inputs.against(None), inputs.against(reference)]
    whole = [found(side.batch([place])) for side in sides for place in range(2)]
    monkeypatch.setattr(scorer, "WHOLE", 200 * 20)
    monkeypatch.setattr(scorer, "PIECE", 200 * 17)
    assert isinstance(scorer.outputs(predict, inputs.batch([0]), settings), scorer.ChunkedLogits)
    pieces = [found(side.batch([place])) for side in sides for place in range(2)]
    assert "divergence" in pieces[-1]
    for one, other in zip(pieces, whole, strict=True):
        for name, values in one.items():
            if name == "top_words":
                # Words that are as likely as others may change places.
                values, other[name] = np.sort(values), np.sort(other[name])
            if name == "top_logs":
                values, other[name] = np.sort(values), np.sort(other[name])
            np.testing.assert_allclose(values, other[name], rtol=1e-6, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_validation_holds_few_logits_and_finds_the_same(precision: Any, monkeypatch: pytest.MonkeyPatch):
    model, random = tiny_decoder("llama"), np.random.default_rng(2)
    lengths = (101, 60, 60, 7, 5, 5, 3)
    inputs = WindowInputs(
        [random.integers(3, 200, size).astype(np.int32) for size in lengths],
        ("input_ids", "attention_mask"),
        0,
        target_mask=Ragged.of([random.integers(0, 2, size).astype(np.int32) for size in lengths]),
        documents=np.arange(len(lengths)),
        target_bytes=np.array(lengths),
    )
    task = CausalLanguageModel(LanguageData.model_validate({"path": "x", "max_length": 101}))
    held: list[int] = []
    with removing_hooks(
        [model.register_forward_hook(lambda module, given, gives: held.append(gives.logits.numel()))]
    ):
        whole = prediction.predict_answers(model, inputs, task, precision=precision, device="cpu")
        assert max(held) == 200 * 4 * 101
        for place, name in ((prediction, "LOGITS"), (scorer, "WHOLE"), (scorer, "PIECE")):
            monkeypatch.setattr(place, name, 200 * 20)
        held.clear()
        pieces = prediction.predict_answers(model, inputs, task, precision=precision, device="cpu")
    assert max(held) == 200 * 20
    assert len(held) == 1 + 6 + 2 * 3 + 2
    close = {"rtol": 1e-5} if precision == "fp32" else {"rtol": 0.02}
    np.testing.assert_allclose(pieces["nats"], whole["nats"], **close)
    assert np.array_equal(pieces["tokens"], whole["tokens"])
