"""Lets a model write: prompts in, answers out, into a file that a killed run goes on with.

A model on this machine writes in batches; one behind a server is asked by `server.py`.
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
from compress.generation.prompts import Writer, cut_at
from compress.models.text.chat import Prompt
from compress.profile.specs.server import ServerSpec
from compress.runtimes.decoding import GREEDY, Decoder, Sampling, stream
from compress.runtimes.runner import CachedSession, open_session
from compress.store.locks import held

TOGETHER = 16
"""Rows that are written at once: more of them gain little on a CPU."""
AHEAD = 16
"""So many times the rows of prompts are looked at together, so that those of like length are written at once."""
_KEY_DIGITS = 16


@dataclass(frozen=True)
class How:
    """How answers are written: `most` tokens each, drawn by `sampling`, ended before the first of `stops`, which may be
    special tokens too; `samples` of them to each prompt."""

    most: int
    sampling: Sampling = GREEDY
    stops: tuple[str, ...] = ()
    samples: int = 1


@dataclass(frozen=True)
class Asked:
    """One answer that is wanted."""

    key: str
    prompt: Prompt
    sample: int


def most_of(one: Asked | Answer, how: How) -> int:
    """Tokens that a request may take: no tokenizer makes more of a text than it has bytes."""
    return len(str(one.prompt).encode()) + how.most


def cost_of(answer: Answer, how: How) -> int:
    """Tokens that an answer took; where the server does not count them, those that it may have taken."""
    return sum(answer.used.values()) if answer.used else most_of(answer, how)


def answers_file(folder: Path, model: Artifact | ServerSpec, how: How) -> Path:
    """Where the answers of a model that are written this way stand in a folder: there is one file for all prompts."""
    said = {**asdict(how), "sampling": how.sampling._asdict(), "samples": None}
    return folder / f"{digest_of([model.digest, said])[:32]}.jsonl"


def key_of(prompt: Prompt, sample: int) -> str:
    """What an answer is known by in its file."""
    plain = prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
    return digest_of([plain, sample])[:_KEY_DIGITS]


def write_answers(
    model: Artifact | ServerSpec,
    prompts: Iterable[Prompt],
    how: How,
    folder: Path,
    *,
    threads: int = 1,
    device: str = "cpu",
    together: int = TOGETHER,
    allow_code: bool = False,
    advance: Advance = lambda steps=1, note=None: None,
    spent: int = 0,
) -> Path:
    """Let a model answer prompts; those that were answered in this way before are not answered again.

    An answer hangs on the model, the prompt, `how`, and which of the samples it is: not on the prompts beside it, nor
    on their order, but for the last bits of what a product of several rows comes to. The memory that it takes does not
    grow with the prompts, but for some 100 bytes each.

    Args:
        model: a decoder, in ONNX or in torch form, or a server, which `threads` to `allow_code` mean nothing to.
        prompts: taken a few at a time.
        folder: where the file is, or will be.
        advance: told of each answer, those included that were there.
        spent: of the tokens that a server may be asked for, those that were used elsewhere.

    Returns:
        The file, for `read_answers`: it may hold answers to other prompts too.

    Raises:
        DataError: a prompt has no token, or is a conversation that the model cannot take.
        ModelError: the model cannot be loaded, or a prompt is too long for it; of a server, it refuses or is silent.
        ResourceError: no more may be asked of a server.
    """
    make_folder(folder)
    file = answers_file(folder, model, how)
    with held(file.with_suffix(".lock"), lambda: None):
        known, whole = known_answers(file)
        asked = _asked(prompts, how, known, advance)
        if isinstance(model, ServerSpec):
            from compress.generation.server import answers_of

            answers = answers_of(model, asked, how, read_answers(file), advance, spent)
        else:
            answers = _answers(
                model, asked, how, together, partial(_rows, model, threads, device, allow_code)
            )
        with appending(file, whole) as add, closing(answers):
            for answer in answers:
                add(answer.line())
                advance(1)
    return file


def _asked(prompts: Iterable[Prompt], how: How, known: set[int], advance: Advance) -> Iterator[Asked]:
    """What is not known yet, each once."""
    for prompt in prompts:
        for sample in range(how.samples):
            key = key_of(prompt, sample)
            if int(key, 16) in known:
                advance(1)
                continue
            known.add(int(key, 16))
            yield Asked(key, prompt, sample)


def _answers(
    model: Artifact, asked: Iterator[Asked], how: How, together: int, load: Callable[[], Any]
) -> Generator[Answer]:
    """The answers of a model on this machine, a block of like lengths after the other."""
    writer, rows = Writer(model.path), None
    read = _read(asked, writer)
    while block := list(itertools.islice(read, AHEAD * together)):
        rows = rows or load()
        block.sort(key=lambda one: len(one[1]))
        yield from _written(rows, block, how, writer, together, str(model.path))


def _read(asked: Iterator[Asked], writer: Writer) -> Iterator[tuple[Asked, list[int]]]:
    """What is asked with its tokens, which are the same for all samples."""
    for prompt, samples in itertools.groupby(asked, key=lambda one: one.prompt):
        tokens = writer.tokens(prompt)
        for one in samples:
            yield one, tokens


def _rows(model: Artifact, threads: int, device: str, allow_code: bool) -> Any:
    """From the room of a row to what grows rows of tokens."""
    if model.form.framework is not Framework.TORCH:
        session = CachedSession(open_session(str(model.model_file), threads, device))
        return lambda room: Decoder(session, room)
    import torch
    from transformers import PreTrainedModel

    from compress.models.io.checkpoints import load_model
    from compress.models.io.low_bit import moved
    from compress.runtimes.torch_rows import TorchRows

    torch.set_num_threads(threads)
    loaded = moved(load_model(model.path, allow_code=allow_code).eval(), device)
    assert isinstance(loaded, PreTrainedModel)
    positions = loaded.config.max_position_embeddings

    def rows(room: int) -> TorchRows:
        # An ONNX file says so itself.
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
    block: list[tuple[Asked, list[int]]],
    how: How,
    writer: Writer,
    together: int,
    where: str,
) -> Iterator[Answer]:
    """The answers to a block, as each ends."""
    tokens: list[list[int]] = [[] for _ in block]
    ends = writer.stopping(how.stops)
    tail = 4 * max(map(len, how.stops), default=0) + 4  # a letter is four tokens at most

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
                writer.said(own, how.stops),
                own,
                "end" if ended else "stop" if stops else "length",
            )
    except RuntimeError as error:
        raise ModelError(
            f"the model cannot generate {how.most} tokens after a prompt of {longest}: {first_line(error)}",
            where=where,
            code="cannot-write",
        ) from error
