"""How is a page put together from its template, its style and its scripts, so that nothing in a name can act?

Jinja2 escapes what stands in the text. What the scripts read is JSON in which no character can end its element. And a
content security policy lets only the page's own scripts run, by their hashes, and reach nothing outside of it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from darklens.plots.style import COLOURS

UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def embed_json(value: Any) -> str:
    """JSON in ASCII that may stand in a script element: it holds no <, > or &."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return "".join(UNSAFE.get(character, character) for character in text) if UNSAFE.keys() & set(text) else text


def render(name: str, style: Sequence[str], scripts: Sequence[str], values: dict[str, Any]) -> bytes:
    """The page of the template `name`, in UTF-8; style, scripts: files that go into it, one after the other.

    values: for the template, which escapes all of them but those of type Markup.
    """
    from markupsafe import Markup

    style_text = "\n".join(map(_read, style))
    script_text = '"use strict";\n' + "\n".join(map(_read, scripts)) if scripts else ""
    none = "'none'"
    policy = (
        f"default-src {none}; img-src data: file: 'self'; style-src {_hash(style_text)}; "
        f"script-src {_hash(script_text) if scripts else none}; base-uri {none}; form-action {none}"
    )
    page = _environment().get_template(name)
    text = page.render(policy=policy, style=Markup(style_text), script=Markup(script_text), **values)
    return text.encode("utf-8", "backslashreplace")


def class_colours(count: int) -> list[str]:
    """Class k has the same colour on pages as in pictures."""
    return [f"#{COLOURS[k % len(COLOURS)]}" for k in range(count)]


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return (resources.files("darklens.page") / "templates" / name).read_text(encoding="utf-8")


@functools.cache
def _environment():
    """Jinja2, which escapes by default; taken along only where a page is written."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
