"""Chat templates: Jinja that comes with a model, so it is run in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compress.core.errors import ModelError
from compress.tasks.causal_lm.documents import Render


def renderer(template: str, special: Mapping[str, str], where: str) -> Render:
    """What turns messages into text as the model was taught.

    Args:
        template: Jinja, as `chat_template.jinja` or a tokenizer's config holds it.
        special: the special tokens that templates name: `bos_token`, `eos_token`.

    Raises:
        ModelError: when it is called: the template is no Jinja or refuses the messages.
    """

    def render(messages: Sequence[Mapping[str, str]], asks: bool) -> str:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered, _ = render_jinja_template(
                conversations=[[dict(message) for message in messages]],
                chat_template=template,
                add_generation_prompt=asks,
                **special,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise ModelError(
                f"the model's chat template cannot render a conversation: {error}",
                where=where,
                code="chat-template",
            ) from error
        return str(rendered[0])

    return render
