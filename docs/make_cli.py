"""Write docs/cli.md from the commands' own help; a test fails when the page is stale.

python docs/make_cli.py
"""

from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from neural_cleanse.cli.main import whole_program


def page() -> str:
    """The command line reference as Markdown."""
    command = whole_program()
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="neural-cleanse", title="Command line")
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip() + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(page(), encoding="utf-8")
