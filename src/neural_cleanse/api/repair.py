"""repair: the backdoors that a scan found removed from somebody's model, measured, and saved as it came."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import safetensors.torch
import torch
from torch import Tensor, nn

from neural_cleanse.api.answers import Answers
from neural_cleanse.api.arguments import expect_count, expect_settings
from neural_cleanse.api.data import draw
from neural_cleanse.api.errors import in_python, python_errors
from neural_cleanse.api.form import FormKeywords, parsed
from neural_cleanse.api.models import Suspect, normalize_record, opened
from neural_cleanse.api.progress import Report, reporting
from neural_cleanse.api.results import ScanResult, as_result, notes_in_python
from neural_cleanse.api.scan import with_declared
from neural_cleanse.choices import DOCUMENT_NAMES
from neural_cleanse.classifier import Classifier
from neural_cleanse.copies import copied
from neural_cleanse.errors import OutputError, SettingsError
from neural_cleanse.files import refuse_unwritable, write_whole, written_whole
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.save import as_written, check_written_back, refuse_suffix, save_like
from neural_cleanse.mitigation.repair import RepairSettings
from neural_cleanse.mitigation.repair import repair as run_repair
from neural_cleanse.report.tables import REPAIR_HEADLINE, repair_sentence
from neural_cleanse.results import records
from neural_cleanse.results.repair import RepairResult, RepairStatus
from neural_cleanse.results.storage import expect_labels

SAMPLES = 10_000  # images at most: half of them teach, a quarter decides, a quarter measures
SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class Repaired:
    """What a repair gave: the record, the classifier afterwards, and a new scan of it (None: nothing was tried)."""

    result: RepairResult
    classifier: Classifier
    scan: ScanResult | None
    suspect: Suspect

    def __str__(self) -> str:
        if self.result.status is RepairStatus.NOTHING_TO_REPAIR:
            return repair_sentence(self.result)
        headline, (before, after) = REPAIR_HEADLINE[self.result.status], self.result.accuracy
        return f"{headline}: {self.result.reason}; clean accuracy {before:.1%} before, {after:.1%} after"

    def __repr__(self) -> str:
        return f"<Repaired {self}>"

    @property
    def repaired(self) -> bool:
        """Whether the model was repaired; else it is as it came."""
        return self.result.status is RepairStatus.REPAIRED

    @property
    def module(self) -> nn.Module:
        """A copy of the caller's module with the repaired weights, on its device and in its mode.

        Of a loaded file the network as it was read. The module that was given to repair stays as it was.
        """
        inner = _inner(self.classifier.module)
        if self.suspect.module is None:
            return copied(inner)
        module = copied(self.suspect.module)
        module.load_state_dict(inner.state_dict())
        return module

    @python_errors()
    def report(self, kind: str = "html") -> str:
        """The report as text: html, or markdown (or md). Raises SettingsError on another kind."""
        from neural_cleanse.report import markdown, page

        if self.scan is None:
            raise SettingsError(
                f"There is no report: {self.result.reason}.", cure="The result's status and reason say what was tried."
            )
        kind = DOCUMENT_NAMES.get(kind, kind)
        if kind not in ("html", "markdown"):
            raise SettingsError(f"There is no report {kind!r} of a repair.", cure="The kinds are html, markdown.")
        return page.html(self.scan, self.result) if kind == "html" else markdown.markdown(self.scan, self.result)

    @python_errors()
    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the repaired model: a file in the container it came in, a module's weights as .safetensors or .pt.

        Raises OutputError where the model was not repaired, where the path exists (unless `overwrite`), where it is
        the original, or where its name ends like that of another container.
        """
        path = Path(path)
        if not self.repaired:
            tried = self.result.status is RepairStatus.FAILED
            raise OutputError(
                f"There is no repaired model to save: {self.result.reason}.",
                cure="More images or another method= may help." if tried else "The model is as it came: keep its file.",
            )
        if path.is_dir() or (path.exists() and not overwrite):
            raise OutputError(f"{path} exists.", cure="" if path.is_dir() else "Name another path, or overwrite=True.")
        refuse_unwritable(path)
        if self.suspect.file is not None:
            refuse_suffix(self.suspect.file.origin, path)
            save_like(self.suspect.file.origin, self.classifier.module.state_dict(), path)
        else:
            _save_weights(self.module.state_dict(), path)


def _save_weights(state: dict[str, Tensor], path: Path) -> None:
    """Weights alone, whole or not at all; tied ones are written twice."""
    if path.suffix not in SUFFIXES:
        raise SettingsError(
            f"{path} does not end in {', '.join(SUFFIXES)}.", cure="Weights of a module are saved as one of these."
        )
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    if path.suffix == ".safetensors":
        write_whole(path, safetensors.torch.save(tensors))  # save_file leaves a file that its owner alone can read
        return
    with written_whole(path) as partial_file:
        torch.save(tensors, partial_file)


def _inner(module: nn.Module) -> nn.Module:
    return module.inner if isinstance(module, Answers) else module


@python_errors("repair")
def repair(
    model: Any,
    result: records.ScanResult | str | Path,
    data: Any,
    settings: RepairSettings = RepairSettings(),
    *,
    samples: int = SAMPLES,
    baseline: records.ScanResult | str | Path | None = None,
    progress: Report | bool | None = None,
    **form: Unpack[FormKeywords],
) -> Repaired:
    """Remove the backdoors that `result` found in the model, scan again, and measure before and after.

    `model` and `data` are what scan takes; the model must be the one that was scanned, and stays as it is. How images
    are normalised is taken from `result` where no keyword says it. At most `samples` images are drawn by
    `settings.seed`. `baseline` is the scan that `result` was compared with, if any. Keywords as those of scan.

    Raises SettingsError where the scan is of another model, DataError where images are too few or do not fit.
    """
    expect_settings(settings, RepairSettings)
    expect_count(samples, "samples", 1)
    before = as_result(result)
    baseline = None if baseline is None else as_result(baseline, "baseline")
    with torch.inference_mode(False), torch.enable_grad(), reporting(progress) as report:
        suspect, images = as_scanned(model, before, data, samples, settings.seed, "repair", form)
        in_its_file = _as_written(suspect)
        done = run_repair(
            suspect.classifier, before, images, settings, baseline=baseline, run_info=suspect.run_info,
            as_written=in_its_file, progress=report,
        )  # fmt: skip
    made = replace(done.result.provenance, notes=notes_in_python(done.result.provenance.notes))
    made = made.joined({"samples": samples}, ())
    record = replace(done.result, provenance=made, reason=in_python(done.result.reason, "repair"))
    return Repaired(record, done.classifier, None if done.scan is None else ScanResult.of(done.scan), suspect)


def as_scanned(
    model: Any, result: records.ScanResult, data: Any, samples: int, seed: int, function: str, form: FormKeywords
) -> tuple[Suspect, ImageSet]:
    """The model and images in the form that the scan had. Raises SettingsError where the scan is of another model."""
    said = parsed(form, function)
    recorded = result.provenance.model
    if said.normalize is None:
        said = replace(said, normalize=normalize_record(recorded))
    elif str(said.normalize) != recorded.get("normalisation"):
        raise SettingsError(
            f"The scan read the model with {recorded.get('normalisation')}, now it is {said.normalize}.",
            cure="Leave out mean=, std=, scale= and transform=: the scan knows them.",
        )
    said = with_declared(model, said)
    suspect, images = opened(model, said, draw(data, said, samples, seed))
    theirs = recorded.get("sha256")
    if theirs != suspect.sha256:
        raise SettingsError(
            f"The scan is of another model (sha256 {str(theirs)[:12]}), not of this one ({suspect.sha256[:12]}).",
            cure="Scan this model first.",
        )
    if result.image_shape != suspect.classifier.input_shape:
        raise SettingsError(
            f"The scan is of images {result.image_shape}, now they are {suspect.classifier.input_shape}.",
            cure="Pass the same images or the same resize=.",
        )
    expect_labels(result, suspect.classifier.num_classes)
    return suspect, images


def _as_written(suspect: Suspect) -> Any:
    """A classifier as its file will hold it, rounded to its number formats; a module's weights are kept as they are."""
    if suspect.file is None or suspect.reload is None:
        return lambda changed: changed
    check_written_back(suspect.file.origin, suspect.classifier, suspect.reload)  # before the work
    return partial(as_written, suspect.file.origin, load=suspect.reload)
