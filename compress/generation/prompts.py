"""Rendering of prompts, texts or conversations, with a model's tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from compress.core.artifacts import TASK, TOKENIZER
from compress.core.disk.reading import content_errors, read_mapping
from compress.core.errors import DataError, ModelError
from compress.models.text.chat import PLACEHOLDER, Conversation, Prompt, PromptFormat
from compress.models.text.parts import puts_space
from compress.models.text.tokenizer_files import open_without_truncation


class PromptCodec:
    """Encodes prompts to token ids and decodes answers, by the tokenizer and text settings in a model's folder."""

    def __init__(self, model: Path) -> None:
        """Load the tokenizer and the chat template.

        Raises:
            ModelError: a file is missing or unreadable, or the model is not a decoder.
        """
        self._where = str(model)
        try:
            self.format = PromptFormat.of(read_mapping(model / TASK))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"cannot read the model's text settings: {error!r}", where=str(model / TASK)
            ) from error
        self._tokenizer = open_without_truncation(model / TOKENIZER)
        self._render = self.format.render(self._where)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(one for one, token in added.items() if token.special)
        with content_errors("the tokenizer", self._where):
            self._word_ids = self._encode("a") if puts_space(self._tokenizer) else []

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return self.format.answer_end_ids

    @property
    def has_chat_template(self) -> bool:
        """Whether the model has a chat template."""
        return self._render is not None

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Encode a prompt to token ids.

        Raises:
            DataError: the model has no chat template for a conversation, or the prompt is empty.
            ModelError: the template rejects the conversation.
        """
        found = self.encode(self.render_prompt(prompt), add_bos=isinstance(prompt, str))
        if not found:
            raise DataError("a prompt has no tokens to continue from", where=self._where, code="empty-prompt")
        return found

    def render_prompt(self, prompt: Prompt) -> str:
        """Render a prompt as the text that the answer continues.

        Raises:
            DataError: the model has no chat template for a conversation.
            ModelError: the template rejects the conversation.
        """
        if isinstance(prompt, str):
            return prompt
        return self._apply_template(prompt) if "content" in prompt[-1] else self._split_message(prompt)[0]

    def render_without_bos(self, prompt: Prompt) -> str:
        """Render a prompt without the beginning-of-text token, for a tokenizer that adds it.

        Raises:
            DataError, ModelError: as in `render_prompt`.
        """
        text = self.render_prompt(prompt)
        bos_token = (
            None if self.format.begin_id is None else self._tokenizer.id_to_token(self.format.begin_id)
        )
        return text if bos_token is None or isinstance(prompt, str) else text.removeprefix(bos_token)

    def _apply_template(self, prompt: Conversation) -> str:
        if self._render is None:
            raise DataError(
                "conversations need a chat template, but the model has none",
                where=self._where,
                code="no-chat-template",
            )
        return self._render(prompt, True)

    def _split_message(self, prompt: Conversation) -> tuple[str, str]:
        """Return the text before and after the message content that is to be generated."""
        *before, last = prompt
        start, separator, end = self._apply_template([*before, {**last, "content": PLACEHOLDER}]).partition(
            PLACEHOLDER
        )
        if not separator:
            raise ModelError(
                "the model's chat template leaves out the user's message",
                where=self._where,
                code="chat-template",
            )
        return start, end

    def message_stops(self, prompt: Conversation) -> tuple[str, ...]:
        """Return the stop strings of a generated message: a line, a special token, or both if they follow each other.

        Raises:
            DataError, ModelError: as in `render_prompt`.
        """
        text = self._split_message(prompt)[1]
        with content_errors("the tokenizer", self._where):
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        tokens = zip(encoding.ids, encoding.offsets, strict=True)
        start, end = next(
            (offsets for token_id, offsets in tokens if token_id in self._special_ids), (len(text), len(text))
        )
        line = text[:start].strip().partition("\n")[0]
        return tuple(filter(None, (line, text[start:end])))

    @property
    def empty_prompt(self) -> str:
        """The prompt for a text from its beginning.

        Empty, or the end-of-text token for models without a beginning-of-text token.

        Raises:
            ModelError: it has neither; a token that only ends the turns of its conversations does not count.
        """
        if self.format.begin_id is not None:
            return ""
        eos_token = None if self.format.end_id is None else self._tokenizer.id_to_token(self.format.end_id)
        if (
            eos_token is None
            or self.format.end_id not in self._special_ids
            or eos_token in (self.format.chat_template or "")
        ):
            raise ModelError(
                "the model has no known beginning-of-text token",
                where=self._where,
                code="no-begin-token",
            )
        return str(eos_token)

    def stop_ids(self, stop_strings: Sequence[str]) -> frozenset[int]:
        """Return the tokens that end an answer: the model's own, and the special tokens among `stop_strings`.

        The latter do not appear in decoded text.
        """
        return frozenset(self.end_ids) | (
            self._special_ids & {self._tokenizer.token_to_id(stop) for stop in stop_strings}
        )

    def encode(self, text: str, *, add_bos: bool) -> list[int]:
        """Encode a text to token ids; `add_bos`: prepend the BOS token, unless the text starts with it."""
        ids, bos_id = self._encode(text), self.format.begin_id
        return ids if bos_id is None or not add_bos or ids[:1] == [bos_id] else [bos_id, *ids]

    def _encode(self, text: str) -> list[int]:
        with content_errors("the tokenizer", self._where):
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def truncate(self, text: str, max_tokens: int) -> str:
        """Return the part of a text covered by its first `max_tokens` tokens."""
        with content_errors("the tokenizer", self._where):
            offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return text if len(offsets) <= max_tokens else text[: offsets[max_tokens - 1][1]]

    def decode_answer(
        self, tokens: Sequence[int], stops: Sequence[str], prompt_ids: Sequence[int] = ()
    ) -> str:
        """Decode an answer up to the first end token, and cut it before the first of `stops`.

        Args:
            prompt_ids: tokens of a text that the answer continues, so that a space between both is kept: decoders of
                SentencePiece tokenizers drop one at the beginning.
        """
        end_tokens = self.stop_ids(stops)
        word_ids = self._word_ids if prompt_ids and prompt_ids[-1] not in self._special_ids else []
        decoded = self.decode([*word_ids, *takewhile(lambda token: token not in end_tokens, tokens)])
        return truncate_at_stop(decoded.removeprefix(self.decode(word_ids)), stops)

    def decode(self, tokens: Sequence[int]) -> str:
        """Decode tokens, without special ones."""
        decoded: str = self._tokenizer.decode(list(tokens))
        return decoded


def before_stop(text: str, stops: Sequence[str]) -> str | None:
    """Return the text before the first of `stops`; None if none occurs."""
    offsets = [offset for stop in stops if (offset := text.find(stop)) >= 0]
    return text[: min(offsets)] if offsets else None


def truncate_at_stop(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first of `stops`; all of it if none occurs."""
    truncated = before_stop(text, stops)
    return text if truncated is None else truncated
