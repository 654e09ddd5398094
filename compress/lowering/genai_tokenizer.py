"""Which tokenizers onnxruntime-genai runs with the same results as `tokenizers`. No torch or onnx imports."""

from __future__ import annotations

from collections.abc import Iterator

from compress.lowering.gguf.vocabulary import Json, parts_of, rules_of

_RULES = ("gpt-2", "llama-bpe", "qwen2")
"""Rules verified to give the same ids on odd texts; not SmolLM's, as genai does not support `Digits`."""


def why_not_genai(tokenizer: Json) -> str | None:
    """Return why genai would tokenize differently from a `tokenizer.json`; None if it would not."""
    return next(_reasons(tokenizer), None)


def _reasons(tokenizer: Json) -> Iterator[str]:
    model = tokenizer.get("model") or {}
    tokenizer_type = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
    if tokenizer_type != "BPE" or model.get("byte_fallback"):
        yield (
            "its tokenizer is a "
            f"{tokenizer_type}{' with byte fallback' if tokenizer_type == 'BPE' else ''}, not byte-level BPE"
        )
        return
    for token in tokenizer.get("added_tokens") or ():
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            yield f"its token {token['content']!r} strips adjacent whitespace or matches whole words only"
    if any(part["type"] != "NFC" for part in parts_of(tokenizer.get("normalizer"), "normalizers")):
        yield "its tokenizer changes texts before it splits them"
    if rules_of(tokenizer) not in _RULES:
        yield "its tokenizer splits texts into words by rules other than those of GPT-2, Llama 3 and Qwen 2"
