"""fit_guard: a filter in front of somebody's model that rejects images with a trigger which a scan recovered."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack, cast

import torch

from neural_cleanse.api.arguments import expect_count
from neural_cleanse.api.data import draw
from neural_cleanse.api.errors import python_errors
from neural_cleanse.api.form import Form, FormKeywords, parsed
from neural_cleanse.api.models import Suspect, normalize_record, read_as
from neural_cleanse.api.repair import as_scanned
from neural_cleanse.api.results import as_result
from neural_cleanse.checks import expect_seed
from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import OutputError, SettingsError
from neural_cleanse.mitigation import guard as guards
from neural_cleanse.mitigation.base import known_backdoors
from neural_cleanse.mitigation.guard import Checked, expect_shape
from neural_cleanse.mitigation.guard_fitting import GuardReport, described
from neural_cleanse.mitigation.guard_fitting import fit_guard as run_fit
from neural_cleanse.results import records

SAMPLES = 2000  # of each kind
MAX_SIDE = 4096  # channels, rows or columns of what a guard's file says


class Guard(guards.Guard):
    """A classifier with an input filter.

    `false_positive_rate` is the share of the clean images with a guarded label that it was asked to reject.
    `normalised_images` says that it was fitted with floats that were normalised: floats in `check` are then taken so.
    """

    @classmethod
    @python_errors("fit_guard")
    def load(cls, directory: str | Path, model: Any, **form: Unpack[FormKeywords]) -> "Guard":
        """The guard that `save` wrote, around the model that it was fitted to: whatever fit_guard takes.

        How images are normalised, and the layer of the features, are taken from its files where no keyword says them.
        Raises SettingsError on another model, OutputError where its files do not fit.
        """
        known = guards.read_description(Path(directory))
        said = parsed(form, "Guard.load")
        said = replace(said, features_layer=said.features_layer or known.get("features_layer"))
        given = isinstance(model, Classifier)
        if said.normalize is None and not given:
            said = replace(said, normalize=normalize_record(known))
        suspect = read_as(model, said, _shape_in(known, Path(directory)))
        _expect_fitted_to(suspect, known, any_weights=given)
        return cast("Guard", super().load(directory, suspect.classifier))  # it makes one of this class

    @python_errors()
    def check(self, images: Any) -> Checked:
        """Logits, score and acceptance of images: whatever scan takes as data, all of them and in their order.

        Grey images may have one channel or three. Of a guard that was fitted with normalised floats, floats are taken
        as normalised too, also where they lie in [0, 1]; uint8 images are pixels always. Raises DataError on images of
        another shape than the model takes.
        """
        drawn, wanted = draw(images, Form(ignore_labels=True), None, 0), self.classifier.input_shape
        grey = drawn.in_channels(wanted[0])
        drawn = grey if grey is not None and grey.shape == wanted else drawn
        expect_shape(drawn.shape, wanted)
        read, _ = drawn.image_set(self.classifier.normalize, normalised=self.normalised_images)
        return super().check(read.images)


def _shape_in(known: Mapping[str, Any], directory: Path) -> tuple[int, int, int]:
    """Of the images that a guard was fitted for. Raises OutputError."""
    shape = known.get("input_shape")
    sizes = shape if isinstance(shape, list) else []
    if len(sizes) != 3 or not all(type(size) is int and 0 < size <= MAX_SIDE for size in sizes):
        raise OutputError(
            f"The guard in {directory} cannot be used: its images are {shape!r:.80}.",
            cure="Fit the guard again, with this model.",
        )
    return sizes[0], sizes[1], sizes[2]


def _expect_fitted_to(suspect: Suspect, known: Mapping[str, Any], *, any_weights: bool) -> None:
    """Raise SettingsError where a guard was fitted to another model, or to one that reads other values."""
    theirs, form = known.get("model_sha256"), suspect.classifier.normalize
    if theirs != suspect.sha256 and not any_weights:
        raise SettingsError(
            f"The guard was fitted to another model (sha256 {str(theirs)[:12]}), not to this one "
            f"({suspect.sha256[:12]}).",
            cure="Give the model that it was fitted to: the file where it was a file, the module where it was one.",
        )
    if known.get("normalisation") != str(form):
        raise SettingsError(
            f"The guard was fitted to a model that reads {known.get('normalisation')}; now it reads {form}.",
            cure="Pass the same mean= and std=, or fit it again.",
        )


@dataclass(frozen=True)
class FittedGuard:
    """A guard, and what it does on images that chose nothing. `about` goes into its file."""

    guard: Guard
    report: GuardReport
    about: Mapping[str, Any]

    def __str__(self) -> str:
        measured = self.report
        passed, trials = sum(measured.passed), sum(measured.triggered_trials)
        return (
            f"Guard: rejects {measured.clean_rejected} of {measured.clean_trials} clean images, lets {passed} of "
            f"{trials} with a recovered trigger get its label"
        )

    def check(self, images: Any) -> Checked:
        """What the guard says of images (Guard.check)."""
        return self.guard.check(images)

    @python_errors()
    def save(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write guard.json and guard.safetensors, which `neural-cleanse guard check` and Guard.load read."""
        from neural_cleanse.report import output_dir

        if not isinstance(directory, str | Path):
            raise SettingsError(f"directory= is {directory!r:.80}.", cure="Give the path of a directory.")
        with output_dir.claimed(Path(directory), overwrite=overwrite):
            self.guard.save(Path(directory), self.about)


@python_errors("fit_guard")
def fit_guard(
    model: Any,
    result: records.ScanResult | str | Path,
    data: Any,
    *,
    false_positive_rate: float = 0.05,
    labels: Sequence[int] | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    **form: Unpack[FormKeywords],
) -> FittedGuard:
    """Fit an input filter against the triggers of `labels` (None: of all that `result` flagged), with clean images.

    `model` and `data` are what scan takes, `result` is the scan of that model; keywords as those of scan, and the
    normalisation is taken from `result` where none says it. Of the clean images that the model gives a guarded label
    `false_positive_rate` may be rejected.

    Raises SettingsError where nothing was flagged or the scan is of another model, DataError on too few images.
    """
    expect_count(samples, "samples", 1)
    expect_seed(seed)
    wanted = _labels(labels)
    found = as_result(result)
    with torch.inference_mode(False), torch.enable_grad():
        suspect, images = as_scanned(model, found, data, samples, seed, "fit_guard", form)
        backdoors = known_backdoors(found, found.flagged if wanted is None else wanted)
        if wanted is not None and not backdoors:
            raise SettingsError(
                f"The scan has no trigger for any of the labels {wanted}.",
                cure="Give labels that the scan flagged, or leave labels= out.",
            )
        guard, report = run_fit(
            suspect.classifier, backdoors, images, false_positive_rate=false_positive_rate,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
    about = described(suspect.classifier, suspect.sha256, seed, report.as_record(backdoors))
    return FittedGuard(Guard(**vars(guard)), report, about)


def _labels(labels: object) -> tuple[int, ...] | None:
    """The labels to guard. Raises SettingsError on anything else than class indices."""
    if labels is None:
        return None
    given = tuple(labels) if isinstance(labels, Iterable) and not isinstance(labels, str) else (None,)
    if not all(isinstance(label, int) and not isinstance(label, bool) for label in given):
        raise SettingsError(f"labels= is {labels!r:.80}.", cure="Give class indices, like (3, 7).")
    return given
