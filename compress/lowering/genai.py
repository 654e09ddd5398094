"""A decoder for onnxruntime-genai: its graph returns the logits of the last token of each row.

genai feeds `input_ids`, `attention_mask` and the cache but no `logit_positions`, and accepts graphs whose `logits`
have one token per row; its other settings are in `genai_config.json`. The graph shares the weights of the bundle's
model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from compress.core.artifacts import GENAI_CONFIG, GENAI_MODEL, ONNX_MODEL, TOKENIZER_CONFIG
from compress.core.disk.files import write_bytes, write_json
from compress.lowering.shared_weights import share_weights
from compress.models.text.chat import end_ids
from compress.runtimes.runner import LOGIT_POSITIONS, PAST_PREFIX, PRESENT_PREFIX

_NAME = "last_token"


def write_genai(
    bundle: Path, sizes: Mapping[str, int], tokenizer: Mapping[str, Any], task: Mapping[str, Any]
) -> None:
    """Write genai's graph, its config and the tokenizer's config beside the model of a bundle.

    Args:
        bundle: folder with `model.onnx` and `tokenizer.json`.
        sizes: of the decoder, from its config.
        tokenizer: the content of `tokenizer.json`.
        task: the content of `task.json`.
    """
    model = onnx.load(str(bundle / ONNX_MODEL), load_external_data=False)
    compute_last_positions(model.graph)
    share_weights(model, bundle / ONNX_MODEL)
    write_bytes(bundle / GENAI_MODEL, model.SerializeToString())
    write_json(bundle / GENAI_CONFIG, genai_config(model.graph, sizes, tokenizer, task))
    write_json(bundle / TOKENIZER_CONFIG, tokenizer_config(task))


def compute_last_positions(graph: onnx.GraphProto) -> None:
    """Replace the `logit_positions` input by a computation: the last token of each row.

    The tokens of a row are followed by padding; after the prompt each row gets one token per step.
    """

    def constant(name: str, numbers: list[int]) -> str:
        graph.initializer.append(
            helper.make_tensor(f"{_NAME}.{name}", onnx.TensorProto.INT64, [len(numbers)], numbers)
        )
        return f"{_NAME}.{name}"

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        created = helper.make_node(op, inputs, [output], name=output, **attributes)
        nodes.append(created)
        return output

    nodes: list[onnx.NodeProto] = []
    one, zero = constant("one", [1]), constant("zero", [0])
    num_tokens = node("ReduceSum", ["attention_mask", one], f"{_NAME}.read", keepdims=1)
    total = node("Shape", ["attention_mask"], f"{_NAME}.total", start=1)
    num_new = node("Shape", ["input_ids"], f"{_NAME}.new", start=1)
    num_past = node("Sub", [total, num_new], f"{_NAME}.past")
    position = node("Sub", [node("Sub", [num_tokens, num_past], f"{_NAME}.own"), one], f"{_NAME}.place")
    node("Max", [position, zero], LOGIT_POSITIONS)
    graph_inputs = [value for value in graph.input if value.name != LOGIT_POSITIONS]
    del graph.input[:]
    graph.input.extend(graph_inputs)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    logits = graph.output[0].type.tensor_type.shape.dim[1]
    logits.Clear()
    logits.dim_value = 1


def genai_config(
    graph: onnx.GraphProto, sizes: Mapping[str, int], tokenizer: Mapping[str, Any], task: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of `genai_config.json`."""
    added_ids = {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or ()}
    bos_id, eos_ids = task["begin_id"], end_ids(task) or (task["pad_id"],)
    if bos_id is None:
        bos_id = added_ids.get(task["special_tokens"].get("bos_token"), task["pad_id"])
    return {
        "model": {
            # The type for any family: all differences between families are in the graph.
            "type": "decoder",
            "bos_token_id": bos_id,
            "eos_token_id": list(eos_ids) if len(eos_ids) > 1 else eos_ids[0],
            "pad_token_id": task["pad_id"],
            "vocab_size": task["words"],
            "context_length": sizes["positions"],
            "decoder": {
                "filename": GENAI_MODEL,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "head_size": sizes["head_size"],
                "hidden_size": sizes["hidden"],
                "num_attention_heads": sizes["heads"],
                "num_hidden_layers": sizes["layers"],
                "num_key_value_heads": sizes["groups"],
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": f"{PAST_PREFIX}%d.key",
                    "past_value_names": f"{PAST_PREFIX}%d.value",
                },
                "outputs": {
                    "logits": graph.output[0].name,
                    "present_key_names": f"{PRESENT_PREFIX}%d.key",
                    "present_value_names": f"{PRESENT_PREFIX}%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": sizes["positions"],
            "past_present_share_buffer": True,
        },
    }


def tokenizer_config(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `tokenizer_config.json`: BOS handling, the special tokens and the chat template."""
    template = {} if task["chat_template"] is None else {"chat_template": task["chat_template"]}
    return {
        "tokenizer_class": "GPT2Tokenizer",
        "add_bos_token": task["begin_id"] is not None,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        **task["special_tokens"],
        **template,
    }
