"""What mkdocs does not know by itself: the README is the first page, links into the repository lead into the site, and
the reference of the Python interface is made of its docstrings.

On GitHub pages of docs/ link to files above them, and the README into docs/; here all of them lie in one folder.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

import neural_cleanse

ROOT = Path(__file__).parents[1]
LINE = 76  # characters that a signature has beside its name
PAGES = {"README.md": "index.md"} | {
    name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
}
INTO_DOCS = re.compile(r"(\]\(|\bsrc=\"|\bsrcset=\")docs/")
ABOVE_DOCS = re.compile(r"(\]\()\.\./")
LINKED = re.compile(r"\]\((?:\.\./)?((?:action\.yml|LICENSE|(?:examples|src|benchmarks)/)[^)#\s]*)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages above docs/, and every file of the repository that a page links."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
    for name, uri in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        texts.append(text)
        files.append(File.generated(config, uri, content=text))
    for linked in sorted({found for text in texts for found in LINKED.findall(text)}):
        # Shown as they are: a page of its own would be in no menu.
        uri = linked.replace(".md", ".md.txt")
        files.append(File.generated(config, uri, content=(ROOT / linked).read_text(encoding="utf-8")))
    files.append(File.generated(config, "api.md", content="\n".join(reference())))
    return files


def reference() -> Iterator[str]:
    """A page of every public name with its signature and docstring, and of the methods that classes of ours have."""
    yield "# Python reference\n\nWhat `import neural_cleanse as nc` gives. See also [from Python](python.md).\n"
    for name in sorted(neural_cleanse.__all__, key=str.lower):
        value = getattr(neural_cleanse, name)
        if inspect.ismodule(value):
            names = ", ".join(f"`{one}`" for one in value.__all__)
            yield f"## {name}\n\n{_words(value)}\n\nHolds {names}.\n"
        elif inspect.isclass(value) or callable(value):
            yield from _entry("##", name, value)
            for method, function in sorted(vars(value).items()) if inspect.isclass(value) else ():
                plain = getattr(function, "__func__", function)
                if not method.startswith("_") and inspect.isfunction(plain) and plain.__doc__:
                    yield from _entry("###", f"{name}.{method}", plain)


def _entry(level: str, name: str, value: Any) -> Iterator[str]:
    yield f"{level} {name}\n\n```text\n{name}{_signature(value)}\n```\n\n{_words(value)}\n"


def _signature(value: Any) -> str:
    """In one line, or a parameter a line; names of ours without their modules."""
    try:
        signature = inspect.signature(value)
    except ValueError:  # an enumeration is called with its values
        return ""
    whole = _short(str(signature))
    if len(whole) <= LINE:
        return whole
    lines, starred = [], False
    for parameter in signature.parameters.values():
        starred = starred or parameter.kind is inspect.Parameter.VAR_POSITIONAL
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            lines, starred = [*lines, "    *,\n"], True
        lines.append(f"    {_short(str(parameter))},\n")
    return f"(\n{''.join(lines)})" + whole.rpartition(")")[2]


def _short(text: str) -> str:
    plain = re.sub(r"<(\w+\.\w+): [^>]*>", r"\1", re.sub(r"\*?<class '([\w.]+)'>", r"\1", text))
    return re.sub(r"\b(?:neural_cleanse|collections|typing|pathlib|torch|jaxtyping)\.(?:\w+\.)*(\w+)", r"\1", plain)


def _words(value: Any) -> str:
    """The docstring; of a generated one nothing is left."""
    words = inspect.getdoc(value) or ""
    return "" if words.startswith(f"{getattr(value, '__name__', '')}(") else words


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links as they are inside the site."""
    inside = ABOVE_DOCS.sub(r"\1", INTO_DOCS.sub(r"\1", markdown)).replace("](README.md", "](index.md")
    return LINKED.sub(lambda found: found.group().replace(".md", ".md.txt"), inside)
