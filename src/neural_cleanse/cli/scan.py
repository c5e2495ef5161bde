"""`neural-cleanse scan`: from a model file and clean images to a verdict with evidence."""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from neural_cleanse import storage
from neural_cleanse.architectures import ARCHITECTURES
from neural_cleanse.classifier import device_named
from neural_cleanse.cli import options
from neural_cleanse.cli.progress import ProgressLine
from neural_cleanse.data import ImageSet
from neural_cleanse.loading.load import LoadedModel, load_model
from neural_cleanse.readers.load import load_data
from neural_cleanse.records import ScanResult, Verdict
from neural_cleanse.report import directory, terminal
from neural_cleanse.scan import ScanSettings, Surroundings
from neural_cleanse.scan import scan as run_scan

EXIT_CODE = {Verdict.CLEAN: 0, Verdict.INFECTED: 1, Verdict.INCONCLUSIVE: 3}
MODEL, DATA, METHOD, RESULT = "The model", "The images", "The search", "The result"


class Preset(StrEnum):
    """Names of the presets."""

    default = "default"
    reference = "reference"


class Loss(StrEnum):
    """Names of the losses."""

    ce = "ce"
    swapped = "swapped"


class Crop(StrEnum):
    """Names of the crops."""

    roi = "roi"


def scan(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model file: safetensors or a PyTorch state_dict.", show_default=False)],
    data: Annotated[
        Path,
        typer.Option(help="Clean images: a folder, an .npz file, or parquet (file or folder).", rich_help_panel=DATA),
    ],
    architecture: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(sorted(ARCHITECTURES))}, or FILE.py:FUNCTION with --allow-code; files that we wrote need none.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    allow_code: Annotated[bool, typer.Option("--allow-code", help="Run the architecture file's code.", rich_help_panel=MODEL)] = False,
    mean: Annotated[str | None, typer.Option(help="Mean the model expects subtracted: one number, or one a channel.", rich_help_panel=MODEL)] = None,
    std: Annotated[str | None, typer.Option(help="Standard deviation it expects divided by.", rich_help_panel=MODEL)] = None,
    scale: Annotated[float | None, typer.Option(help="255 for a model that takes raw 0-255 values.", rich_help_panel=MODEL)] = None,
    resize: Annotated[str | None, typer.Option(help="HxW: bring every image to this size.", rich_help_panel=DATA)] = None,
    crop: Annotated[Crop | None, typer.Option(help="roi: crop to the region-of-interest columns.", rich_help_panel=DATA)] = None,
    ignore_labels: Annotated[bool, typer.Option("--ignore-labels", help="Use the images as if unlabelled.", rich_help_panel=DATA)] = False,
    skip_unreadable: Annotated[bool, typer.Option("--skip-unreadable", help="Go on without images that cannot be read.", rich_help_panel=DATA)] = False,
    samples: Annotated[int, typer.Option(min=1, help="Use at most so many images, balanced by label.", rich_help_panel=DATA)] = 1000,
    labels: Annotated[str | None, typer.Option(help="Search only these labels, like 0-9,33. \\[default: all]", rich_help_panel=METHOD)] = None,
    preset: Annotated[Preset, typer.Option(help="Ours, or the authors' schedule to the letter (some 20 times dearer).", rich_help_panel=METHOD)] = Preset.default,
    loss: Annotated[Loss, typer.Option(help="ce: cross entropy; swapped: as the authors' code computes it (16.1 (1 - p)).", rich_help_panel=METHOD)] = Loss.ce,
    restarts: Annotated[int | None, typer.Option(min=1, help="Independent searches a label, their median counts. \\[default: 3 up to 43 labels, else 1]", rich_help_panel=METHOD)] = None,
    alpha: Annotated[float, typer.Option(help="Accepted chance of accusing a clean model.", rich_help_panel=METHOD)] = 0.01,
    baseline: Annotated[Path | None, typer.Option(help="Earlier scan of a clean twin (its --output): sizes are held against the twin's.", rich_help_panel=METHOD)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.", rich_help_panel=METHOD)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=METHOD)] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Scan although the model cannot read the images; the answer is then inconclusive.", rich_help_panel=METHOD)] = False,
    output: Annotated[Path | None, typer.Option(help="Directory for scan.json, report.html, triggers and evidence.", rich_help_panel=RESULT)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier scan there.", rich_help_panel=RESULT)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.", rich_help_panel=RESULT)] = False,
) -> None:  # fmt: skip
    """Scan a model for backdoors with clean images.

    Exit code: 0 nothing flagged, 1 backdoor flagged, 2 could not scan, 3 inconclusive.

    Example: neural-cleanse scan model.safetensors --data images/ --output out/
    """
    settings = ScanSettings(
        labels=options.labels(labels), samples=samples, preset=preset.value, loss=loss.value, restarts=restarts,
        alpha=alpha, seed=seed, force=force,
    )  # fmt: skip
    size = options.size(resize)
    normalize = options.normalization(mean, std, scale)
    where = device_named(device)
    if output is not None:
        directory.prepare(output, overwrite=overwrite)
    twin = None if baseline is None else storage.load_result(baseline)
    images = load_data(
        data, at_most=samples, seed=seed, resize=size, crop="roi" if crop else None,
        ignore_labels=ignore_labels, skip_unreadable=skip_unreadable,
    )  # fmt: skip
    loaded = load_model(
        model, architecture=architecture, allow_code=allow_code, normalize=normalize, input_shape=images.shape
    )
    result = scan_with_progress(loaded, images, settings, where, baseline=twin)
    console = Console()
    if as_json:
        sys.stdout.write(storage.dumps(result))
    else:
        terminal.show(result, console)
    if output is not None:  # after the answer was shown: a full disk must not swallow it
        directory.write(result, output)
        if not as_json:
            console.print(f"report: {output / directory.REPORT_FILE}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(EXIT_CODE[result.verdict])


def scan_with_progress(
    loaded: LoadedModel,
    images: ImageSet,
    settings: ScanSettings,
    device: torch.device,
    *,
    baseline: ScanResult | None = None,
) -> ScanResult:
    """Scan a loaded model with progress on stderr."""
    origin = loaded.origin
    classifier = loaded.classifier.to(device)
    if origin.label_names is not None:
        images = images.in_order_of(origin.label_names)
    surroundings = Surroundings(
        model=origin.as_record(),
        label_names=origin.label_names,
        command=shlex.join(["neural-cleanse", *sys.argv[1:]]),
        notes=tuple(f"assumed: {what}" for what in origin.assumed),
    )
    line = ProgressLine()
    try:
        return run_scan(classifier, images, settings, surroundings=surroundings, baseline=baseline, progress=line)
    finally:
        line.close()
