"""What every command has in common: how its help reads."""

import inspect
from typing import Any

import typer.core

from neural_cleanse.cli.options import COMMON


class Command(typer.core.TyperCommand):
    """Its help breaks lines where the terminal ends, and --help stands with the common options where there are any."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        paragraphs = inspect.cleandoc(self.help or "").split("\n\n")
        self.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)

    def get_help_option(self, ctx: Any) -> Any:
        """As typer makes it, in the first group."""
        option = super().get_help_option(ctx)
        if option is not None and any(getattr(known, "rich_help_panel", None) == COMMON for known in self.params):
            option.rich_help_panel = COMMON
        return option
