"""Fill a template of this folder: everything is escaped, and nothing hides or turns the text around it."""

from importlib.resources import files

import jinja2
from markupsafe import Markup

from neural_cleanse.text import escape


def render(name: str, /, **values: object) -> str:
    """The template `name` of this package with these values. A value that is missing raises jinja2's UndefinedError."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_visible,
        loader=jinja2.FunctionLoader(_text_of),
    )  # fmt: skip
    return environment.get_template(name).render(**values)


def _text_of(name: str) -> str:
    return files("neural_cleanse.report").joinpath(name).read_text("utf-8")


def _visible(value: object) -> object:
    """Names, paths and notes come from strangers: control characters in them are shown, not sent."""
    if isinstance(value, Markup):  # tables and charts of ours, in lines
        return Markup("\n".join(map(escape, value.split("\n"))))
    return escape(value) if isinstance(value, str) else value
