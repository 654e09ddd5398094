"""Profile checks: requested formats that cannot be exported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compress.core.artifacts import TOKENIZER
from compress.lowering.genai_tokenizer import why_not_genai
from compress.lowering.gguf.family import why_not_gguf
from compress.lowering.gguf.vocabulary import why_not_vocabulary
from compress.models.anatomy.table.family import Config
from compress.passes.export.spec import LANGUAGE_FORMATS, ExportSpec
from compress.profile.combination_checks import KeyFault
from compress.profile.pass_checks import PassCheck
from compress.tasks.table import task_kind


def faults(check: PassCheck) -> Iterator[KeyFault]:
    """Yield formats that the task or model does not support, as keys below the pass and messages."""
    spec = check.spec
    assert isinstance(spec, ExportSpec)
    formats = [name for name in LANGUAGE_FORMATS if name in spec.formats]
    if formats and not task_kind(check.profile.task).generates:
        yield (
            ("formats",),
            f"{' and '.join(formats)} {'is a format' if len(formats) == 1 else 'are formats'} for language models, not "
            f"for {check.profile.task}",
        )
        return
    tokenizer = check.files.json(check.model, TOKENIZER)
    for name in formats:
        yield from (
            (("formats",), f"{name} cannot be written for this model: {why}")
            for why in (_model_fault(name, check.config), _tokenizer_fault(name, tokenizer, check.family))
            if why is not None
        )


def _model_fault(name: str, config: Config | None) -> str | None:
    return why_not_gguf(config) if name == "gguf" and config is not None else None


def _tokenizer_fault(name: str, tokenizer: dict[str, Any] | None, family: str | None) -> str | None:
    if tokenizer is None:
        return None
    return why_not_genai(tokenizer) if name == "genai" else why_not_vocabulary(tokenizer, str(family))
