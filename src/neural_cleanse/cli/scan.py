"""`neural-cleanse scan`: from a model file and clean images to a verdict with evidence."""

import contextlib
import shlex
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from neural_cleanse.classifier import device_named
from neural_cleanse.cli import exit_codes, options
from neural_cleanse.cli.batch.models import is_batch
from neural_cleanse.cli.batch.run import EngineOptions, scan_batch
from neural_cleanse.cli.exit_codes import FailOn
from neural_cleanse.cli.inputs import InputOptions, crop_advice, open_both, run_info_of
from neural_cleanse.cli.progress import ProgressSink, watching
from neural_cleanse.detection.scan import scan as run_scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.engines import Engine, InProcess
from neural_cleanse.errors import OutputError, SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.inversion.checkpoint import Checkpoint
from neural_cleanse.loading.load import LoadedModel
from neural_cleanse.report import output_dir as directory
from neural_cleanse.report import sarif, terminal
from neural_cleanse.results import storage
from neural_cleanse.results.records import ScanResult

BUDGETS = ("--budget", "--max-passes")


class Preset(StrEnum):
    """Names of the presets."""

    default = "default"
    reference = "reference"


class Plan(StrEnum):
    """Names of the search plans."""

    auto = "auto"
    full = "full"
    sequential = "sequential"
    low_cost = "low-cost"
    adaptive = "adaptive"


class PrecisionName(StrEnum):
    """Names of the precisions."""

    fp32 = "fp32"
    bf16 = "bf16"


class Loss(StrEnum):
    """Names of the losses."""

    ce = "ce"
    swapped = "swapped"


def scan(
    model: options.ScannedModel,
    data: options.Data,
    architecture: options.Architecture = None,
    weights: options.Weights = None,
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
    preset: Annotated[Preset, typer.Option(help="Ours, or the authors' schedule to the letter (some 20 to 100 times dearer).", rich_help_panel=options.METHOD)] = Preset.default,
    loss: Annotated[Loss, typer.Option(help="ce: cross entropy; swapped: as the authors' code computes it (16.1 (1 - p)).", rich_help_panel=options.METHOD)] = Loss.ce,
    restarts: Annotated[int | None, typer.Option(min=1, help="Independent searches a label, their median counts. \\[default: 3 up to 43 labels, else 1]", rich_help_panel=options.METHOD)] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Also search triggers that work from one class alone: seven to ten times the image passes.", rich_help_panel=options.METHOD)] = False,
    alpha: Annotated[float, typer.Option(help="Accepted chance of flagging a clean model.", rich_help_panel=options.METHOD)] = 0.01,
    plan: Annotated[Plan, typer.Option(help="full: every label to its end; sequential: all briefly, and to their end unless that settles it; adaptive: all briefly, the smallest to their end; low-cost: the paper's two phases. \\[default: adaptive from 500 labels on, else sequential]", rich_help_panel=options.METHOD, show_default=False)] = Plan.auto,
    budget: Annotated[str | None, typer.Option(help="Stop searching after 90s, 10m or 2h, with what was reached.", rich_help_panel=options.EFFORT)] = None,
    max_passes: Annotated[int | None, typer.Option(min=1, help="Stop searching after so many image passes.", rich_help_panel=options.EFFORT)] = None,
    memory: Annotated[str | None, typer.Option(help="What the process may take, like 2G. \\[default: what is free]", rich_help_panel=options.EFFORT)] = None,
    batch_images: Annotated[int | None, typer.Option(min=1, help="Images in one pass. \\[default: 128 on a CPU, 8192 on a GPU, or what memory holds]", rich_help_panel=options.EFFORT)] = None,
    precision: Annotated[PrecisionName, typer.Option(help="Of the model in the search; what is reported is measured in fp32.", rich_help_panel=options.EFFORT)] = PrecisionName.fp32,
    baseline: Annotated[Path | None, typer.Option(help="Earlier scan of a baseline with --plan full (its --output): sizes are compared with the baseline's.", rich_help_panel=options.METHOD)] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Scan although the model cannot read the images; the answer is then inconclusive.", rich_help_panel=options.METHOD)] = False,
    output: Annotated[Path | None, typer.Option(help="Directory for scan.json, report.html, triggers and evidence.", rich_help_panel=options.RESULT)] = None,
    resume: options.Resume = False,
    sarif_file: Annotated[Path | None, typer.Option("--sarif", help="File for a SARIF 2.1.0 log of one model, which dashboards of security findings read.", rich_help_panel=options.RESULT)] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    workers: options.Workers = None,
    engine: options.EngineChoice = None,
    address: options.Address = None,
    fail_on: Annotated[FailOn, typer.Option(help="The mildest verdict that fails a job: with infected, inconclusive is exit code 0 too.", rich_help_panel=options.RESULT)] = FailOn.inconclusive,
    quiet: options.Quiet = False,
    log_json: options.LogJson = False,
) -> None:  # fmt: skip
    """Scan a model, or many of them, for backdoors with clean images.

    Exit code: 0 nothing flagged, 1 backdoor flagged, 2 could not scan, 3 inconclusive (0 with --fail-on infected), 130
    interrupted; of many models the worst: 1 over 2 over 3.

    Example: neural-cleanse scan model.safetensors --data images/ --output out/
    """
    settings = ScanSettings(
        labels=options.labels(labels), samples=samples, preset=preset.value, loss=loss.value, restarts=restarts,
        alpha=alpha, seed=seed, force=force, pairs=pairs, plan=plan.value, max_seconds=options.seconds(budget),
        max_passes=max_passes, memory=options.num_bytes(memory), batch_images=batch_images, precision=precision.value,
    )  # fmt: skip
    form = InputOptions(
        architecture, allow_code, options.normalization(mean, std, scale, bgr), options.size(resize), crop is not None,
        ignore_labels, skip_unreadable, weights=weights,
    )  # fmt: skip
    spread = EngineOptions(workers, engine, address, resume)
    if is_batch(model):
        if log_json or sarif_file is not None:
            raise SettingsError(
                "--log-json and --sarif tell of one scan.", cure="Give one model, or read summary.json."
            )
        scan_batch(
            model, data, form, settings, device, spread, baseline, output, overwrite=overwrite, as_json=as_json,
            fail_on=fail_on, quiet=quiet,
        )  # fmt: skip
    where = device_named(device)
    if sarif_file is not None:
        sarif.prepare(sarif_file)
    with directory.claimed(output, overwrite=True), watching(quiet=quiet, log_json=log_json) as sink:
        checkpoint = _checkpoint(output, resume=resume, overwrite=overwrite)
        baseline_scan = None if baseline is None else storage.load_result(baseline)
        loaded, images = open_both(model, data, form, samples, seed)
        notes = crop_advice(loaded, images, data, form, seed)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for the answer, and Ray tells there of lost nodes
                result = scan_with_progress(
                    loaded, images, settings, where, sink, baseline=baseline_scan, notes=notes, checkpoint=checkpoint,
                    engine=spread.for_one(where.type),
                )  # fmt: skip
        except KeyboardInterrupt as interrupt:
            raise _interrupted(checkpoint) from interrupt
        sink.close()
        try:
            _answer(result, as_json=as_json)
        finally:  # a full disk must not swallow the answer, nor a reader who went away the files
            _keep(result, output, sarif_file)
            if checkpoint is not None and not result.cut_off:
                checkpoint.remove()
        if output is not None and not as_json and not quiet:
            report = output / directory.REPORT_FILE
            Console().print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
        if checkpoint is not None and result.cut_off and not quiet:
            kept = "go on" if checkpoint.has_records() else "no label was finished, begin again"
            _say_how_to_go_on(f"the budget ended the search; {kept}, with a larger one or none:", *BUDGETS)
        code = exit_codes.of_scan(result.verdict.value, fail_on)
        sink.done(result.verdict.value, result.flagged, code)
    raise typer.Exit(code)


def _answer(result: ScanResult, *, as_json: bool) -> None:
    """The answer on stdout."""
    if as_json:
        sys.stdout.write(storage.dumps(result))
        sys.stdout.flush()
    else:
        terminal.show(result, Console())


def _keep(result: ScanResult, output: Path | None, sarif_file: Path | None) -> None:
    """The answer in files."""
    if sarif_file is not None:
        sarif.write(result, sarif_file)
    if output is not None:
        directory.write(result, output)


def _checkpoint(output: Path | None, *, resume: bool, overwrite: bool) -> Checkpoint | None:
    """Where finished labels are kept. Raises OutputError on what nobody said may be gone on with or overwritten."""
    if output is None:
        if resume:
            raise SettingsError("--resume goes on with a scan in a directory.", cure="Name it with --output.")
        return None
    checkpoint = Checkpoint.within(output)
    if checkpoint.exists() and not overwrite and not resume:
        raise OutputError(
            f"The output directory {output} holds an unfinished scan.",
            cure="Go on with it: --resume. Or start anew: --overwrite.",
        )
    if resume and checkpoint.exists():
        return checkpoint
    if resume and not overwrite and (output / storage.JSON_FILE).exists():
        raise OutputError(
            f"The output directory {output} holds a finished scan: there is nothing to go on with.",
            cure="Read it with `neural-cleanse report`. To scan anew, name another directory, or pass --overwrite.",
        )
    if not overwrite:
        directory.refuse_occupied(output)
    checkpoint.remove()
    return checkpoint


def _say_how_to_go_on(why: str, *without: str) -> None:
    """The command that goes on with this scan, on stderr; without some options and their values."""
    words = iter(sys.argv[1:])
    command = []
    for word in words:
        if word in without:
            next(words, None)
        elif word not in ("--resume", "--overwrite") and not word.startswith(tuple(f"{name}=" for name in without)):
            command.append(word)
    console = Console(stderr=True, soft_wrap=True)
    console.print(why, highlight=False)
    console.print(f"  {shlex.join(['neural-cleanse', *command, '--resume'])}", markup=False, highlight=False)


def _interrupted(checkpoint: Checkpoint | None) -> typer.Exit:
    """What to do next, on stderr."""
    console = Console(stderr=True, soft_wrap=True)
    if checkpoint is None or not checkpoint.exists():
        console.print("interrupted: nothing was kept (with --output finished labels are)", highlight=False)
    else:
        _say_how_to_go_on("interrupted; go on with:")
    return typer.Exit(exit_codes.INTERRUPTED)


def scan_with_progress(
    loaded: LoadedModel,
    images: ImageSet,
    settings: ScanSettings,
    device: torch.device,
    sink: ProgressSink,
    *,
    baseline: ScanResult | None = None,
    notes: tuple[str, ...] = (),
    checkpoint: Checkpoint | None = None,
    engine: Engine = InProcess(),
) -> ScanResult:
    """Scan a loaded model with progress on stderr; `notes` go into the report beside what was assumed."""
    classifier = loaded.classifier.to(device)
    around = run_info_of(loaded)
    around = replace(around, notes=(*around.notes, *notes))
    return run_scan(
        classifier, images, settings, run_info=around, baseline=baseline, checkpoint=checkpoint, engine=engine,
        progress=sink,
    )  # fmt: skip
