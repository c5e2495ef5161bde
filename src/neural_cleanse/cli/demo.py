"""`neural-cleanse demo`: scan an infected digit classifier and its clean counterpart, both shipped with the package."""

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from neural_cleanse.cli import exit_codes, recorded
from neural_cleanse.cli.options import Inputs

if TYPE_CHECKING:
    from neural_cleanse.results.records import ScanResult

MODELS = ("infected", "clean")


def demo(
    output: Annotated[Path, typer.Option(help="Where the two reports go.")] = Path("neural-cleanse-demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo there.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "cpu",
) -> None:
    """Scan two models that ship with us.

    Two small digit classifiers, one with a backdoor. Exit code: 0 both answers match their cards, 1 one does not, 2
    could not scan.
    """
    from neural_cleanse.classifier import device_named  # help loads nothing heavy
    from neural_cleanse.cli.inputs import run_info_of
    from neural_cleanse.cli.progress import watching
    from neural_cleanse.detection.scan import scan
    from neural_cleanse.detection.settings import ScanSettings
    from neural_cleanse.loading.images.load import load_data
    from neural_cleanse.loading.load import load_model
    from neural_cleanse.report import output_dir, terminal

    console = Console()
    where = device_named(device)
    right = True
    with (
        output_dir.claimed(output / MODELS[0], overwrite=overwrite),
        output_dir.claimed(output / MODELS[1], overwrite=overwrite),
        as_file(files("neural_cleanse.demo")) as shipped,
    ):
        images = load_data(shipped / "digits.npz")
        for name in MODELS:
            console.rule(f"{name} model")
            loaded = load_model(shipped / f"{name}.safetensors")
            with watching(quiet=False, log_json=False) as sink:
                model = loaded.classifier.to(where)
                result = scan(model, images, ScanSettings(), run_info=run_info_of(loaded), progress=sink)
            output_dir.write(result, output / name)
            recorded.write(output / name, Inputs(), shipped / "digits.npz")
            terminal.show(result, console, output / name)
            card = json.loads((shipped / f"{name}.card.json").read_text(encoding="utf-8"))
            right &= _report_truth(console, result, card)
            console.print(f"report: {output / name / output_dir.REPORT_FILE}\n", highlight=False, soft_wrap=True)
    if not right:
        raise typer.Exit(exit_codes.WRONG)


def _report_truth(console: Console, result: "ScanResult", card: dict[str, Any]) -> bool:
    """Say whether the verdict is the card's."""
    from neural_cleanse.results.records import Verdict

    expected = Verdict.INFECTED if card["infected"] else Verdict.CLEAN
    right = result.verdict is expected and list(result.flagged) == card["targets"]
    truth = f"a backdoor to label {card['targets'][0]}" if card["infected"] else "no backdoor"
    console.print(f"The card says: {truth}. The scan is [bold]{'right' if right else 'WRONG'}[/].")
    return right
