"""A model's tokenizer with all settings of its folder, as one `tokenizer.json` and a `TextFormat`.

The file is written from the tokenizer that transformers loads, so `tokenizer_config.json`, `special_tokens_map.json`
and `added_tokens.json` are respected; the preprocessing of sentence-transformers is read from its own files. `verify`
then verifies that both give the same ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from compress.core.artifacts import TASK, TOKENIZER, TOKENIZER_CONFIG
from compress.core.disk.reading import read_mapping
from compress.core.errors import ModelError
from compress.models.io.offline import offline
from compress.models.text.sentence_settings import NO_PREPROCESSING, SentenceSettings, read_sentence_settings
from compress.models.text.text_format import TextFormat
from compress.profile.model_checks.tokenizers import TOKENIZER_SETTING, tokenizer_missing_problem

Encode = Callable[[Sequence[str], int], list[list[int]]]
"""Texts and their maximum number of tokens -> the ids of each."""

PROBE_TEXTS = (
    *(
        "",
        " ",
        "a",
        "The Quick BROWN fox",
        "what's up?  don't CAN'T",
        "\ttab\nnew\r\nline  ",
        "  both ends  ",
    ),
    *("emoji 😀 🌱🌷 👩‍👩‍👧 🇩🇪 👍🏽", "東京タワー 日本語の庭 中国", "한국어", "العربية مرحبا", "שלום עולם"),
    *("हिन्दी ไทย", "Zéphyr café ÀÉÎÕÜ", "Ze\u0301phyr cafe\u0301 e\u0308", "straße ẞ İstanbul Œ", "ΣΑΣ ΟΔΟΣ"),
    *(
        "[CLS] [SEP] [MASK] [PAD] [UNK]",
        "[sep] <s> </s> <pad> <unk> <mask> <|endoftext|>",
        "x[SEP]y</s>z<mask>w",
    ),
    *(
        "\u00a0no\u00a0break\u00a0",
        "zero\u200bwidth\u200d\ufeff",
        "soft\u00adhyphen",
        "\u3000wide\u2003blanks",
    ),
    *(
        "\x00\x07\x1b[0m\x1c\x7f\ufffd",
        "１２３ ｶﾅ ﬁ Ⅷ ½",
        "$100.50 + 5 = 3^2 ~`|<>",
        "–—‘’“”…",
        "a_b_c @user #tag",
    ),
    *("x" * 300, "word " * 700, "\U00020000\U0002a700", "https://example.org/a?b=c&d=%20"),
)
"""Texts chosen to expose any difference between two tokenizers."""
_WHITESPACE_TEXTS = [
    f"{blank}a b{blank}"
    for blank in "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000"
]
"""A text surrounded by each kind of whitespace that Python strips."""
_SAMPLE_SIZE = 300
"""Number of training texts compared in addition."""
_SHORT_LENGTH = 12
"""Token limit of a second comparison, at which most texts are truncated."""
_UNLIMITED = 10**9
"""transformers represents "no limit" by a larger number than this."""


@dataclass(frozen=True)
class Tokenization:
    """A tokenizer with its text format.

    `text` is the content of `tokenizer.json`, without truncation and padding. `max_length`: the tokenizer's own limit
    of tokens per text, None without one. `reference` is the encoder that it must agree with; None for a file of our
    own.
    """

    text: str
    format: TextFormat
    max_length: int | None
    reference: Encode | None

    def tokenizer(self) -> Tokenizer:
        """Create the tokenizer from the file's content."""
        return Tokenizer.from_str(self.text)

    def verify(self, texts: Sequence[str], max_length: int, where: str) -> int:
        """Compare with the reference on odd texts and a sample of `texts`; returns how many texts were compared.

        They are compared at `max_length` and at a length that truncates most of them.

        Raises:
            ModelError: with the code `tokenizer-setting`, if ids differ.
        """
        if self.reference is None:
            return 0
        step = max(1, len(texts) // _SAMPLE_SIZE)
        probes = [*PROBE_TEXTS, *_added_token_texts(self.text), *texts[::step]]
        tokenizer = self.tokenizer()
        prepared = self.format.preprocess(probes)
        for length in {max_length, min(max_length, _SHORT_LENGTH)}:
            if length <= tokenizer.num_special_tokens_to_add(is_pair=False):
                continue
            tokenizer.enable_truncation(length, direction=self.format.truncation_side)
            own_ids = [one.ids for one in tokenizer.encode_batch(prepared)]
            reference_ids = self.reference(probes, length)
            for text, got, expected in zip(probes, own_ids, reference_ids, strict=True):
                if got != expected:
                    raise ModelError(
                        f"this tokenizer cannot be put into a bundle: transformers tokenizes {text[:60]!r} as "
                        f"{expected[:12]}, its file as {got[:12]}",
                        where=where,
                        hint=f"Load it with AutoTokenizer and save it in the folder as a plain tokenizer: "
                        f"`tokenizer.backend_tokenizer.save('{TOKENIZER}')`, without a {TOKENIZER_CONFIG}.",
                        code=TOKENIZER_SETTING,
                    )
        return len(probes)


def read_tokenization(folder: Path, *, sentences: bool) -> Tokenization:
    """Return the tokenization of a model folder.

    Args:
        sentences: the model embeds sentences: preprocess texts as sentence-transformers does, if the folder is one
            of it.

    Raises:
        ModelError: there is no tokenizer, it cannot be read, or a setting is not supported (`tokenizer-setting`).
    """
    if (
        (folder / TASK).is_file()
        and (folder / TOKENIZER).is_file()
        and not (folder / TOKENIZER_CONFIG).exists()
    ):
        return _read_own(folder)
    if (problem := tokenizer_missing_problem({file.name for file in folder.iterdir()})) is not None:
        # Without a vocabulary transformers would create an empty tokenizer.
        raise problem.error(str(folder))
    loaded = _load_with_transformers(folder)
    if not (folder / TOKENIZER_CONFIG).exists() and (folder / TOKENIZER).is_file():
        plain = PreTrainedTokenizerFast(tokenizer_file=str(folder / TOKENIZER))
        if getattr(loaded, "get_vocab", dict)() != plain.get_vocab():
            # The class is not declared, and the one that transformers infers from the model reads other files.
            loaded = plain
    settings = read_sentence_settings(folder) if sentences else NO_PREPROCESSING
    return from_transformers(loaded, str(folder), settings)


def from_transformers(
    tokenizer: Any, where: str, settings: SentenceSettings = NO_PREPROCESSING
) -> Tokenization:
    """Return the tokenization of a transformers tokenizer.

    Raises:
        ModelError: it is not from the `tokenizers` library, or has an unsupported setting.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelError(
            f"{type(tokenizer).__name__} is not a `tokenizers` tokenizer and cannot be put into a bundle",
            where=where,
            hint="Name a model whose tokenizer has a tokenizer.json.",
            code=TOKENIZER_SETTING,
        )
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    if getattr(tokenizer, "split_special_tokens", False):
        raise ModelError(
            "`split_special_tokens: true` is not supported: a tokenizer.json always parses special tokens in a "
            "text as such",
            where=where,
            code=TOKENIZER_SETTING,
        )
    truncation_side: Literal["left", "right"] = "left" if tokenizer.truncation_side == "left" else "right"
    declared_limit = tokenizer.model_max_length
    max_length = (
        int(declared_limit)
        if isinstance(declared_limit, (int, float)) and 0 < declared_limit < _UNLIMITED
        else None
    )

    def reference(texts: Sequence[str], length: int) -> list[list[int]]:
        processed = list(texts)
        if settings.strip:
            processed = [(settings.prefix + text).strip() for text in processed]
        if settings.lowercase:
            processed = [text.lower() for text in processed]
        encoded = tokenizer(processed, truncation=True, max_length=length, add_special_tokens=True)
        return [list(map(int, ids)) for ids in encoded["input_ids"]]

    if "token_type_ids" in tokenizer.model_input_names and any(backend.encode("a b").type_ids):
        raise ModelError(
            "it marks single texts with `token_type_ids` other than 0, but models here are always given 0",
            where=where,
            code=TOKENIZER_SETTING,
        )
    untruncated = Tokenizer.from_str(backend.to_str())
    untruncated.no_truncation()
    untruncated.no_padding()
    if untruncated.get_vocab() != backend.get_vocab():
        raise ModelError(
            "two of its tokens share an id, which a tokenizer.json cannot represent",
            where=where,
            code=TOKENIZER_SETTING,
        )
    strip = settings.strip and (settings.prefix != "" or _whitespace_matters(untruncated))
    format_ = TextFormat(settings.prefix, strip, settings.lowercase, truncation_side)
    return Tokenization(untruncated.to_str(), format_, settings.max_length or max_length, reference)


def _whitespace_matters(tokenizer: Tokenizer) -> bool:
    """Whether whitespace at the ends of a text changes its ids."""
    pairs = zip(
        tokenizer.encode_batch(_WHITESPACE_TEXTS),
        tokenizer.encode_batch([text.strip() for text in _WHITESPACE_TEXTS]),
        strict=True,
    )
    return any(one.ids != other.ids for one, other in pairs)


def _read_own(folder: Path) -> Tokenization:
    """Read the tokenizer of a folder written by one of our steps, without transformers, as its tokens may share ids."""
    body = read_mapping(folder / TOKENIZER)
    body["truncation"] = body["padding"] = None
    format_ = TextFormat.of(read_mapping(folder / TASK))
    text = json.dumps(body, ensure_ascii=False)
    try:
        Tokenizer.from_str(text)
    except Exception as error:
        # tokenizers raises bare `Exception` for a file that it cannot parse.
        raise ModelError(f"cannot read the tokenizer: {error}", where=str(folder)) from error
    return Tokenization(text, format_, None, None)


def _load_with_transformers(folder: Path) -> Any:
    """Load the tokenizer of a folder with transformers; no code from the folder is run."""
    try:
        with offline():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ModelError:
        raise
    except Exception as error:
        # tokenizers raises bare `Exception` for a file that it cannot parse.
        raise ModelError(f"cannot read the tokenizer: {error}", where=str(folder)) from error


def _added_token_texts(text: str) -> list[str]:
    """Return texts that contain the tokenizer's own added tokens."""
    added = [str(token["content"]) for token in json.loads(text).get("added_tokens") or []]
    return [f"one {token} two{token}three" for token in added[:200]]
