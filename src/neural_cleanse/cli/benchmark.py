"""`neural-cleanse benchmark`: scan models whose answer is known, and say how often the scan is wrong."""

import os
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from neural_cleanse.choices import PARTS, Plan, Preset
from neural_cleanse.text import escape


class Part(StrEnum):
    """Which models of the suite."""

    every = "all"
    choosing = PARTS[0]
    final = PARTS[1]


def benchmark(
    suite: Annotated[Path, typer.Argument(metavar="SUITE", help="Directory or .jsonl of model cards.", show_default=False)],
    data: Annotated[Path, typer.Option(envvar="NEURAL_CLEANSE_DATA", help="Directory that holds the data sets by name.")],
    rows: Annotated[Path, typer.Option(help="JSON lines, one a model and setting; what is there already is not scanned again.")],
    models: Annotated[Path | None, typer.Option(help="Where the models are. \\[default: beside their cards]")] = None,
    part: Annotated[Part, typer.Option(help="Choose methods on one part, report on the other.")] = Part.every,
    preset: Annotated[Preset, typer.Option(help="As in scan.")] = Preset.DEFAULT,
    plan: Annotated[Plan, typer.Option(help="As in scan.")] = Plan.AUTO,
    restarts: Annotated[int | None, typer.Option(min=1, help="As in scan. \\[default: the preset's]")] = None,
    samples: Annotated[int, typer.Option(min=1, help="As in scan.")] = 1000,
    alpha: Annotated[float, typer.Option(help="As in scan.")] = 0.01,
    seed: Annotated[int, typer.Option(min=0, help="As in scan.")] = 0,
    patches_only: Annotated[bool, typer.Option("--patches-only", help="As in scan.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes of one thread each. \\[default: one a core]")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the tables, with charts, as a page.")] = None,
    allow_code: Annotated[bool, typer.Option("--allow-code", help="Run the architecture files that cards name.")] = False,
) -> None:  # fmt: skip
    """Scan a suite of models with known answers; count the errors.

    Prints the error rates as Markdown. Models that --rows has need not be there.

    Exit code: 0 tabulated, 2 could not.

    Example: neural-cleanse benchmark benchmarks/zoo/small.jsonl --data DATA --rows benchmarks/results/scans_sequential.jsonl --part final --patches-only
    """
    from neural_cleanse.detection.settings import ScanSettings  # help loads nothing heavy
    from neural_cleanse.engines import Processes
    from neural_cleanse.evaluation import page as rates_page
    from neural_cleanse.evaluation import suite as runner
    from neural_cleanse.evaluation.cards import CARD_SUFFIX
    from neural_cleanse.evaluation.tables import markdown
    from neural_cleanse.files import refuse_unwritable, write_named

    settings = ScanSettings(
        preset=preset.value, plan=plan.value, restarts=restarts, samples=samples, alpha=alpha, seed=seed,
        patches_only=patches_only,
    )  # fmt: skip
    cases = runner.read_suite(
        suite, data, models=models, allow_code=allow_code, part=None if part is Part.every else part.value,
        recorded={row["model"] for row in runner.rows_of(rows, settings)},
    )  # fmt: skip
    if html is not None:
        cards = [suite] if suite.is_file() else suite.glob(f"**/*{CARD_SUFFIX}")
        refuse_unwritable(html, streams=True, read=[rows, *cards, *(case.model for case in cases)])
    console = Console(stderr=True, soft_wrap=True)
    began = time.monotonic()
    engine = Processes(workers or os.cpu_count() or 1)
    for done, row in enumerate(runner.run(cases, settings, rows, engine), 1):
        text = row.get("error") or f"{row['verdict']} {row['flagged']}, truth {row['truth']['targets'][:10]}"
        spent = time.monotonic() - began
        said = escape(f"{row['model']}: {text}")
        console.print(f"{done}  {said}; {spent:.0f} s so far", markup=False, highlight=False)
    names = {case.name for case in cases}
    found = [row for row in runner.rows_of(rows, settings) if row["model"] in names]
    print(markdown(found), end="")
    if html is not None:
        write_named(html, rates_page.html(found).encode())
