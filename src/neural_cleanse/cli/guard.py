"""`neural-cleanse guard`: an input filter against the triggers of a scan: fit it once, then check images with it."""

import json
import math
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from neural_cleanse.cli import exit_codes, options
from neural_cleanse.cli.command import Command, Group
from neural_cleanse.errors import DataError, OutputError, SettingsError
from neural_cleanse.text import by, escape

if TYPE_CHECKING:
    from neural_cleanse.images import ImageSet
    from neural_cleanse.loading.load import LoadedModel
    from neural_cleanse.mitigation.guard import Checked

ROWS_SHOWN = 20
UNREADABLE_SHOWN = 5

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    help="Reject images that carry a trigger which a scan recovered.",
)


@app.command(cls=Command)
@options.takes_inputs("ignore_labels")
def fit(
    model: options.ModelFile,
    scan: Annotated[Path, typer.Option(help="The scan of this model (its --output).", rich_help_panel=options.COMMON)],
    output: Annotated[Path, typer.Option(help="Directory for guard.json and guard.safetensors.", rich_help_panel=options.COMMON)],
    data: options.Data = None,
    inputs: options.Inputs = options.Inputs(),
    fpr: Annotated[float, typer.Option(help="Share of clean images that may be rejected, of those that the model gives a guarded label.", rich_help_panel=options.COMMON)] = 0.05,
    labels: Annotated[str | None, typer.Option(help="Guard against the triggers of these labels, flagged or not, for example 3,7. \\[default: the flagged ones]", rich_help_panel=options.COMMON)] = None,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    samples: Annotated[int, typer.Option(min=1, help="Four times this number of images is used, drawn at random.", rich_help_panel=options.INPUTS)] = 2000,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Fit an input filter with clean images, labels or not: it rejects images that a trigger sends to a guarded label.

    Take images that the model was not trained on, at least 50 of them with each guarded label.

    Exit code: 0 fitted, 2 not.

    Example: neural-cleanse guard fit model.safetensors --scan out/scan --data images/ --output out/guard
    """
    import torch

    from neural_cleanse.checks import expect_seed
    from neural_cleanse.classifier import device_named
    from neural_cleanse.cli import recorded
    from neural_cleanse.cli.inputs import check_same_model, named_data, open_both, parsed
    from neural_cleanse.mitigation.base import known_backdoors
    from neural_cleanse.mitigation.guard_fitting import described, fit_guard
    from neural_cleanse.report import output_dir
    from neural_cleanse.results import storage

    expect_seed(seed)
    result = storage.load_result(scan)
    inputs, kept_data = recorded.completed(inputs, data, scan)
    form, data = parsed(replace(inputs, ignore_labels=True)), named_data(kept_data)
    where = device_named(device)
    if output.resolve() == scan.resolve():
        raise OutputError(f"{output} is the scan's directory.", cure="Name another --output for the guard.")
    with output_dir.claimed(output, overwrite=overwrite):
        loaded, images = open_both(model, data, form, samples, seed)
        check_same_model(result, loaded, scan)
        wanted = result.flagged if labels is None else options.labels(labels)
        backdoors = known_backdoors(result, wanted)
        if labels is not None and not backdoors:
            raise SettingsError(
                f"The scan in {scan} has no trigger for any of the labels {labels}.",
                cure="Choose labels that the scan flagged, or leave --labels out.",
            )
        generator = torch.Generator().manual_seed(seed)
        fitted, report = fit_guard(
            loaded.classifier.to(where), backdoors, images, false_positive_rate=fpr, generator=generator
        )
        measured = report.as_record(backdoors)
        about = described(loaded.classifier, loaded.origin.sha256, seed, measured)
        fitted.save(output, about)
        recorded.write(output, replace(inputs, ignore_labels=False, features=None))
    if as_json:
        print(json.dumps(about, indent=2))
        return
    _tell(measured, fpr, Console())
    console = Console(soft_wrap=True)
    console.print(f"written: {output}", markup=False, highlight=False)
    command = shlex.join(["neural-cleanse", "guard", "check", "IMAGES", "--model", str(model), "--guard", str(output)])
    console.print(
        f"next: check images before the model's answers are used:\n  {escape(command)}", markup=False, highlight=False
    )


def _tell(measured: Mapping[str, Any], fpr: float, console: Console) -> None:
    """What the guard does to images that chose nothing, and how many more it needs."""
    for row in measured["label_rejected"]:
        said = f"rejects {row['share']:.1%} ({_interval(row)}) of the clean images that get label {row['label']}"
        few = "" if row["interval"][0] <= fpr else f": {_few(row, fpr)}"
        console.print(f"{said}, asked for {fpr:.1%}{few}", highlight=False)
    rejected = measured["clean_rejected"]
    console.print(f"rejects {rejected['share']:.1%} ({_interval(rejected)}) of all clean images", highlight=False)
    for row in measured["triggered_passed"]:
        whose = f"of images with the trigger recovered for label {row['target']}"
        console.print(f"{whose} {row['share']:.1%} ({_interval(row)}) still get that label", highlight=False)


def _few(row: Mapping[str, Any], fpr: float) -> str:
    """How many images set the threshold, and how many make the share come within half of what was asked."""
    from neural_cleanse.mitigation.guard_fitting import enough_images, images_of

    known = images_of(row["trials"])
    wanted = max(enough_images(fpr), 2 * known)
    return (
        f"too few images set its threshold. Give some {wanted} clean images that get label {row['label']} (there were "
        f"some {known}; --data and --samples) and fit it again, or allow for it with guard check --at-most"
    )


def _interval(rate: dict[str, Any]) -> str:
    low, high = rate["interval"]
    return f"{low:.1%} to {high:.1%}, {rate['hits']} of {rate['trials']}"


@app.command(cls=Command)
@options.takes_inputs("ignore_labels", "features")
def check(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Images to check: a folder, an .npz file, or parquet.", show_default=False)],
    model: Annotated[Path, typer.Option(help="The model that the guard was fitted to.", rich_help_panel=options.COMMON)],
    guard: Annotated[Path, typer.Option(help="The directory that guard fit wrote.", rich_help_panel=options.COMMON)],
    inputs: options.Inputs = options.Inputs(),
    at_most: Annotated[float, typer.Option(help="Share of images that may be rejected with exit code 0; for a script, about twice the share of all clean images that guard fit says it rejects.", rich_help_panel=options.COMMON)] = 0.0,
    copy_rejected: Annotated[Path | None, typer.Option(help="New directory for copies of the rejected images.", rich_help_panel=options.COMMON)] = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Check images before the model's answers are used: reject those that a trigger sends to a guarded label.

    A guard fitted with --fpr 0.05 rejects some 5 % of the clean images with a guarded label too: --at-most says how many
    of all are no alarm.

    Exit code: 0 no more rejected than --at-most (by default none), 1 more, 2 could not check all.

    Example: neural-cleanse guard check incoming/ --model model.safetensors --guard out/guard
    """
    from neural_cleanse.classifier import device_named
    from neural_cleanse.cli import recorded
    from neural_cleanse.cli.inputs import open_both, parsed
    from neural_cleanse.detection.input_check import check_shape
    from neural_cleanse.mitigation.guard import Guard, read_description
    from neural_cleanse.report import output_dir

    if not 0 <= at_most <= 1:  # nor nan
        raise SettingsError(
            f"--at-most is a share between 0 and 1, got {at_most}.", cure="Write it like --at-most 0.05."
        )
    described = read_description(guard)
    inputs, _ = recorded.completed(inputs, None, guard)
    form = parsed(replace(inputs, ignore_labels=True, features=described.get("features_layer")))
    where = device_named(device)
    if copy_rejected is not None:
        if copy_rejected.is_dir() and any(copy_rejected.iterdir()):
            raise OutputError(f"{copy_rejected} is not empty.", cure="Name another directory for --copy-rejected.")
        output_dir.prepare(copy_rejected, overwrite=False, option="--copy-rejected")
    loaded, data = open_both(model, images, form, None, 0)
    check_shape(data, loaded.classifier.input_shape)
    classifier = loaded.classifier.to(where)
    _check_same_model(described, loaded, model, guard)
    checked = Guard.load(guard, classifier).check(data.images)
    rejected = (~checked.accepted).nonzero().squeeze(1).tolist()
    share = len(rejected) / len(data)
    if copy_rejected is not None and rejected:
        _copy(data, rejected, copy_rejected)
    if as_json:
        told = {"rejected_share": share, "at_most": at_most, "not_checked": data.unreadable}
        json.dump(told | {"images": [_row(data, checked, row) for row in range(len(data))]}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _show(data, checked, rejected)
    if share > at_most:
        raise typer.Exit(exit_codes.REJECTED)
    raise typer.Exit(exit_codes.ERROR if data.unreadable else exit_codes.OK)


def _check_same_model(described: Mapping[str, Any], loaded: "LoadedModel", model: Path, guard: Path) -> None:
    """Raise SettingsError unless the guard was fitted for this file, read in the same form."""
    classifier, was_for = loaded.classifier, described.get("model_sha256")
    if was_for != loaded.origin.sha256:
        raise SettingsError(
            f"The guard in {guard} was fitted for another model file (sha256 {str(was_for)[:12]}), not for {model} "
            f"({loaded.origin.sha256[:12]}).",
            cure="Fit it again for this model, or name the model that it was fitted for.",
        )
    if described.get("normalisation") != str(classifier.normalize):
        raise SettingsError(
            f"The guard in {guard} was fitted to a model that reads {described.get('normalisation')}; now it reads "
            f"{classifier.normalize}.",
            cure="Pass the same --mean, --std and --scale, or fit it again for this model.",
        )
    shape = described.get("input_shape")
    if shape != list(classifier.input_shape):
        raise SettingsError(
            f"The guard in {guard} was fitted for images of {by(shape) if isinstance(shape, list) else shape}, the "
            f"model takes {by(classifier.input_shape)}.",
            cure="Pass the same --resize, or fit it again for this model.",
        )


def _row(data: "ImageSet", checked: "Checked", row: int) -> dict[str, Any]:
    score = checked.score[row].item()
    return {
        "image": row if data.files is None else data.files[row],
        "label": int(checked.logits[row].argmax()),
        "score": round(score, 3) if math.isfinite(score) else None,  # none for a label that is not guarded
        "accepted": bool(checked.accepted[row]),
    }


def _show(data: "ImageSet", checked: "Checked", rejected: list[int]) -> None:
    from neural_cleanse.report.tables import Table
    from neural_cleanse.report.terminal import show_table

    console = Console()
    worst = sorted(rejected, key=lambda row: -checked.score[row].item())[:ROWS_SHOWN]
    rows = [
        (escape(str(entry["image"])), str(entry["label"]), f"{entry['score']:.1f}")
        for entry in (_row(data, checked, row) for row in worst)
    ]
    show_table(Table("", ("rejected", "answered", "score"), rows, frozenset({"score"})), console)
    if len(rejected) > len(worst):
        console.print(f"... and {len(rejected) - len(worst)} more")
    console.print(f"{len(rejected)} of {len(data)} images rejected ({len(rejected) / len(data):.1%})", highlight=False)
    if data.unreadable:
        named = ", ".join(escape(name) for name in data.unreadable[:UNREADABLE_SHOWN])
        more = "" if len(data.unreadable) <= UNREADABLE_SHOWN else ", ..."
        said = f"{len(data.unreadable)} could not be read, and not checked: {named}{more}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)


def _copy(data: "ImageSet", rejected: list[int], to: Path) -> None:
    """The files themselves where there are some, else the pixels as PNG; numbered, so that no name is lost."""
    from neural_cleanse.files import make_directory, write_whole
    from neural_cleanse.report.pictures import png

    make_directory(to, cure="Name another directory for --copy-rejected.")
    for row in rejected:
        if data.files is None:
            write_whole(to / f"{row:06d}.png", png(data.images[row]))
            continue
        original = Path(data.files[row])
        try:
            content = original.read_bytes()
        except OSError as error:
            raise DataError(
                f"{original} was there and cannot be read now: {error.strerror}.",
                cure="Check it again once it is there.",
            ) from error
        write_whole(to / f"{row:06d}_{original.name}", content)
