"""The specs of `quantize`, as a profile gives them."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from compress.passes.quantize.products import QuantizeBody

_BODY: TypeAdapter[Any] = TypeAdapter(QuantizeBody)


def quantize_spec(body: Any) -> Any:
    """The product that the body of `quantize` asks for."""
    return _BODY.validate_python(body)
