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
from compress.lowering.gguf.family import LLAMA_CPP, LlamaCppFamily, rope_parameters_of, why_not_gguf
from compress.lowering.gguf.tensors import MatrixType, rotated_dimensions, tensors_of
from compress.lowering.gguf.vocabulary import Vocabulary, vocabulary_of, why_not_vocabulary
from compress.models.text.chat import end_ids

_FILE_TYPES: Mapping[MatrixType, LlamaFileType] = {
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
    matrix_type: MatrixType,
    file: Path,
    name: str,
) -> dict[str, int]:
    """Write a decoder; returns the number of tensors stored in each type.

    Args:
        model: on the CPU.
        tokenizer: the content of its `tokenizer.json`.
        task: the content of its `task.json`.
        matrix_type: type in which matrices are stored.
        name: name of the model in the file.

    Raises:
        ModelError: llama.cpp does not support the model or the tokenizer.
        PassError: a weight does not fit into 16 bits.
    """
    layout = layout_of(model.config)
    model_type = str(layout.config["model_type"])
    if (why := why_not_gguf(layout.config) or why_not_vocabulary(tokenizer, model_type)) is not None:
        raise ModelError(why, where=str(file), code="family-unsupported")
    family, vocabulary = LLAMA_CPP[model_type], vocabulary_of(tokenizer, layout.sizes["vocabulary"])
    tensors = list(tensors_of(layout, family, model.state_dict(), matrix_type))
    with replacing(file) as temporary:
        writer = GGUFWriter(temporary, family.architecture)
        # llama.cpp recognises by this name that whitespace after Phi-3's special tokens is stripped.
        writer.add_name(f"phi-3 {name}" if vocabulary.strips_after_special else name)
        writer.add_file_type(_FILE_TYPES[matrix_type])
        writer.add_quantization_version(_QUANTIZATION_VERSION)
        _add_sizes(writer, layout, family)
        _add_positions(writer, layout, family)
        _add_vocabulary(writer, vocabulary, task)
        for tensor in tensors:
            writer.add_tensor_info(
                tensor.name, tensor.shape, np.dtype(np.float32), tensor.num_bytes, tensor.ggml_type
            )
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in tensors:
                writer.write_tensor_data(tensor.quantized())
        finally:
            writer.close()
    return dict(Counter(tensor.ggml_type.name.lower() for tensor in tensors))


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
    if layout.network.norm_type == "rms":
        writer.add_layer_norm_rms_eps(layout.epsilon)
    else:
        writer.add_layer_norm_eps(layout.epsilon)
    if layout.network.parallel_key is not None:
        writer.add_parallel_residual(layout.parallel)
    if layout.softcap:
        writer.add_attn_logit_softcapping(layout.softcap)
    if layout.final_softcap:
        writer.add_final_logit_softcapping(layout.final_softcap)


def _add_positions(writer: GGUFWriter, layout: Layout, family: LlamaCppFamily) -> None:
    windows = {window for window in layout.windows if window is not None}
    # Where llama.cpp has full attention in every layer, results agree for texts that fit into the window.
    context_length = (
        layout.max_positions
        if family.supports_windows
        else min(layout.max_positions, *windows, layout.max_positions)
    )
    writer.add_context_length(context_length)
    if windows and family.supports_windows:
        (window,) = windows
        writer.add_sliding_window(window)
        writer.add_sliding_window_pattern([layer_window is not None for layer_window in layout.windows])
    if not layout.tables:
        return
    writer.add_rope_dimension_count(rotated_dimensions(layout))
    rope = rope_parameters_of(layout.config)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    local_rope = layout.config["rope_parameters"].get("sliding_attention")
    if windows and family.supports_windows and local_rope:
        writer.add_rope_freq_base_swa(float(local_rope["rope_theta"]))
    rope_type = rope.get("rope_type", "default")
    if rope_type in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(rope_type))
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if rope_type == "yarn":
        writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))
        writer.add_rope_scaling_yarn_beta_fast(float(rope.get("beta_fast") or 32))
        writer.add_rope_scaling_yarn_beta_slow(float(rope.get("beta_slow") or 1))
    if layout.config["model_type"] == "phi3":
        writer.add_rope_scaling_orig_ctx_len(context_length)


def _add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary, task: Mapping[str, Any]) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.token_types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    writer.add_add_space_prefix(vocabulary.add_space_prefix)
    special = task["special_tokens"]
    ids_by_token = {text: token_id for token_id, text in enumerate(vocabulary.tokens)}
    bos_id = task["begin_id"] if task["begin_id"] is not None else ids_by_token.get(special.get("bos_token"))
    special_ids = {
        "bos": bos_id,
        # llama.cpp treats all three as ends of an answer, and others that it recognises by their text.
        **dict(zip(("eos", "eot", "eom"), end_ids(task), strict=False)),
        "unk": ids_by_token.get(special.get("unk_token")),
        "pad": task["pad_id"],
    }
    for role, token_id in special_ids.items():
        if token_id is not None:
            getattr(writer, f"add_{role}_token_id")(token_id)
    # Always set: the default depends on the kind of tokenizer.
    writer.add_add_bos_token(task["begin_id"] is not None)
    writer.add_add_eos_token(False)
    if task["chat_template"] is not None:
        writer.add_chat_template(task["chat_template"])
