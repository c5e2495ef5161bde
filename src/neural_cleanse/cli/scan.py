"""`neural-cleanse scan`: from a model file and clean images to a verdict with evidence."""

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from neural_cleanse import storage
from neural_cleanse.classifier import device_named
from neural_cleanse.cli import options
from neural_cleanse.cli.inputs import Form, crop_advice, open_both, surroundings_of
from neural_cleanse.cli.progress import ProgressLine
from neural_cleanse.data import ImageSet
from neural_cleanse.loading.load import LoadedModel
from neural_cleanse.records import ScanResult, Verdict
from neural_cleanse.report import directory, terminal
from neural_cleanse.scan import ScanSettings
from neural_cleanse.scan import scan as run_scan

EXIT_CODE = {Verdict.CLEAN: 0, Verdict.INFECTED: 1, Verdict.INCONCLUSIVE: 3}


class Preset(StrEnum):
    """Names of the presets."""

    default = "default"
    reference = "reference"


class Loss(StrEnum):
    """Names of the losses."""

    ce = "ce"
    swapped = "swapped"


def scan(
    model: options.ModelFile,
    data: options.Data,
    architecture: options.Architecture = None,
    allow_code: options.AllowCode = False,
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    bgr: options.Bgr = False,
    resize: options.Resize = None,
    crop: options.CropTo = None,
    ignore_labels: options.IgnoreLabels = False,
    skip_unreadable: options.SkipUnreadable = False,
    samples: options.Samples = 1000,
    labels: Annotated[str | None, typer.Option(help="Search only these labels, like 0-9,33. \\[default: all]", rich_help_panel=options.METHOD)] = None,
    preset: Annotated[Preset, typer.Option(help="Ours, or the authors' schedule to the letter (some 20 times dearer).", rich_help_panel=options.METHOD)] = Preset.default,
    loss: Annotated[Loss, typer.Option(help="ce: cross entropy; swapped: as the authors' code computes it (16.1 (1 - p)).", rich_help_panel=options.METHOD)] = Loss.ce,
    restarts: Annotated[int | None, typer.Option(min=1, help="Independent searches a label, their median counts. \\[default: 3 up to 43 labels, else 1]", rich_help_panel=options.METHOD)] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Also search triggers that work from one class alone; some four times the time.", rich_help_panel=options.METHOD)] = False,
    alpha: Annotated[float, typer.Option(help="Accepted chance of accusing a clean model.", rich_help_panel=options.METHOD)] = 0.01,
    baseline: Annotated[Path | None, typer.Option(help="Earlier scan of a clean twin (its --output): sizes are held against the twin's.", rich_help_panel=options.METHOD)] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Scan although the model cannot read the images; the answer is then inconclusive.", rich_help_panel=options.METHOD)] = False,
    output: Annotated[Path | None, typer.Option(help="Directory for scan.json, report.html, triggers and evidence.", rich_help_panel=options.RESULT)] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Scan a model for backdoors with clean images.

    Exit code: 0 nothing flagged, 1 backdoor flagged, 2 could not scan, 3 inconclusive.

    Example: neural-cleanse scan model.safetensors --data images/ --output out/
    """
    settings = ScanSettings(
        labels=options.labels(labels), samples=samples, preset=preset.value, loss=loss.value, restarts=restarts,
        alpha=alpha, seed=seed, force=force, pairs=pairs,
    )  # fmt: skip
    form = Form(
        architecture, allow_code, options.normalization(mean, std, scale, bgr), options.size(resize), crop is not None,
        ignore_labels, skip_unreadable,
    )  # fmt: skip
    where = device_named(device)
    if output is not None:
        directory.prepare(output, overwrite=overwrite)
    twin = None if baseline is None else storage.load_result(baseline)
    loaded, images = open_both(model, data, form, samples, seed)
    notes = crop_advice(loaded, images, data, form, seed)
    result = scan_with_progress(loaded, images, settings, where, baseline=twin, notes=notes)
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
    notes: tuple[str, ...] = (),
) -> ScanResult:
    """Scan a loaded model with progress on stderr; `notes` go into the report beside what was assumed."""
    classifier = loaded.classifier.to(device)
    around = surroundings_of(loaded)
    around = replace(around, notes=(*around.notes, *notes))
    line = ProgressLine()
    try:
        return run_scan(classifier, images, settings, surroundings=around, baseline=baseline, progress=line)
    finally:
        line.close()
