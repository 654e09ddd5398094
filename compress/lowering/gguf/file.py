"""Writing a decoder as one GGUF file of llama.cpp: its sizes, tokenizer, chat template and weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter, LlamaFileType, RopeScalingType
from transformers import PreTrainedModel

from compress.core.disk.files import replacing
from compress.core.errors import ModelError
from compress.lowering.decoder.layout import Layout, layout_of
from compress.lowering.gguf.family import LLAMA_CPP, LlamaCppFamily, rope_of, why_not_gguf
from compress.lowering.gguf.tensors import Stored, rotated_dimensions, tensors_of
from compress.lowering.gguf.vocabulary import Vocabulary, vocabulary_of, why_no_vocabulary
from compress.models.text.chat import end_ids

_FILE_TYPES: Mapping[Stored, LlamaFileType] = {
    "f16": LlamaFileType.MOSTLY_F16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
    "q4_1": LlamaFileType.MOSTLY_Q4_1,
}
_QUANTIZATION_VERSION = 2


def write_gguf(
    model: PreTrainedModel,
    tokenizer: Mapping[str, Any],
    task: Mapping[str, Any],
    stored: Stored,
    file: Path,
    name: str,
) -> dict[str, int]:
    """Write a decoder; returns the number of tensors stored in each type.

    Args:
        model: on the CPU.
        tokenizer: the content of its `tokenizer.json`.
        task: the content of its `task.json`.
        stored: type in which matrices are stored.
        name: name of the model in the file.

    Raises:
        ModelError: llama.cpp does not support the model or the tokenizer.
        PassError: a weight does not fit into 16 bits.
    """
    layout = layout_of(model.config)
    kind = str(layout.config["model_type"])
    if (why := why_not_gguf(layout.config) or why_no_vocabulary(tokenizer, kind)) is not None:
        raise ModelError(why, where=str(file), code="family-unsupported")
    family, vocabulary = LLAMA_CPP[kind], vocabulary_of(tokenizer, layout.sizes["vocabulary"])
    tensors = list(tensors_of(layout, family, model.state_dict(), stored))
    with replacing(file) as temporary:
        writer = GGUFWriter(temporary, family.architecture)
        # llama.cpp recognises by this name that whitespace after Phi-3's special tokens is stripped.
        writer.add_name(f"phi-3 {name}" if vocabulary.strips else name)
        writer.add_file_type(_FILE_TYPES[stored])
        writer.add_quantization_version(_QUANTIZATION_VERSION)
        _add_sizes(writer, layout, family)
        _add_positions(writer, layout, family)
        _add_vocabulary(writer, vocabulary, task)
        for tensor in tensors:
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, tensor.kind)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in tensors:
                writer.write_tensor_data(tensor.stored())
        finally:
            writer.close()
    return dict(Counter(tensor.kind.name.lower() for tensor in tensors))


def _add_sizes(writer: GGUFWriter, layout: Layout, family: LlamaCppFamily) -> None:
    sizes = layout.sizes
    writer.add_vocab_size(sizes["vocabulary"])
    writer.add_block_count(sizes["layers"])
    writer.add_embedding_length(sizes["hidden"])
    writer.add_feed_forward_length(sizes["feed_forward"])
    writer.add_head_count(sizes["heads"])
    writer.add_head_count_kv(sizes["groups"])
    writer.add_key_length(sizes["head_size"])
    writer.add_value_length(sizes["head_size"])
    if layout.network.norm == "rms":
        writer.add_layer_norm_rms_eps(layout.epsilon)
    else:
        writer.add_layer_norm_eps(layout.epsilon)
    if layout.network.parallel is not None:
        writer.add_parallel_residual(layout.parallel)
    if layout.softcap:
        writer.add_attn_logit_softcapping(layout.softcap)
    if layout.final_softcap:
        writer.add_final_logit_softcapping(layout.final_softcap)


def _add_positions(writer: GGUFWriter, layout: Layout, family: LlamaCppFamily) -> None:
    windows = {window for window in layout.windows if window is not None}
    # Where llama.cpp has full attention in every layer, results agree for texts that fit into the window.
    longest = layout.longest if family.windows else min(layout.longest, *windows, layout.longest)
    writer.add_context_length(longest)
    if windows and family.windows:
        (window,) = windows
        writer.add_sliding_window(window)
        writer.add_sliding_window_pattern([found is not None for found in layout.windows])
    if not layout.tables:
        return
    writer.add_rope_dimension_count(rotated_dimensions(layout))
    rope = rope_of(layout.config)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    local = layout.config["rope_parameters"].get("sliding_attention")
    if windows and family.windows and local:
        writer.add_rope_freq_base_swa(float(local["rope_theta"]))
    how = rope.get("rope_type", "default")
    if how in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(how))
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if how == "yarn":
        writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))
        writer.add_rope_scaling_yarn_beta_fast(float(rope.get("beta_fast") or 32))
        writer.add_rope_scaling_yarn_beta_slow(float(rope.get("beta_slow") or 1))
    if layout.config["model_type"] == "phi3":
        writer.add_rope_scaling_orig_ctx_len(longest)


def _add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary, task: Mapping[str, Any]) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    writer.add_add_space_prefix(vocabulary.adds_space)
    special = task["special_tokens"]
    numbers = {text: number for number, text in enumerate(vocabulary.tokens)}
    begin = task["begin_id"] if task["begin_id"] is not None else numbers.get(special.get("bos_token"))
    named = {
        "bos": begin,
        # llama.cpp treats all three as ends of an answer, and others that it recognises by their text.
        **dict(zip(("eos", "eot", "eom"), end_ids(task), strict=False)),
        "unk": numbers.get(special.get("unk_token")),
        "pad": task["pad_id"],
    }
    for what, number in named.items():
        if number is not None:
            getattr(writer, f"add_{what}_token_id")(number)
    # Always set: the default depends on the kind of tokenizer.
    writer.add_add_bos_token(task["begin_id"] is not None)
    writer.add_add_eos_token(False)
    if task["chat_template"] is not None:
        writer.add_chat_template(task["chat_template"])
