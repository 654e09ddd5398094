"""Rendering of prompts, texts or conversations, with a model's tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from compress.core.artifacts import TASK, TOKENIZER
from compress.core.disk.reading import read_mapping, understood
from compress.core.errors import DataError, ModelError
from compress.models.text.chat import PLACEHOLDER, Conversation, Format, Prompt
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
            self.format = Format.of(read_mapping(model / TASK))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"cannot read the model's text settings: {error!r}", where=str(model / TASK)
            ) from error
        self._tokenizer = open_without_truncation(model / TOKENIZER)
        self._render = self.format.render(self._where)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(one for one, token in added.items() if token.special)
        with understood("the tokenizer", self._where):
            self._word = self._encode("a") if puts_space(self._tokenizer) else []

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return self.format.ends

    @property
    def converses(self) -> bool:
        """Whether the model has a chat template."""
        return self._render is not None

    def tokens(self, prompt: Prompt) -> list[int]:
        """Encode a prompt to token ids.

        Raises:
            DataError: the model has no chat template for a conversation, or the prompt is empty.
            ModelError: the template rejects the conversation.
        """
        found = self.encoded(self.render_prompt(prompt), begins=isinstance(prompt, str))
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
        return self._rendered(prompt) if "content" in prompt[-1] else self._around(prompt)[0]

    def plain(self, prompt: Prompt) -> str:
        """Render a prompt without the beginning-of-text token, for a tokenizer that adds it.

        Raises:
            DataError, ModelError: as in `written`.
        """
        text = self.render_prompt(prompt)
        begin = None if self.format.begin is None else self._tokenizer.id_to_token(self.format.begin)
        return text if begin is None or isinstance(prompt, str) else text.removeprefix(begin)

    def _rendered(self, prompt: Conversation) -> str:
        if self._render is None:
            raise DataError(
                "conversations need a chat template, but the model has none",
                where=self._where,
                code="no-chat-template",
            )
        return self._render(prompt, True)

    def _around(self, prompt: Conversation) -> tuple[str, str]:
        """Return the text before and after the message content that is to be generated."""
        *before, last = prompt
        start, found, end = self._rendered([*before, {**last, "content": PLACEHOLDER}]).partition(PLACEHOLDER)
        if not found:
            raise ModelError(
                "the model's chat template leaves out the user's message",
                where=self._where,
                code="chat-template",
            )
        return start, end

    def turn_stops(self, prompt: Conversation) -> tuple[str, ...]:
        """Return the stop strings of a generated message: a line, a special token, or both if they follow each other.

        Raises:
            DataError, ModelError: as in `written`.
        """
        text = self._around(prompt)[1]
        with understood("the tokenizer", self._where):
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        places = zip(encoding.ids, encoding.offsets, strict=True)
        start, end = next((place for one, place in places if one in self._special), (len(text), len(text)))
        line = text[:start].strip().partition("\n")[0]
        return tuple(filter(None, (line, text[start:end])))

    @property
    def nothing(self) -> str:
        """The prompt for a text from its beginning.

        Empty, or the end-of-text token for models without a beginning-of-text token.

        Raises:
            ModelError: it has neither; a token that only ends the turns of its conversations does not count.
        """
        if self.format.begin is not None:
            return ""
        end = None if self.format.end is None else self._tokenizer.id_to_token(self.format.end)
        if end is None or self.format.end not in self._special or end in (self.format.template or ""):
            raise ModelError(
                "the model has no known beginning-of-text token",
                where=self._where,
                code="no-begin-token",
            )
        return str(end)

    def stopping(self, stops: Sequence[str]) -> frozenset[int]:
        """Return the tokens that end an answer: the model's own, and the special tokens among `stops`.

        The latter do not appear in decoded text.
        """
        return frozenset(self.ends) | (self._special & {self._tokenizer.token_to_id(stop) for stop in stops})

    def encoded(self, text: str, *, begins: bool) -> list[int]:
        """Encode a text to token ids; `begins`: prepend the beginning-of-text token, unless the text starts with it."""
        ids, begin = self._encode(text), self.format.begin
        return ids if begin is None or not begins or ids[:1] == [begin] else [begin, *ids]

    def _encode(self, text: str) -> list[int]:
        with understood("the tokenizer", self._where):
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def beginning(self, text: str, tokens: int) -> str:
        """Return the part of a text covered by its first `tokens` tokens."""
        with understood("the tokenizer", self._where):
            offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return text if len(offsets) <= tokens else text[: offsets[tokens - 1][1]]

    def decode_answer(self, tokens: Sequence[int], stops: Sequence[str], behind: Sequence[int] = ()) -> str:
        """Decode an answer up to the first end token, and cut it before the first of `stops`.

        Args:
            behind: tokens of a text that the answer continues, so that a space between both is kept: decoders of
                SentencePiece tokenizers drop one at the beginning.
        """
        ends = self.stopping(stops)
        word = self._word if behind and behind[-1] not in self._special else []
        said = self.text([*word, *takewhile(lambda token: token not in ends, tokens)])
        return text_before(said.removeprefix(self.text(word)), stops)

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens, without special ones."""
        said: str = self._tokenizer.decode(list(tokens))
        return said


def cut_at(text: str, stops: Sequence[str]) -> str | None:
    """Return the text before the first of `stops`; None if none occurs."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else None


def text_before(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first of `stops`; all of it if none occurs."""
    cut = cut_at(text, stops)
    return text if cut is None else cut
