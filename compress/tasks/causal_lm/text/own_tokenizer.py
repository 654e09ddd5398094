"""A tokenizer that no model comes with: trained on the texts, or a `tokenizer.json` alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from compress.models.text.chat import renderer
from compress.tasks.causal_lm.keys import Written
from compress.tasks.causal_lm.text.documents import pieces_of

END = "<|endoftext|>"
_SAYS, _SAID = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The template of conversations of a tokenizer that is trained on them."""

_ENDS = (END, _SAID, "</s>", "<eos>", "<|end_of_text|>", "<|eot_id|>", "<end>")
"""What the token that ends a text is called, where nothing but a vocabulary says it."""


def trained_tokenizer(items: Sequence[str], written: Written, vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte pairs of bytes (Sennrich et al. 2016), as GPT-2 has them, trained on examples; equal examples, equal tokens.

    A text begins with the token that ends an answer; conversations are written in ChatML.

    Args:
        items: the examples, as the data holds them.
        vocabulary: tokens at most.
    """
    talks = written == "messages"
    special = [END, _SAYS, _SAID] if talks else [END]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(_texts(items, written), trainer)
    if not talks:
        made.post_processor = processors.TemplateProcessing(
            single=f"{END} $A", special_tokens=[(END, made.token_to_id(END))]
        )
    found = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=END, eos_token=_SAID if talks else END)
    if talks:
        found.chat_template = CHATML
    return found


def of_file(file: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a `tokenizer.json`, which says nothing of what ends a text."""
    known = Tokenizer.from_file(str(file)).get_vocab()
    end = next((token for token in _ENDS if token in known), None)
    return PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token=end)


def _texts(items: Sequence[str], written: Written) -> Iterator[str]:
    render = renderer(CHATML, {}, "ChatML") if written == "messages" else None
    return (piece.text for item in items for piece in pieces_of(item, written, render))
