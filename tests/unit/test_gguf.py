"""A language model in llama.cpp's format: the file holds the model's own numbers, sizes and tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from gguf import GGUFReader, GGUFWriter
from gguf.quants import dequantize
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel

from compress.core.errors import ModelError, PassError
from compress.core.pre_tokenization import IGNORE_MERGES_RULES, RULES, pre_tokenizer
from compress.lowering.decoder.layout import layout_of
from compress.lowering.gguf.family import LLAMA_CPP, why_not_gguf
from compress.lowering.gguf.file import write_gguf
from compress.lowering.gguf.tensors import EMBEDDINGS_NAME, HEAD_NAME, tensors_of
from compress.lowering.gguf.vocabulary import vocabulary_of, why_not_vocabulary
from compress.models.text.tokenization import PROBE_TEXTS
from compress.passes.prune.removing.decoders import DecoderPruner
from compress.profile.model_checks.gguf import end_token_ids, header_fields
from compress.tasks.causal_lm.source import gguf_tokenizer
from tests.tiny_decoders import CONFIGS, tiny_decoder
from tests.tiny_language import BEGIN, CHATML, END, byte_tokenizer
from tests.unit.test_prune_decoders import material

KNOWN = {name: config for name, config in CONFIGS.items() if config.model_type in LLAMA_CPP}
FAST = list(KNOWN)[:4]
FAMILIES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow, id=name) for name in KNOWN]
TASK = {
    "special_tokens": {"bos_token": BEGIN, "eos_token": END},
    "begin_id": None,
    "end_id": 1,
    "pad_id": 0,
    "chat_template": CHATML,
}
MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("1", "2"), ("12", "3"), ("Ġ", "Ġ"), ("'", "s"), ("Ċ", "Ċ")]
BYTES = json.loads(byte_tokenizer(MERGES).to_str())


def written(model: PreTrainedModel, file: Path, stored: str = "f16") -> GGUFReader:
    write_gguf(model, BYTES, TASK, stored, file, "tiny")  # type: ignore[arg-type]
    return GGUFReader(file)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("stored", ["f16", "q8_0", "q4_0", "q4_1"])
def test_the_numbers_are_the_models_own(name: str, stored: str, tmp_path: Path):
    model = tiny_decoder(name)
    layout = layout_of(model.config)
    family = LLAMA_CPP[model.config.model_type]
    made = {one.name: one for one in tensors_of(layout, family, model.state_dict(), stored)}  # type: ignore[arg-type]
    read = {tensor.name: tensor for tensor in written(model, tmp_path / "it.gguf", stored).tensors}
    assert read.keys() == made.keys()
    for path, tensor in read.items():
        wanted = made[path].compute()
        assert tensor.tensor_type == made[path].ggml_type
        found = dequantize(tensor.data, tensor.tensor_type).reshape(wanted.shape)
        kind = tensor.tensor_type.name
        if kind == "F32":
            assert np.array_equal(found, wanted)
        elif kind == "F16":
            assert np.array_equal(found, wanted.astype(np.float16).astype(np.float32))
        else:
            blocks = wanted.reshape(-1, 32)
            largest = np.abs(blocks).max(axis=1)
            spread = blocks.max(axis=1) - blocks.min(axis=1)
            # Of sixteen steps from -8 to 7, the last one is missing on the side of the smaller extreme.
            half = {"Q8_0": largest / 254, "Q4_0": largest / 8, "Q4_1": spread / 30}[kind]
            assert (np.abs(found.reshape(-1, 32) - blocks).max(axis=1) <= half * 1.01 + largest * 1e-3).all()
    stored_as = {tensor.name: tensor.tensor_type.name.lower() for tensor in read.values()}
    assert stored_as["blk.1.ffn_down.weight"] == stored
    decides = EMBEDDINGS_NAME if layout.tied and not family.requires_head else HEAD_NAME
    assert stored_as[decides] == ("f16" if stored == "f16" else "q8_0")


PRUNED = {"layers": 0.34, "feed_forward": 0.34, "heads": 0.5, "hidden": 0.5}


@pytest.mark.parametrize(
    ("name", "remove"),
    [
        ("llama", None),
        ("llama, tied with biases", None),
        ("qwen2", None),
        ("llama, tied with biases", PRUNED),
        ("llama", {"heads": 0.5}),
    ],
)
def test_transformers_reads_the_same_model_back(name: str, remove: dict | None, tmp_path: Path):
    model = tiny_decoder(name)
    if remove is not None:
        DecoderPruner(model, material(remove=remove, importance="magnitude", round_to=32)).advance(1.0)
    written(model, tmp_path / "it.gguf")
    back = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="it.gguf", dtype=torch.float32)
    theirs = back.state_dict()
    for path, tensor in model.state_dict().items():
        # transformers reads no bias of a Llama's maps.
        if path in theirs:
            rounded = tensor.half().float() if tensor.ndim == 2 and "wpe" not in path else tensor
            assert torch.equal(theirs[path], rounded), path
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"):
        assert getattr(back.config, key) == getattr(model.config, key)


def test_the_tokens_and_the_template_stand_in_the_file(tmp_path: Path):
    fields = {
        name: field.contents()
        for name, field in written(tiny_decoder("llama"), tmp_path / "it.gguf").fields.items()
    }
    assert fields["tokenizer.ggml.model"] == "gpt2"
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    tokens = fields["tokenizer.ggml.tokens"]
    vocabulary = BYTES["model"]["vocab"]
    assert len(tokens) == 200
    assert all(vocabulary[token] == number for number, token in enumerate(tokens))
    assert fields["tokenizer.chat_template"] == CHATML
    assert fields["tokenizer.ggml.eos_token_id"] == 1
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["llama.attention.head_count_kv"] == 2
    assert fields["llama.rope.freq_base"] == 10000


def test_the_ends_of_answers_stand_in_the_file(tmp_path: Path):
    file = tmp_path / "it.gguf"
    write_gguf(tiny_decoder("llama"), BYTES, {**TASK, "end_ids": [1, 5, 9]}, "f16", file, "tiny")
    fields = GGUFReader(file).fields
    assert [fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("eos", "eot", "eom")] == [
        1,
        5,
        9,
    ]
    assert end_token_ids(header_fields(file)) == [1, 5, 9]
    write_gguf(tiny_decoder("llama"), BYTES, TASK, "f16", file, "tiny")
    assert end_token_ids(header_fields(file)) == [1]


def letters(*, prefix: bool) -> Tokenizer:
    """Merges of letters, and bytes for those that are unknown."""
    vocabulary = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "b", "ab", "\u2581ab"]
    made = Tokenizer(
        models.BPE(
            {token: number for number, token in enumerate(vocabulary)},
            [("a", "b"), ("\u2581", "ab")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    replaced = normalizers.Replace(" ", "\u2581")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), replaced]) if prefix else replaced
    made.decoder = decoders.ByteFallback()
    made.add_special_tokens(["<unk>"])
    return made


@pytest.mark.parametrize("prefix", [True, False])
def test_what_is_joined_first_has_the_largest_score(prefix: bool):
    found = vocabulary_of(json.loads(letters(prefix=prefix).to_str()), 263)
    scores = dict(zip(found.tokens, found.scores, strict=True))
    assert (found.model, found.add_space_prefix, found.merges) == ("llama", prefix, ())
    assert scores["ab"] > scores["\u2581ab"] > scores["a"] == scores["b"]
    assert found.token_types[:2] == (2, 6)
    assert found.token_types[-1] == 5
    assert found.tokens[-1] == "[PAD262]"


def changed(**parts: object) -> dict:
    return {**BYTES, **parts}


WORDS_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
LLAMA_3 = rf"{WORDS_3}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def test_rules_are_known_by_what_the_tokenizer_says():
    byte_level = json.loads(pre_tokenizers.ByteLevel(False, use_regex=False).__getstate__())
    cases = {"smollm": [{"type": "Digits", "individual_digits": True}, BYTES["pre_tokenizer"]]}
    for name, regex in (("llama-bpe", LLAMA_3), ("qwen2", LLAMA_3.replace("{1,3}", ""))):
        split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
        cases[name] = [split, byte_level]
    for name, parts in cases.items():
        model = {**BYTES["model"], "ignore_merges": name == "llama-bpe"}
        tokenizer = changed(pre_tokenizer={"type": "Sequence", "pretokenizers": parts}, model=model)
        assert why_not_vocabulary(tokenizer, "llama") is None
        assert vocabulary_of(tokenizer, 266).pre == name


@pytest.mark.parametrize("name", RULES)
def test_a_tokenizer_that_is_read_cuts_texts_by_the_rules_that_the_file_names(name: str, tmp_path: Path):
    model = {**BYTES["model"], "ignore_merges": name == IGNORE_MERGES_RULES}
    body = changed(pre_tokenizer=pre_tokenizer(name), model=model)
    write_gguf(tiny_decoder("llama", vocab_size=266), body, TASK, "f16", tmp_path / "it.gguf", "tiny")
    read = gguf_tokenizer(tmp_path / "it.gguf").backend_tokenizer
    assert json.loads(read.to_str())["model"]["ignore_merges"] is model["ignore_merges"]
    ours = Tokenizer.from_str(json.dumps(body)).pre_tokenizer
    for text in [*PROBE_TEXTS, "12 123 1234 abc123", "It's 2026, they'LL", " x  y\n\n z"]:
        assert read.pre_tokenizer.pre_tokenize_str(text) == ours.pre_tokenize_str(text), repr(text)


def write_letters(
    file: Path,
    pieces: Sequence[str],
    scores: Sequence[float],
    *,
    space: bool | None = None,
    begin: bool | None = None,
) -> None:
    """A file of somebody else that holds a BPE of SentencePiece, and nothing to run."""
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(1)
    for add, value in (
        (writer.add_context_length, 64),
        (writer.add_embedding_length, 32),
        (writer.add_feed_forward_length, 32),
        (writer.add_head_count, 2),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_tokenizer_model, "llama"),
        (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 2),
        (writer.add_unk_token_id, 0),
    ):
        add(value)
    fixed = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    writer.add_token_list([*fixed, *pieces])
    writer.add_token_scores([0.0] * len(fixed) + list(scores))
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * len(pieces)])
    if space is not None:
        writer.add_add_space_prefix(space)
    if begin is not None:
        writer.add_add_bos_token(begin)
    writer.add_tensor("token_embd.weight", np.zeros((len(fixed) + len(pieces), 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("prefix", [True, False])
def test_letters_are_joined_and_spaces_written_as_the_file_says(prefix: bool, tmp_path: Path):
    ours = letters(prefix=prefix)
    model = tiny_decoder("llama", vocab_size=ours.get_vocab_size())
    write_gguf(model, json.loads(ours.to_str()), TASK, "f16", tmp_path / "it.gguf", "tiny")
    read = gguf_tokenizer(tmp_path / "it.gguf").backend_tokenizer
    for text in [*PROBE_TEXTS, "abab ab  a b", " ab", "  ab "]:
        # Where a file names no token that ends texts, transformers adds one.
        if "<" not in text:
            found = read.encode(text, add_special_tokens=False).ids
            assert found == ours.encode(text, add_special_tokens=False).ids, repr(text)
            assert read.decode(found, skip_special_tokens=False) == text


def test_scores_that_do_not_say_what_is_joined_first_are_refused(tmp_path: Path):
    pieces = ("a", "b", "c", "ab", "bc")
    write_letters(tmp_path / "it.gguf", pieces, [-1.0, -1.0, -1.0, -2.0, -3.0])
    assert gguf_tokenizer(tmp_path / "it.gguf").backend_tokenizer.encode("abc").tokens[-2:] == ["ab", "c"]
    write_letters(tmp_path / "it.gguf", pieces, [-1.0, -2.0, -3.0, -4.0, -4.0])
    with pytest.raises(ModelError, match="have equal scores"):
        gguf_tokenizer(tmp_path / "it.gguf")


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, "is a Unigram"),
        (json.loads(byte_tokenizer().to_str()), "has no merges"),
        (changed(normalizer={"type": "Lowercase"}), "has the normalizer Lowercase"),
        (changed(pre_tokenizer={"type": "Whitespace"}), "by rules other than those of GPT-2"),
        (
            changed(added_tokens=[{**BYTES["added_tokens"][0], "lstrip": True}]),
            "its token '<begin>' strips adjacent spaces",
        ),
        (
            {**json.loads(letters(prefix=True).to_str()), "normalizer": {"type": "NFC"}},
            "handles spaces differently",
        ),
    ],
)
def test_other_tokenizers_are_refused(tokenizer: dict, words: str):
    assert words in str(why_not_vocabulary(tokenizer, "llama"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "bert"}, "and this is a bert"),
        (transformers.LlamaConfig(hidden_act="gelu").to_dict(), "with silu or swish, not gelu"),
        (
            transformers.Phi3Config(hidden_size=96, num_attention_heads=4, head_dim=64).to_dict(),
            "together to be as wide",
        ),
        (transformers.GemmaConfig(attention_bias=True).to_dict(), "no bias after the attention"),
        (transformers.Gemma2Config(attn_logit_softcapping=None).to_dict(), "llama.cpp caps the scores"),
        (
            transformers.GemmaConfig(tie_word_embeddings=False).to_dict(),
            "ties the head of a gemma to its embeddings",
        ),
        (
            transformers.Qwen3Config(
                rope_parameters={
                    "rope_type": "llama3",
                    "rope_theta": 1e4,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            ).to_dict(),
            "no rotary positions of type 'llama3' for a qwen3",
        ),
        *((config.to_dict(), None) for config in KNOWN.values()),
    ],
)
def test_other_models_are_refused(config: dict, words: str | None):
    found = why_not_gguf(config)
    assert found is None if words is None else words in str(found)


def test_what_does_not_fit_is_refused(tmp_path: Path):
    model = tiny_decoder("llama")
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 1e6
    with pytest.raises(
        PassError, match=r"output\.weight holds 1e\+06, above the largest 16-bit float, 65504"
    ):
        written(model, tmp_path / "it.gguf")
    assert not list(tmp_path.iterdir())
    unknown = tiny_decoder("llama")
    unknown.config.hidden_act = "relu"
    with pytest.raises(ModelError, match="not relu"):
        written(unknown, tmp_path / "it.gguf")
