"""`neural-cleanse scan`: from a model file and clean images to a verdict with evidence."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from neural_cleanse.choices import LossName, Plan, Precision, Preset
from neural_cleanse.cli import exit_codes, formats, options, streams
from neural_cleanse.cli.exit_codes import FailOn
from neural_cleanse.errors import SettingsError


@options.takes_inputs("features")
def scan(
    model: options.ScannedModel,
    data: options.Data = None,
    inputs: options.Inputs = options.Inputs(),
    labels: Annotated[str | None, typer.Option(help="Search these labels only, for example 0-9,33; few of them leave too little to compare with, and the answer is that it could not tell. \\[default: all]", rich_help_panel=options.SEARCH)] = None,
    budget: Annotated[str | None, typer.Option(help="Time limit such as 90s, 10m or 2h, of each scan once model and images are loaded; the result says what was not finished.", rich_help_panel=options.COMMON)] = None,
    device: options.Device = "auto",
    output: Annotated[Path | None, typer.Option(help="Directory for scan.json, report.html, triggers and evidence.", rich_help_panel=options.COMMON)] = None,
    overwrite: options.Overwrite = False,
    samples: options.Samples = 1000,
    like: Annotated[Path | None, typer.Option(help="Earlier scan (its --output). Network, normalisation, resizing and images are taken from it where they are not typed here.", rich_help_panel=options.INPUTS)] = None,
    preset: Annotated[Preset, typer.Option(help="Optimiser schedule: default (fast) or reference (as published, 20 to 100 times slower).", rich_help_panel=options.SEARCH)] = Preset.DEFAULT,
    loss: Annotated[LossName, typer.Option(help="ce: cross entropy; swapped: as the authors' code computes it (16.1 (1 - p)).", rich_help_panel=options.SEARCH)] = LossName.CE,
    restarts: Annotated[int | None, typer.Option(min=1, help="Random restarts per label; the smallest trigger counts. \\[default: 4; reference: 1]", rich_help_panel=options.SEARCH)] = None,
    student: Annotated[bool, typer.Option(help="Where the sizes leave doubt, compare them with those of a student network trained on the model's answers.", rich_help_panel=options.SEARCH)] = True,
    plan: Annotated[Plan, typer.Option(help="Which labels are optimised to the end. full: all; sequential: all, unless screening decides; adaptive: the smallest after screening; low-cost: as the paper's two phases. \\[default: adaptive from 500 labels on, else sequential]", rich_help_panel=options.SEARCH, show_default=False)] = Plan.AUTO,
    patches_only: Annotated[bool, typer.Option("--patches-only", help="Look for patches only, not for triggers of other kinds: a tenth to a half of the work.", rich_help_panel=options.SEARCH)] = False,
    pairs: Annotated[bool, typer.Option("--pairs", help="Search pairs of labels with all steps, where the default takes a few: smaller one-class triggers, about twice the cost.", rich_help_panel=options.SEARCH)] = False,
    alpha: Annotated[float, typer.Option(help="False-positive rate of the test.", rich_help_panel=options.SEARCH)] = 0.01,
    baseline: Annotated[Path | None, typer.Option(help="Scan of a known-clean model with --plan full (its --output), to compare trigger sizes with.", rich_help_panel=options.SEARCH)] = None,
    force: Annotated[bool, typer.Option("--force", help="Scan although the model cannot classify the images (the verdict is then inconclusive) or another form of input fits better.", rich_help_panel=options.SEARCH)] = False,
    seed: Annotated[int, typer.Option(min=0, help=options.SEED_HELP, rich_help_panel=options.COMMON)] = 0,
    max_passes: Annotated[int | None, typer.Option(min=1, help="Limit on image passes through the model.", rich_help_panel=options.SCALE)] = None,
    memory: Annotated[str | None, typer.Option(help="Memory limit of the process, for example 2G. \\[default: what is free]", rich_help_panel=options.SCALE)] = None,
    batch_images: Annotated[int | None, typer.Option(min=1, help="Images per forward pass. \\[default: 128 on a CPU, 8192 on a GPU, or what memory holds]", rich_help_panel=options.SCALE)] = None,
    precision: Annotated[Precision, typer.Option(help="Precision of the model in the search; reported figures are measured in fp32.", rich_help_panel=options.SCALE)] = Precision.FP32,
    workers: options.Workers = None,
    engine: options.EngineChoice = None,
    address: options.Address = None,
    resume: options.Resume = False,
    documents: Annotated[list[str] | None, typer.Option("--format", metavar="NAME[=FILE]", help=formats.HELP, rich_help_panel=options.OUTPUT)] = None,
    as_json: options.Json = False,
    fail_on: Annotated[FailOn, typer.Option(help="Lowest verdict with a non-zero exit code.", rich_help_panel=options.OUTPUT)] = FailOn.inconclusive,
    quiet: options.Quiet = False,
    log_json: options.LogJson = False,
) -> None:  # fmt: skip
    """Scan a model, or many of them, for backdoors with clean images.

    Exit code: 0 nothing flagged, 1 backdoor flagged, 2 could not scan, 3 inconclusive (0 with --fail-on infected), 130
    interrupted; of many models the worst: 1 over 2 over 3.

    Example: neural-cleanse scan model.safetensors --data images/ --output out/
    """
    streams.begin("loading model and images ...", quiet or log_json)
    from neural_cleanse.classifier import device_named
    from neural_cleanse.cli import recorded, scanning
    from neural_cleanse.cli.batch.models import is_batch
    from neural_cleanse.cli.batch.run import BatchOutput, EngineOptions, scan_batch
    from neural_cleanse.cli.inputs import crop_advice, named_data, open_both, parsed, run_info_of
    from neural_cleanse.cli.progress import watching
    from neural_cleanse.detection.scan import scan as run_scan
    from neural_cleanse.detection.settings import ScanSettings
    from neural_cleanse.report import output_dir
    from neural_cleanse.results import storage

    settings = ScanSettings(
        labels=options.labels(labels), samples=samples, preset=preset.value, loss=loss.value, restarts=restarts,
        alpha=alpha, seed=seed, force=force, pairs=pairs, plan=plan.value, max_seconds=options.seconds(budget),
        max_passes=max_passes, memory=options.num_bytes(memory), batch_images=batch_images, precision=precision.value, student=student, patches_only=patches_only,
    )  # fmt: skip
    inputs, kept_data = recorded.completed(inputs, data, recorded.with_options(like))
    form, data = parsed(inputs), named_data(kept_data)
    spread = EngineOptions(workers, engine, address, resume)
    if is_batch(model):
        if log_json or documents:
            raise SettingsError("--log-json and --format need a single model.", cure="Give one, or read summary.json.")
        answer = BatchOutput(output, overwrite, as_json, fail_on, quiet)
        scan_batch(model, data, inputs, settings, device, spread, baseline, answer)
    where, read = device_named(device), [model, data, *([] if baseline is None else [baseline])]
    wanted = formats.parsed(documents, read, as_json=as_json, output=output)
    with output_dir.claimed(output, overwrite=True), watching(quiet=quiet, log_json=log_json) as sink:
        checkpoint = scanning.checkpoint_in(output, baseline, resume=resume, overwrite=overwrite)
        baseline_scan = None if baseline is None else storage.load_result(baseline)
        loaded, images = open_both(model, data, form, settings.images_wanted, seed)
        notes = crop_advice(loaded, images, data, form, seed)
        with scanning.kept_in(checkpoint):
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for the answer, and Ray tells there of lost nodes
                result = run_scan(
                    loaded.classifier.to(where), images, settings, run_info=run_info_of(loaded, notes),
                    baseline=baseline_scan, checkpoint=checkpoint, engine=spread.for_one(where.type), progress=sink,
                )  # fmt: skip
            sink.close()
            try:
                scanning.answer(result, output, wanted)
            finally:  # a full disk must not swallow the answer, nor a reader who went away the files
                scanning.keep(result, output, wanted, inputs, data)
                if checkpoint is not None and not result.cut_off:
                    checkpoint.remove()
        if not quiet and not log_json:
            scanning.say_what_is_kept(result, output, checkpoint, alone=formats.on_stdout(wanted))
        code = exit_codes.of_scan(result.verdict.value, fail_on)
        sink.done(result.verdict.value, result.flagged, code)
    raise typer.Exit(code)
