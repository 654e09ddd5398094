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
from compress.generation.answers import Answer, index_answers, read_answers
from compress.generation.prompts import PromptCodec, before_stop
from compress.models.text.chat import Prompt
from compress.profile.specs.server import ServerSpec
from compress.runtimes.decoding import GREEDY, Decoder, Sampling, stream
from compress.runtimes.runner import CachedSession, open_session
from compress.store.locks import hold_lock

BATCH_SIZE = 16
"""Generation batch size: larger ones gain little on a CPU."""
PREFETCH_BATCHES = 16
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


def token_bound(request: GenerationRequest | Answer, settings: GenerationSettings) -> int:
    """Return an upper bound on the tokens of a request: no tokenizer produces more tokens than a text has bytes."""
    return len(str(request.prompt).encode()) + settings.most


def tokens_used(answer: Answer, settings: GenerationSettings) -> int:
    """Return the tokens that an answer used; an upper bound if the server does not report them."""
    return sum(answer.used.values()) if answer.used else token_bound(answer, settings)


def answers_file(folder: Path, model: Artifact | ServerSpec, settings: GenerationSettings) -> Path:
    """Return the path in `folder` of the answers of a model with these settings: one file for all prompts."""
    identity = {**asdict(settings), "sampling": settings.sampling._asdict(), "samples": None}
    return folder / f"{digest_of([model.digest, identity])[:32]}.jsonl"


def answer_key(prompt: Prompt, sample: int) -> str:
    """Return the key of an answer in its file."""
    plain = prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
    return digest_of([plain, sample])[:_KEY_DIGITS]


def write_answers(
    model: Artifact | ServerSpec,
    prompts: Iterable[Prompt],
    settings: GenerationSettings,
    folder: Path,
    *,
    threads: int = 1,
    device: str = "cpu",
    batch_size: int = BATCH_SIZE,
    allow_code: bool = False,
    advance: Advance = lambda steps=1, note=None: None,
    tokens_spent: int = 0,
) -> Path:
    """Generate answers to prompts; those already in the file are not generated again.

    An answer depends on the model, the prompt, `settings` and its sample number, but not on the other prompts or
    their order, except for floating-point differences between batch shapes. Memory does not grow with the
    prompts, except for some 100 bytes each.

    Args:
        model: a decoder, in ONNX or torch form, or a server, for which `threads` to `allow_code` are ignored.
        prompts: consumed lazily.
        folder: folder of the file.
        advance: called for each answer, including existing ones.
        tokens_spent: tokens already used elsewhere of the server's token limit.

    Returns:
        The file, for `read_answers`: it may contain answers to other prompts too.

    Raises:
        DataError: a prompt has no tokens, or is a conversation and the model has no chat template.
        ModelError: the model cannot be loaded, or a prompt is too long for it; a server rejects a request or
            does not answer.
        ResourceError: the token limit of a server is exhausted.
    """
    make_folder(folder)
    file = answers_file(folder, model, settings)
    with hold_lock(file.with_suffix(".lock"), lambda: None):
        known_keys, intact_size = index_answers(file)
        requests = _new_requests(prompts, settings, known_keys, advance)
        if isinstance(model, ServerSpec):
            from compress.generation.server import generate_remote

            answers = generate_remote(model, requests, settings, read_answers(file), advance, tokens_spent)
        else:
            answers = _generate_local(
                model,
                requests,
                settings,
                batch_size,
                partial(_load_decoder, model, threads, device, allow_code),
            )
        with appending(file, intact_size) as add, closing(answers):
            for answer in answers:
                add(answer.to_line())
                advance(1)
    return file


def _new_requests(
    prompts: Iterable[Prompt], settings: GenerationSettings, known_keys: set[int], advance: Advance
) -> Iterator[GenerationRequest]:
    """Yield the requests that have no answer yet, each once."""
    for prompt in prompts:
        for sample in range(settings.samples):
            key = answer_key(prompt, sample)
            if int(key, 16) in known_keys:
                advance(1)
                continue
            known_keys.add(int(key, 16))
            yield GenerationRequest(key, prompt, sample)


def _generate_local(
    model: Artifact,
    requests: Iterator[GenerationRequest],
    settings: GenerationSettings,
    batch_size: int,
    load: Callable[[], Any],
) -> Generator[Answer]:
    """Generate with a local model, block by block of prompts sorted by length."""
    codec, make_decoder = PromptCodec(model.path), None
    encoded = _with_token_ids(requests, codec)
    while block := list(itertools.islice(encoded, PREFETCH_BATCHES * batch_size)):
        make_decoder = make_decoder or load()
        block.sort(key=lambda one: len(one[1]))
        yield from _generate_block(make_decoder, block, settings, codec, batch_size, str(model.path))


def _with_token_ids(
    requests: Iterator[GenerationRequest], codec: PromptCodec
) -> Iterator[tuple[GenerationRequest, list[int]]]:
    """Yield the requests with their token ids, which are shared by all samples of a prompt."""
    for prompt, samples in itertools.groupby(requests, key=lambda one: one.prompt):
        tokens = codec.encode_prompt(prompt)
        for request in samples:
            yield request, tokens


def _load_decoder(model: Artifact, threads: int, device: str, allow_code: bool) -> Any:
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
    torch_model = to_device(load_model(model.path, allow_code=allow_code).eval(), device)
    assert isinstance(torch_model, PreTrainedModel)
    positions = torch_model.config.max_position_embeddings

    def rows(max_tokens: int) -> TorchRows:
        # An ONNX decoder checks this itself.
        if max_tokens > positions:
            raise ModelError(
                f"a prompt and its answer have {max_tokens} tokens, but the model has only {positions} positions",
                where=str(model.path),
                code="too-long",
            )
        return TorchRows(torch_model)

    return rows


def _generate_block(
    make_decoder: Any,
    block: list[tuple[GenerationRequest, list[int]]],
    settings: GenerationSettings,
    codec: PromptCodec,
    batch_size: int,
    where: str,
) -> Iterator[Answer]:
    """Yield the answers to a block, in order of completion."""
    generated_ids: list[list[int]] = [[] for _ in block]
    end_ids = codec.stop_ids(settings.stops)
    tail = 4 * max(map(len, settings.stops), default=0) + 4  # a character is at most four tokens

    def stopped(row: int, token: int) -> bool:
        return (
            bool(settings.stops)
            and before_stop(codec.decode(generated_ids[row][-tail:]), settings.stops) is not None
        )

    max_prompt_tokens = len(block[-1][1])
    generated = stream(
        make_decoder(max_prompt_tokens + settings.most),
        (prompt for _, prompt in block),
        settings.most,
        tuple(end_ids),
        settings.sampling,
        batch_size,
        lambda row: [settings.sampling.seed, int(block[row][0].key, 16)],
        stopped,
    )
    try:
        for row, token in generated:
            request, answer_ids = block[row][0], generated_ids[row]
            answer_ids.append(token)
            at_end = token in end_ids
            at_stop = stopped(row, token)
            if not (at_end or at_stop or len(answer_ids) == settings.most):
                continue
            yield Answer(
                request.key,
                request.prompt,
                request.sample,
                codec.decode_answer(
                    answer_ids, settings.stops, block[row][1] if isinstance(request.prompt, str) else ()
                ),
                answer_ids,
                "end" if at_end else "stop" if at_stop else "length",
            )
    except RuntimeError as error:
        raise ModelError(
            f"the model cannot generate {settings.most} tokens after a prompt of {max_prompt_tokens}: "
            f"{first_line(error)}",
            where=where,
            code="cannot-write",
        ) from error
