"""What of a profile cannot be exported as asked."""

from __future__ import annotations

from collections.abc import Iterator

from compress.core.artifacts import TOKENIZER
from compress.lowering.gguf.family import why_no_gguf
from compress.lowering.gguf.vocabulary import why_no_vocabulary
from compress.passes.export.spec import ExportSpec
from compress.profile.combination_checks import Found
from compress.profile.pass_checks import PassCheck
from compress.tasks.table import task_kind


def faults(check: PassCheck) -> Iterator[Found]:
    """The formats that the task or the model has not, below the pass."""
    spec = check.spec
    assert isinstance(spec, ExportSpec)
    if "gguf" not in spec.formats:
        return
    at = ("formats",)
    if not task_kind(check.profile.task).writes:
        yield at, f"GGUF is a format of language models, and {check.profile.task} is none"
        return
    config, tokenizer = check.files.config(check.model), check.files.json(check.model, TOKENIZER)
    reasons = (
        None if config is None else why_no_gguf(config),
        None if config is None or tokenizer is None else why_no_vocabulary(tokenizer, config["model_type"]),
    )
    yield from ((at, f"no GGUF of this model: {why}") for why in reasons if why is not None)
