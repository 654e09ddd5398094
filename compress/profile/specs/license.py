"""Licences of training on model outputs: the user names and confirms them, and some are known to forbid it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from compress.core.spec import PassSpecBase


@dataclass(frozen=True)
class ForbiddingTerms:
    """Terms that forbid training other models on a model's outputs.

    Attributes:
        licenses, models: patterns of licence and model names, in lower case.
        clause: the clause, as read on 2026-11-30.
        source: where the clause is published.
        exempts_derived: models made from that model are exempt.
    """

    vendor: str
    licenses: str
    models: str
    clause: str
    source: str
    exempts_derived: bool = False


KNOWN_TERMS = (
    ForbiddingTerms(
        "OpenAI",
        r"openai.*",
        r"(openai/)?(gpt-[3-9].*|chatgpt.*|o[1-9](-.*)?|text-davinci.*)",
        "use Output to develop models that compete with OpenAI",
        "https://openai.com/policies/row-terms-of-use/",
    ),
    ForbiddingTerms(
        "Anthropic",
        r"(anthropic|claude).*",
        r"(anthropic[/.])?claude.*",
        "build a competing product or service, including to train competing AI models",
        "https://www.anthropic.com/legal/commercial-terms (D.4)",
    ),
    ForbiddingTerms(
        "Google",
        r"(google-)?gemini.*",
        r"(google/|models/)?gemini.*",
        "use the Services to develop models that compete with the Services",
        "https://ai.google.dev/gemini-api/terms",
    ),
    ForbiddingTerms(
        "xAI",
        r"(xai|grok).*",
        r"(x-?ai(-org)?/)?grok(?!-?1\b).*",
        "using the Service or any Output to develop models or services that compete with xAI",
        "https://x.ai/legal/terms-of-service",
    ),
    ForbiddingTerms(
        "Meta",
        r"llama-?[23](-community)?",
        r"(meta-llama/)?(meta-)?llama-?[23](-.*)?",
        "use ... any output or results of the Llama Materials to improve any other large language model",
        "the Llama 2 and Llama 3 Community License (1.b.v); those of 3.1 and later allow it",
        exempts_derived=True,
    ),
    ForbiddingTerms(
        "Tencent",
        r"tencent-hunyuan.*",
        r"tencent/hunyuan.*",
        "use ... any Output or results of the Tencent Hunyuan Works to improve any other large language model",
        "the Tencent Hunyuan Community License (5.b)",
        exempts_derived=True,
    ),
)


def forbidding_terms(license_name: str, model: str) -> ForbiddingTerms | None:
    """Return the known terms, by licence or model name, that forbid training other models on a model's outputs."""
    license_name = re.sub(r"[\s_]+", "-", license_name.strip().lower())
    for terms in KNOWN_TERMS:
        if re.fullmatch(terms.licenses, license_name) or re.fullmatch(terms.models, model.strip().lower()):
            return terms
    return None


def why_forbidden(license_name: str | None, model: str, *, derived: bool = False) -> str | None:
    """Return why other models must not be trained on a model's outputs; None if no known terms forbid it.

    Args:
        derived: the model to be trained is made from that model.
    """
    terms = forbidding_terms(license_name or "", model)
    if terms is None or (terms.exempts_derived and derived):
        return None
    exception = ", except those made from it" if terms.exempts_derived else ""
    return (
        f"{terms.vendor} forbids training other models on what its models write{exception}: users must not "
        f'"{terms.clause}" '
        f"({terms.source}); take a teacher whose licence allows it"
    )


class LicensedSpec(PassSpecBase):
    """A training on what a model writes, which its licence must allow."""

    license: Annotated[str, Field(min_length=1)] | None = None
    """Required: licence of the model that writes, by name (`apache-2.0`); recorded in the model card and the report."""
    license_ok: bool = False
    """Must be `true`: confirms that you have read the licence and that it allows models to be trained on this model's
    output."""

    @model_validator(mode="after")
    def _check_license(self) -> LicensedSpec:
        if self.license is None or not self.license_ok:
            raise ValueError(
                "training on what a model writes needs a licence that allows it: name the licence "
                "(`license: apache-2.0`) and confirm that you have read that it does (`license_ok: true`)"
            )
        return self
