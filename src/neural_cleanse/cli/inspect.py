"""`neural-cleanse inspect`: what a model file is and holds, without scanning it and without running it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from neural_cleanse.cli import exit_codes
from neural_cleanse.errors import NeuralCleanseError


def inspect(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="Model file, or a Hugging Face directory; or many: a directory of models, or a pattern in quotes.",
            show_default=False,
        ),
    ],
    architecture: Annotated[
        str | None,
        typer.Option(
            help="Network of a file that holds weights only, by name; a wrong name lists all. No code is run."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of several sets of weights in one file, the one to read, for example model_ema.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON on stdout.")] = False,
) -> None:
    """Say what a model file is and holds, what in it would run, and what a scan could not see.

    Nothing of the file is run. Of many models it prints one row each. Exit code: 0 no findings, 1 findings, 2 could
    not read; of many models the worst: 1 over 2.

    Example: neural-cleanse inspect model.onnx
    """
    from neural_cleanse.cli.batch.models import is_batch

    if is_batch(model):
        raise typer.Exit(_inspect_many(model, architecture, as_json=as_json))
    from neural_cleanse.loading.inspection import inspect_model
    from neural_cleanse.report import inspection

    record = inspect_model(model, architecture, weights).as_record()
    if as_json:
        print(json.dumps(record, indent=2, allow_nan=False))
    else:
        inspection.show(record, Console())
    if record["findings"]:
        raise typer.Exit(exit_codes.FINDINGS)


def _inspect_many(where: Path, architecture: str | None, *, as_json: bool) -> int:
    """Inspect every model of a directory or pattern; the exit code."""
    from neural_cleanse.cli.batch.models import find
    from neural_cleanse.loading.inspection import inspect_model
    from neural_cleanse.report import inspection

    records: list[dict[str, Any]] = []
    for model in find(where):
        try:
            records.append(inspect_model(model.path, architecture).as_record())
        except NeuralCleanseError as error:  # one file that cannot be read hides no other
            records.append({"path": str(model.path), "error": str(error)})
    if as_json:
        print(json.dumps(records, indent=2, allow_nan=False))
    else:
        inspection.show_many(records, Console())
    if any(record.get("findings") for record in records):
        return exit_codes.FINDINGS
    return exit_codes.ERROR if any("error" in record for record in records) else exit_codes.OK
