"""Tokenizers that do not come with a model: trained on the texts, or a `tokenizer.json` alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from compress.models.text.chat import renderer
from compress.tasks.causal_lm.keys import ExampleFormat
from compress.tasks.causal_lm.text.documents import pieces_of

END = "<|endoftext|>"
_TURN_START, _TURN_END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Chat template of a tokenizer trained on conversations."""

_END_TOKENS = (END, _TURN_END, "</s>", "<eos>", "<|end_of_text|>", "<|eot_id|>", "<end>")
"""Common names of the end-of-text token, for files that contain only a vocabulary."""


def trained_tokenizer(
    items: Sequence[str], example_format: ExampleFormat, vocabulary: int
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (Sennrich et al. 2016), as in GPT-2, on examples; deterministic.

    Without conversations, every text begins with the token that ends an answer; conversations are rendered in ChatML.

    Args:
        items: the examples, as data items.
        vocabulary: maximum number of tokens.
    """
    is_chat = example_format == "messages"
    special = [END, _TURN_START, _TURN_END] if is_chat else [END]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(items, example_format), trainer)
    if not is_chat:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{END} $A", special_tokens=[(END, tokenizer.token_to_id(END))]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=_TURN_END if is_chat else END
    )
    if is_chat:
        wrapped.chat_template = CHATML
    return wrapped


def load_tokenizer_file(file: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a `tokenizer.json`, which does not name the end-of-text token."""
    vocabulary = Tokenizer.from_file(str(file)).get_vocab()
    end = next((token for token in _END_TOKENS if token in vocabulary), None)
    return PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token=end)


def _texts(items: Sequence[str], example_format: ExampleFormat) -> Iterator[str]:
    render = renderer(CHATML, {}, "ChatML") if example_format == "messages" else None
    return (piece.text for item in items for piece in pieces_of(item, example_format, render))
