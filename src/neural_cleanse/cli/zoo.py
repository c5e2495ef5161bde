"""`neural-cleanse zoo`: build the models that a spec lists, and say what they are."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from neural_cleanse.cli.command import Command, Group
from neural_cleanse.errors import OutputError
from neural_cleanse.text import escape

app = typer.Typer(
    cls=Group, no_args_is_help=True, add_completion=False, help="Build many models with known answers, and show them."
)


@app.command(cls=Command)
def build(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="TOML file that lists the models.", show_default=False)],
    output: Annotated[Path, typer.Option(help="Directory for models and cards; what is there already stays.")],
    data: Annotated[Path, typer.Option(envvar="NEURAL_CLEANSE_DATA", help="Directory that holds the data sets.")],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes of one thread each. \\[default: one a core]")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "cpu",
    list_only: Annotated[bool, typer.Option("--list", help="Print names and parts, and build none.")] = False,
) -> None:  # fmt: skip
    """Build the models that are missing; repeat the command after a kill and it goes on.

    Exit code: 0 all are there, 2 one is not.

    Example: neural-cleanse zoo build benchmarks/zoo/small.toml --data DATA --output zoo/small
    """
    from neural_cleanse.classifier import device_named  # help loads nothing heavy
    from neural_cleanse.engines import Processes
    from neural_cleanse.evaluation import zoo
    from neural_cleanse.files import make_directory

    jobs = zoo.read_spec(spec, data)
    if list_only:
        for job in jobs:
            print(f"{zoo.part_of(job.name)}  {job.name}")
        return
    where = device_named(device)
    make_directory(output)
    todo = len(zoo.missing(jobs, output))
    console = Console(stderr=True, soft_wrap=True)
    console.print(f"{len(jobs)} models, {todo} to build", highlight=False)
    began, failed = time.monotonic(), 0
    engine = Processes(workers or os.cpu_count() or 1)
    for done, built in enumerate(zoo.build(jobs, output, engine, device=where), 1):
        failed += built.card is None
        left = (time.monotonic() - began) / done * (todo - done)
        text = (built.error or "").rstrip(".") if built.card is None else summary(built.card)
        console.print(
            f"{done} of {todo}  {escape(f'{built.name}: {text}')}; about {left / 60:.0f} min left",
            markup=False,
            highlight=False,
        )
    if failed:
        raise OutputError(
            f"{failed} of {todo} models were not built: see above.",
            cure="Mend what is said there and run the command again: what was built is kept.",
        )


def summary(card: Mapping[str, Any]) -> str:
    """Accuracy and attack success in a line."""
    rates = [one["asr"] for one in card["poisons"]]
    attack = f", attack success {min(rates):.1%}" if rates else ""
    return f"accuracy {card['clean_accuracy']:.1%}{attack}{' (weak)' if card['weak'] else ''}, {card['wall_s']:.0f} s"


@app.command(cls=Command)
def table(
    suite: Annotated[
        Path, typer.Argument(metavar="SUITE", help="Directory or .jsonl of model cards.", show_default=False)
    ],
) -> None:
    """Print a Markdown table of every attack and data set there: accuracy, drop against clean models, success.

    Exit code: 0 printed, 2 could not.
    """
    from neural_cleanse.evaluation.cards import measured_cards
    from neural_cleanse.evaluation.tables import zoo_table

    print(zoo_table(measured_cards(suite)).markdown(), end="")
