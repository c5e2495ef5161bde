"""What `neural-cleanse scan` does with a directory or pattern of models: each of them, in processes or on Ray."""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

from neural_cleanse.classifier import device_named
from neural_cleanse.cli import exit_codes, recorded
from neural_cleanse.cli.batch.models import INDEX_FILE, ModelEntry, find, run, settings_hash, write_summary
from neural_cleanse.cli.batch.progress import BatchProgress, Note
from neural_cleanse.cli.exit_codes import FailOn
from neural_cleanse.cli.inputs import (
    InputOptions,
    crop_advice,
    open_for,
    open_images,
    parsed,
    run_info_of,
    running_command,
)
from neural_cleanse.cli.options import EngineName, Inputs
from neural_cleanse.detection.progress import Progress
from neural_cleanse.detection.scan import scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.engine_ray import RayEngine
from neural_cleanse.engines import Engine, InProcess, Processes
from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.memory_limit import physical_memory
from neural_cleanse.report import batch as words
from neural_cleanse.report import output_dir
from neural_cleanse.results import storage
from neural_cleanse.results.records import ScanResult

WORKER_MEMORY = 2 * 1024**3  # of a process with a network of ordinary size


@dataclass(frozen=True)
class EngineOptions:
    """Over what a batch is spread, as the command line says it."""

    workers: int | None = None
    engine: EngineName | None = None
    address: str | None = None
    resume: bool = False

    def for_one(self, device: str) -> Engine:
        """The engine that the labels of one model run on: this process, unless others were asked for."""
        if self.engine is None and self.address is None and self.workers in (None, 1):
            return InProcess()
        return self.start(1, device)

    def start(self, models: int, device: str) -> Engine:
        """The engine of a batch. Raises SettingsError when the options do not fit each other."""
        if self.engine is EngineName.ray:
            if self.workers is not None:
                raise SettingsError(
                    "--workers is for processes on this machine; Ray knows its own cores.", cure="Leave --workers out."
                )
            return RayEngine(self.address or "auto", num_gpus=1.0 if device.startswith("cuda") else 0.0)
        if self.address is not None:
            raise SettingsError("--address is the address of a Ray cluster.", cure="Add --engine ray.")
        return Processes(self.workers or _workers(models, device))


def _workers(models: int, device: str) -> int:
    """One a core that we may use, as far as memory goes; a GPU is best left to one."""
    if device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(models, cores, physical_memory() // WORKER_MEMORY))


@dataclass(frozen=True)
class ScanJob:
    """What every model of the batch is scanned with."""

    images: ImageSet
    data: Path
    form: InputOptions
    settings: ScanSettings
    device: str
    baseline: ScanResult | None
    command: str

    def key(self) -> str:
        """What must be unchanged for an earlier answer to count. `command` and `device` change no answer."""
        baseline_text = None if self.baseline is None else storage.dumps(self.baseline)
        file, suffix, _ = (self.form.architecture or "").partition(".py")
        code = Path(file + suffix).read_bytes() if suffix and Path(file + suffix).is_file() else b""
        return settings_hash(
            {
                "settings": asdict(self.settings),
                "form": asdict(self.form),
                "architecture": hashlib.sha256(code).hexdigest(),
                "data": [self.images.sha256(), self.images.names],
                "baseline": baseline_text,
                "version": version("neural-cleanse"),
            }
        )


def scan_model(model: ModelEntry, *, job: ScanJob, notes: Path | None) -> ScanResult:
    """Scan one model, wherever this runs; with `notes`, say there how far it is."""
    loaded, images = open_for(job.images, model.path, job.form)
    advice = crop_advice(loaded, images, job.data, job.form, job.settings.seed)
    around = replace(run_info_of(loaded, advice), command=job.command)
    classifier = loaded.classifier.to(device_named(job.device))
    note = None if notes is None else Note(notes / model.name)

    def tell(progress: Progress) -> None:
        if note is not None:
            note.write(progress)

    return scan(
        classifier, images, job.settings, run_info=around, baseline=job.baseline, progress=tell
    )  # fmt: skip


@dataclass(frozen=True)
class BatchOutput:
    """Where the answer goes, and in which form, as the command line says it."""

    directory: Path | None
    overwrite: bool
    as_json: bool
    fail_on: FailOn
    quiet: bool


def scan_batch(
    where: Path,
    data: Path,
    inputs: Inputs,
    settings: ScanSettings,
    device: str,
    spread: EngineOptions,
    baseline: Path | None,
    answer: BatchOutput,
) -> NoReturn:
    """Scan every model, show the table, write summary and index, and exit with the batch's code."""
    device, output = _device(device, spread.engine), answer.directory
    if output is None and spread.resume:
        raise SettingsError("--resume keeps what is in the directory of an earlier run.", cure="Add --output.")
    with output_dir.claimed(output, overwrite=answer.overwrite or spread.resume):
        form = parsed(inputs)
        models = find(where, leave_out=output)
        engine = spread.start(len(models), device)
        baseline_scan = None if baseline is None else storage.load_result(baseline)
        images = open_images(data, form, settings.images_wanted, settings.seed)
        job = ScanJob(
            images=images,
            data=data,
            form=form,
            settings=settings,
            device=device,
            baseline=baseline_scan,
            command=running_command(),
        )
        keep = partial(recorded.write, inputs=inputs, data=data)
        rows = _run(models, job, engine, output, keep, resume=spread.resume, quiet=answer.quiet)
    if answer.as_json:
        sys.stdout.write(json.dumps([row.as_json() for row in sorted(rows, key=_name)], indent=2) + "\n")
    else:
        console = Console()
        words.show(rows, console)
        if output is not None and not answer.quiet:
            console.print(f"index: {output / INDEX_FILE}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(exit_code(rows, answer.fail_on))


def exit_code(rows: Sequence[words.BatchRow], fail_on: FailOn) -> int:
    """That of the worst answer: infected over error over inconclusive over clean."""
    worst = words.worst(rows)
    return exit_codes.ERROR if worst == "error" else exit_codes.of_scan(worst, fail_on)


def _name(row: words.BatchRow) -> str:
    return row.name


def _device(name: str, engine: EngineName | None) -> str:
    """Its name where the scan will run: a node of a cluster may have a GPU that this machine has not."""
    if engine is EngineName.ray and name != "auto":
        return name
    return str(device_named(name))


def _run(
    models: tuple[ModelEntry, ...],
    job: ScanJob,
    engine: Engine,
    output: Path | None,
    keep: Callable[[Path], None],
    *,
    resume: bool,
    quiet: bool,
) -> list[words.BatchRow]:
    """The rows, told of on stderr as they come; `keep` writes the options beside each result.

    Whatever ends the run, `output` has the summary of what was done.
    """
    rows: list[words.BatchRow] = []
    with contextlib.ExitStack() as stack:
        notes = None
        if isinstance(engine, Processes):  # the nodes of a cluster do not see this directory
            notes = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="neural-cleanse-")))
        if output is not None:
            stack.callback(
                lambda: write_summary(rows, output, models=len(models), command=job.command)
            )  # fmt: skip
        # stdout is for the answer alone, and Ray tells there of lost nodes
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        board = None if quiet else stack.enter_context(BatchProgress(len(models), notes))
        scan_one = partial(scan_model, job=job, notes=notes)
        for row in run(models, scan_one, engine, output=output, key=job.key(), resume=resume):
            rows.append(row)
            if output is not None and row.verdict is not None:
                keep(output / row.name)
            if board is not None:
                board.finished(row)
    return rows
