"""What every command has in common: how its help reads."""

import inspect
import sys
from typing import Any

import typer.core

from neural_cleanse.cli.exit_codes import INTERRUPTED
from neural_cleanse.cli.options import COMMON

HELP_ALL = "--help-all"
# What an interruption leaves, of commands that go on; the others begin again.
GOES_ON = {
    "scan": "with --output, what was finished is kept, and the same command goes on with --resume",
    "attack": "the same command goes on from the last epoch that was finished",
    "build": "finished models are kept, and the same command goes on",
    "benchmark": "finished models are kept, and the same command goes on",
}
BEGINS_AGAIN = "nothing is kept, and the same command begins again"


class _FlagsWithoutType:
    """Mixin of typer's commands and groups, whose help writes <bool> beside a flag, as if it took a value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """As typer has them; a flag shows no type."""
        options: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # typer's class stands behind this one
        for option in options:
            if getattr(option, "is_flag", False):
                option.metavar = ""
        return options


class Group(_FlagsWithoutType, typer.core.TyperGroup):
    """Commands under one name, with help as that of each."""


class Command(_FlagsWithoutType, typer.core.TyperCommand):
    """Its help breaks lines where the terminal ends.

    Where there are common options, --help stands with them and shows no others; --help-all shows every option.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        paragraphs = inspect.cleandoc(self.help or "").split("\n\n")
        self.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        options: list[Any] = [known for known in self.params if known.param_type_name == "option"]
        further = [option for option in options if option.rich_help_panel != COMMON and not option.hidden]
        self._further = further if len(further) < len(options) else []

    def get_help_option_names(self, ctx: Any) -> list[str]:
        """As typer has them, and --help-all where there is more to show."""
        return [*super().get_help_option_names(ctx), *([HELP_ALL] if self._further else [])]

    def get_help_option(self, ctx: Any) -> Any:
        """As typer makes it; with the common options, where there are any."""
        option = super().get_help_option(ctx)
        if option is not None and self._further:
            option.rich_help_panel = COMMON
            option.help = f"Show this message and exit; {HELP_ALL} shows {len(self._further)} more options."
        return option

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer does it, once it is known which help is asked for."""
        ctx.meta[HELP_ALL] = HELP_ALL in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """As typer does it; an interruption says what is left of the work."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            sys.stderr.write(f"interrupted: {GOES_ON.get(ctx.info_name, BEGINS_AGAIN)}\n")
            raise typer.Exit(INTERRUPTED) from interrupt

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The common options alone, unless all are asked for."""
        folded = [] if ctx.meta.get(HELP_ALL) else self._further
        try:
            for option in folded:
                option.hidden = True
            super().format_help(ctx, formatter)
        finally:
            for option in folded:
                option.hidden = False
