"""HTML pages: one design for all of them, self-contained, with nothing loaded from elsewhere."""

import base64
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def render(template: str, **values: Any) -> str:
    """Render a template of `templates/`; values are escaped unless they are `Markup`, but not in Markdown.

    Raises:
        jinja2.UndefinedError: the template uses a value that was not passed.
    """
    return _environment().get_template(template).render(**values)


def data_uri(content: bytes, media_type: str) -> str:
    """Encode bytes as a data: URI, for pages without other files."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mmgenre", "pages/templates"),
        autoescape=select_autoescape(disabled_extensions=("md",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment
