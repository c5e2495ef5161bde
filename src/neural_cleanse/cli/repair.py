"""`neural-cleanse repair`: disarm what a scan found, prove it, and write the model in the container it came in."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from neural_cleanse.choices import Labels, Method
from neural_cleanse.cli import exit_codes, options, streams
from neural_cleanse.errors import OutputError, SettingsError

if TYPE_CHECKING:
    from neural_cleanse.loading.load import LoadedModel, Origin
    from neural_cleanse.mitigation.repair import Repaired
    from neural_cleanse.results.records import ScanResult
    from neural_cleanse.results.repair import RepairResult

REPAIR = "Repair"


@options.takes_inputs()
def repair(
    model: options.ModelFile,
    scan: Annotated[Path, typer.Option(help="The scan of this model (its --output).", rich_help_panel=options.COMMON)],
    output: Annotated[Path, typer.Option(help="File for the repaired model, in the format of the original, which stays as it is.", rich_help_panel=options.COMMON)],
    data: options.Data = None,
    inputs: options.Inputs = options.Inputs(),
    method: Annotated[Method, typer.Option(help="unlearn: fine-tune on triggered images with their right labels; prune: remove neurons that react to the trigger; auto: unlearn, then prune if that fails.", rich_help_panel=options.COMMON)] = Method.AUTO,
    max_drop: Annotated[float, typer.Option(help="Largest loss of clean accuracy; a step that costs more is rolled back.", rich_help_panel=options.COMMON)] = 0.02,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    samples: options.Samples = 10_000,
    labels: Annotated[str, typer.Option(help="Which triggers of the scan are repaired. flagged: those of flagged labels; all: those of every label; or those of these labels, flagged or not, for example 3,7.", rich_help_panel=REPAIR)] = Labels.FLAGGED.value,
    max_asr: Annotated[float, typer.Option(help="Largest success rate that a trigger may keep, above the rate of the label on clean images.", rich_help_panel=REPAIR)] = 0.02,
    rounds: Annotated[int, typer.Option(min=1, help="Largest number of repairs, each followed by a new scan: a label may hide several triggers.", rich_help_panel=REPAIR)] = 3,
    baseline: Annotated[Path | None, typer.Option(help="Baseline that --scan was compared with (its --output); the new scan is compared with it too.", rich_help_panel=REPAIR)] = None,
    with_: Annotated[str, typer.Option("--with", help="For comparison. clean: fine-tune without a trigger; or the card or picture of the attacker's own trigger.", rich_help_panel=REPAIR)] = "recovered",
    verify_trigger: Annotated[Path | None, typer.Option(help="Card or picture of the attacker's own trigger; it is measured before and after, and used for nothing else.", rich_help_panel=REPAIR)] = None,
    verify_target: Annotated[int | None, typer.Option(help="Target label of a trigger that is given as a picture.", rich_help_panel=REPAIR)] = None,
    seed: options.Seed = 0,
    report: Annotated[Path | None, typer.Option(help="Directory for repair.json, report.html and the new scan. \\[default: --output with .repair appended]", rich_help_panel=options.OUTPUT)] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    log_json: options.LogJson = False,
) -> None:  # fmt: skip
    """Repair a model in which a scan flagged labels.

    Unlearns or prunes the recovered triggers, scans again, and repeats until nothing is flagged. Half of the images are
    learned from, a quarter decides, and every reported figure is of the last quarter. The model is written only when
    it is repaired. Exit code: 0 repaired, 2 could not try, 3 not repaired or nothing to repair.

    Example: neural-cleanse repair model.safetensors --scan out/scan --data images/ --output out/repaired.safetensors
    """
    streams.begin("loading model and images ...", quiet or log_json)
    from neural_cleanse.classifier import device_named
    from neural_cleanse.cli import recorded
    from neural_cleanse.cli.inputs import check_same_model, named_data, open_both, parsed, run_info_of
    from neural_cleanse.cli.progress import watching
    from neural_cleanse.cli.triggers import attackers_own
    from neural_cleanse.files import refuse_unwritable
    from neural_cleanse.loading.load import load_model
    from neural_cleanse.loading.save import as_written, check_written_back
    from neural_cleanse.mitigation import repair as repairs
    from neural_cleanse.report import output_dir
    from neural_cleanse.results import storage

    result = storage.load_result(scan)
    inputs, kept_data = recorded.completed(inputs, data, scan)
    form, data = parsed(inputs), named_data(kept_data)
    where = device_named(device)
    baseline_scan = None if baseline is None else storage.load_result(baseline)
    refuse_unwritable(output)
    pages, named = (report, "--report") if report else (output.with_name(f"{output.name}.repair"), "--output")
    loaded, images = open_both(model, data, form, samples, seed)
    check_same_model(result, loaded, scan)
    _refuse_place(loaded.origin, output, pages, (scan, baseline), overwrite=overwrite)

    verify, instead = attackers_own(with_, verify_trigger, verify_target, loaded.classifier)
    settings = repairs.RepairSettings(
        method=method.value, labels=_labels(labels), max_drop=max_drop, max_asr=max_asr, rounds=rounds, seed=seed,
        with_triggers=instead,
    )  # fmt: skip
    reload = partial(load_model, architecture=form.architecture, allow_code=form.allow_code, normalize=form.normalize, input_shape=images.shape, no_sandbox=form.no_sandbox)  # fmt: skip
    check_written_back(loaded.origin, loaded.classifier, reload)  # before the work
    with output_dir.claimed(pages, overwrite=overwrite, option=named), watching(quiet=quiet, log_json=log_json) as sink:
        repaired = repairs.repair(
            loaded.classifier.to(where), result, images, settings, baseline=baseline_scan, verify=verify,
            run_info=run_info_of(loaded), as_written=partial(as_written, loaded.origin, load=reload), on_step=sink.step, progress=sink,
        )  # fmt: skip
        sink.close()
        told = replace(repaired.result, provenance=repaired.result.provenance.joined({"samples": samples}, ()))
        keep = partial(recorded.write, pages, inputs, data)
        repaired = replace(repaired, result=told)
        _finish(loaded, repaired, result, output, pages, keep, None if as_json else Console(), quiet=quiet)
        status = repaired.result.status
        sink.done(status.value, (repaired.scan or result).flagged, exit_codes.REPAIR[status.value])
    raise typer.Exit(exit_codes.REPAIR[status.value])


def _labels(text: str) -> str | tuple[int, ...]:
    """The name, or the numbers. Raises SettingsError."""
    try:
        return text if text in tuple(Labels) else options.labels(text) or text
    except SettingsError as error:
        raise SettingsError(error.message, cure="Write flagged, all, or labels like 3,7.") from error


def _finish(
    loaded: "LoadedModel",
    repaired: "Repaired",
    before: "ScanResult",
    output: Path,
    pages: Path,
    keep_options: Callable[[], None],
    console: Console | None,
    *,
    quiet: bool,
) -> None:
    """The files, then the answer: repaired is what is there. What is not repaired is told also where nothing can be
    written."""
    from neural_cleanse.results.repair import RepairStatus

    try:
        after, written = _write(loaded, repaired, before, output, pages)
        keep_options()
    except OutputError:
        if repaired.result.status is not RepairStatus.REPAIRED:
            _answer(repaired.result, before, (), console)
        raise
    _answer(repaired.result, after, () if quiet else written, console)


def _answer(result: "RepairResult", after: "ScanResult", written: tuple[str, ...], console: Console | None) -> None:
    """The answer on stdout, as JSON without a console; then what was written where. `after` is the last scan."""
    from neural_cleanse.report import terminal
    from neural_cleanse.results import storage

    if console is None:
        sys.stdout.write(storage.repair_dumps(result))
        return
    terminal.show_repair(result, console, after)
    for line in written:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _write(
    loaded: "LoadedModel", repaired: "Repaired", before: "ScanResult", output: Path, pages: Path
) -> tuple["ScanResult", tuple[str, ...]]:
    """Write the model, where it is repaired, and the report: the last scan, and what to say of them."""
    from neural_cleanse.loading.save import save_like
    from neural_cleanse.report import output_dir
    from neural_cleanse.results.repair import RepairStatus

    after, done = repaired.scan or before, "no repaired model: the original is as it was"
    try:
        if repaired.result.status is RepairStatus.REPAIRED:
            digest = save_like(loaded.origin, repaired.classifier.module.state_dict(), output)
            written = {**after.provenance.model, "path": str(output), "sha256": digest}
            after, done = replace(after, provenance=replace(after.provenance, model=written)), f"written: {output}"
    finally:  # a model that cannot be written must not swallow what was measured
        output_dir.write(after, pages, repaired.result)
    return after, (done, f"report: {pages / output_dir.REPORT_FILE}")


def _refuse_place(
    origin: "Origin", output: Path, pages: Path, scans: Sequence[Path | None], *, overwrite: bool
) -> None:
    """Raise OutputError, before the work begins, where model, report and scans would be in each other's way."""
    from neural_cleanse.loading.save import refuse_original, refuse_suffix

    refuse_original(origin, output)
    refuse_suffix(origin, output)
    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists.", cure="Name another --output, or pass --overwrite.")
    place = output.resolve()
    if place in (pages.resolve(), *pages.resolve().parents):
        raise OutputError(
            f"The report cannot lie where the model does, at {output}.", cure="Name a directory with --report."
        )
    for read in filter(None, scans):
        if pages.resolve() == read.resolve() or (output.exists() and place.is_relative_to(read.resolve())):
            raise OutputError(
                f"The repair would write over the scan in {read}, which it reads.",
                cure="Name another --output, or another directory with --report.",
            )
