"""Text generation: prompts in, answers out, appended to a file so that a killed run can continue.

Local models generate in batches; servers are queried by `server.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from compress.core.artifacts import Artifact
from compress.core.disk.files import appending, digest_of, make_folder
from compress.core.errors import ModelError, first_line
from compress.core.forms import Framework
from compress.core.terminal.progress import Advance
from compress.generation.answers import Answer, known_answers, read_answers
from compress.generation.prompts import PromptCodec, cut_at
from compress.models.text.chat import Prompt
from compress.profile.specs.server import ServerSpec
from compress.runtimes.decoding import GREEDY, Decoder, Sampling, stream
from compress.runtimes.runner import CachedSession, open_session
from compress.store.locks import held

TOGETHER = 16
"""Generation batch size: larger ones gain little on a CPU."""
AHEAD = 16
"""Number of batches whose prompts are read ahead and sorted by length, so that a batch has similar lengths."""
_KEY_DIGITS = 16


@dataclass(frozen=True)
class GenerationSettings:
    """Generation settings.

    `most`: maximum new tokens; `stops`: strings, or special tokens, before which an answer is cut; `samples`:
    answers per prompt.
    """

    most: int
    sampling: Sampling = GREEDY
    stops: tuple[str, ...] = ()
    samples: int = 1


@dataclass(frozen=True)
class GenerationRequest:
    """A request for one answer."""

    key: str
    prompt: Prompt
    sample: int


def token_bound(one: GenerationRequest | Answer, how: GenerationSettings) -> int:
    """Return an upper bound on the tokens of a request: no tokenizer produces more tokens than a text has bytes."""
    return len(str(one.prompt).encode()) + how.most


def tokens_used(answer: Answer, how: GenerationSettings) -> int:
    """Return the tokens that an answer used; an upper bound if the server does not report them."""
    return sum(answer.used.values()) if answer.used else token_bound(answer, how)


def answers_file(folder: Path, model: Artifact | ServerSpec, how: GenerationSettings) -> Path:
    """Return the path in `folder` of the answers of a model with these settings: one file for all prompts."""
    said = {**asdict(how), "sampling": how.sampling._asdict(), "samples": None}
    return folder / f"{digest_of([model.digest, said])[:32]}.jsonl"


def key_of(prompt: Prompt, sample: int) -> str:
    """Return the key of an answer in its file."""
    plain = prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
    return digest_of([plain, sample])[:_KEY_DIGITS]


def write_answers(
    model: Artifact | ServerSpec,
    prompts: Iterable[Prompt],
    how: GenerationSettings,
    folder: Path,
    *,
    threads: int = 1,
    device: str = "cpu",
    together: int = TOGETHER,
    allow_code: bool = False,
    advance: Advance = lambda steps=1, note=None: None,
    spent: int = 0,
) -> Path:
    """Generate answers to prompts; those already in the file are not generated again.

    An answer depends on the model, the prompt, `how` and its sample number, but not on the other prompts or
    their order, except for floating-point differences between batch shapes. Memory does not grow with the
    prompts, except for some 100 bytes each.

    Args:
        model: a decoder, in ONNX or torch form, or a server, for which `threads` to `allow_code` are ignored.
        prompts: consumed lazily.
        folder: folder of the file.
        advance: called for each answer, including existing ones.
        spent: tokens already used elsewhere of the server's token limit.

    Returns:
        The file, for `read_answers`: it may contain answers to other prompts too.

    Raises:
        DataError: a prompt has no tokens, or is a conversation and the model has no chat template.
        ModelError: the model cannot be loaded, or a prompt is too long for it; a server rejects a request or
            does not answer.
        ResourceError: the token limit of a server is exhausted.
    """
    make_folder(folder)
    file = answers_file(folder, model, how)
    with held(file.with_suffix(".lock"), lambda: None):
        known, whole = known_answers(file)
        asked = _asked(prompts, how, known, advance)
        if isinstance(model, ServerSpec):
            from compress.generation.server import generate_remote

            answers = generate_remote(model, asked, how, read_answers(file), advance, spent)
        else:
            answers = _answers(
                model, asked, how, together, partial(_rows, model, threads, device, allow_code)
            )
        with appending(file, whole) as add, closing(answers):
            for answer in answers:
                add(answer.line())
                advance(1)
    return file


def _asked(
    prompts: Iterable[Prompt], how: GenerationSettings, known: set[int], advance: Advance
) -> Iterator[GenerationRequest]:
    """Yield the requests that have no answer yet, each once."""
    for prompt in prompts:
        for sample in range(how.samples):
            key = key_of(prompt, sample)
            if int(key, 16) in known:
                advance(1)
                continue
            known.add(int(key, 16))
            yield GenerationRequest(key, prompt, sample)


def _answers(
    model: Artifact,
    asked: Iterator[GenerationRequest],
    how: GenerationSettings,
    together: int,
    load: Callable[[], Any],
) -> Generator[Answer]:
    """Generate with a local model, block by block of prompts sorted by length."""
    writer, rows = PromptCodec(model.path), None
    read = _read(asked, writer)
    while block := list(itertools.islice(read, AHEAD * together)):
        rows = rows or load()
        block.sort(key=lambda one: len(one[1]))
        yield from _written(rows, block, how, writer, together, str(model.path))


def _read(
    asked: Iterator[GenerationRequest], writer: PromptCodec
) -> Iterator[tuple[GenerationRequest, list[int]]]:
    """Yield the requests with their token ids, which are shared by all samples of a prompt."""
    for prompt, samples in itertools.groupby(asked, key=lambda one: one.prompt):
        tokens = writer.tokens(prompt)
        for one in samples:
            yield one, tokens


def _rows(model: Artifact, threads: int, device: str, allow_code: bool) -> Any:
    """Load the model; return a function from a row's maximum length to the decoder for batched generation."""
    if model.form.framework is not Framework.TORCH:
        session = CachedSession(open_session(str(model.model_file), threads, device))
        return lambda room: Decoder(session, room)
    import torch
    from transformers import PreTrainedModel

    from compress.models.io.checkpoints import load_model
    from compress.models.io.low_bit import to_device
    from compress.runtimes.torch_rows import TorchRows

    torch.set_num_threads(threads)
    loaded = to_device(load_model(model.path, allow_code=allow_code).eval(), device)
    assert isinstance(loaded, PreTrainedModel)
    positions = loaded.config.max_position_embeddings

    def rows(room: int) -> TorchRows:
        # An ONNX decoder checks this itself.
        if room > positions:
            raise ModelError(
                f"a prompt and its answer have {room} tokens, but the model has only {positions} positions",
                where=str(model.path),
                code="too-long",
            )
        return TorchRows(loaded)

    return rows


def _written(
    rows: Any,
    block: list[tuple[GenerationRequest, list[int]]],
    how: GenerationSettings,
    writer: PromptCodec,
    together: int,
    where: str,
) -> Iterator[Answer]:
    """Yield the answers to a block, in order of completion."""
    tokens: list[list[int]] = [[] for _ in block]
    ends = writer.stopping(how.stops)
    tail = 4 * max(map(len, how.stops), default=0) + 4  # a character is at most four tokens

    def stopped(row: int, token: int) -> bool:
        return bool(how.stops) and cut_at(writer.text(tokens[row][-tail:]), how.stops) is not None

    longest = len(block[-1][1])
    drawn = stream(
        rows(longest + how.most),
        (prompt for _, prompt in block),
        how.most,
        tuple(ends),
        how.sampling,
        together,
        lambda row: [how.sampling.seed, int(block[row][0].key, 16)],
        stopped,
    )
    try:
        for row, token in drawn:
            asked, own = block[row][0], tokens[row]
            own.append(token)
            ended = token in ends
            stops = stopped(row, token)
            if not (ended or stops or len(own) == how.most):
                continue
            yield Answer(
                asked.key,
                asked.prompt,
                asked.sample,
                writer.decode_answer(own, how.stops, block[row][1] if isinstance(asked.prompt, str) else ()),
                own,
                "end" if ended else "stop" if stops else "length",
            )
    except RuntimeError as error:
        raise ModelError(
            f"the model cannot generate {how.most} tokens after a prompt of {longest}: {first_line(error)}",
            where=where,
            code="cannot-write",
        ) from error
