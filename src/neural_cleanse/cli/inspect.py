"""`neural-cleanse inspect`: what a model file is and holds, without scanning it and without running it."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from neural_cleanse.cli import exit_codes, options
from neural_cleanse.loading.architecture import NAMES
from neural_cleanse.loading.inspection import inspect_model
from neural_cleanse.report import inspection


def inspect(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Model file, or a Hugging Face directory.", show_default=False)
    ],
    architecture: Annotated[
        str | None,
        typer.Option(help=f"For weights alone: {', '.join(NAMES)}; nobody's code is run."),
    ] = None,
    weights: options.Weights = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON on stdout.")] = False,
) -> None:
    """Say what a model file is and holds, what in it would run, and what a scan could not see.

    Nothing of the file is run. Exit code: 0 no findings, 1 findings, 2 could not read.

    Example: neural-cleanse inspect model.onnx
    """
    record = inspect_model(model, architecture, weights).as_record()
    if as_json:
        print(json.dumps(record, indent=2, allow_nan=False))
    else:
        inspection.show(record, Console())
    if record["findings"]:
        raise typer.Exit(exit_codes.FINDINGS)
