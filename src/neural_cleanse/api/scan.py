"""scan: somebody's model and somebody's images in, a verdict with evidence out."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch

from neural_cleanse.api.arguments import expect_parts, expect_settings
from neural_cleanse.api.data import draw
from neural_cleanse.api.errors import in_python, python_errors
from neural_cleanse.api.form import Form, FormKeywords, parsed
from neural_cleanse.api.models import opened
from neural_cleanse.api.progress import Report, reporting
from neural_cleanse.api.results import ScanResult, as_result, notes_in_python
from neural_cleanse.api.wrappers import unwrap
from neural_cleanse.detection.plans import Search
from neural_cleanse.detection.scan import scan as run_scan
from neural_cleanse.detection.settings import ScanSettings
from neural_cleanse.engines import Engine, InProcess
from neural_cleanse.errors import SettingsError
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.presets import preset
from neural_cleanse.results import records
from neural_cleanse.triggers.base import SearchedTrigger


@python_errors()
def scan(
    model: Any,
    data: Any,
    settings: ScanSettings = ScanSettings(),
    *,
    trigger: type[SearchedTrigger] | None = None,
    inversion: Inversion | None = None,
    plan: Search | None = None,
    engine: Engine = InProcess(),
    baseline: records.ScanResult | str | Path | None = None,
    progress: Report | bool | None = None,
    **form: Unpack[FormKeywords],
) -> ScanResult:
    """Look for backdoors in a model with clean images; labels are optional.

    `model` is a torch.nn.Module (left as it is), ART's PyTorchClassifier, foolbox's PyTorchModel, what nc.load returns,
    or the path of a model file. `data` is a DataLoader, a Dataset (also Hugging Face's), (images, labels) as tensors or
    arrays, a list of pictures with labels, or a path; at most `settings.samples` images are drawn by `settings.seed`.

    Own parts: `trigger` is a kind of trigger, `inversion` a whole search for one label, `plan` which labels get how
    many steps (nc.plans), `engine` where labels are searched, `baseline` the scan of a known-clean model of the same
    classes. `progress` True writes a line to stderr; a function is called with every Progress.

    Patches, feature-space, one-class and all-to-all triggers and large margins are looked for. `trigger`, `inversion`,
    `settings.labels`, the reference preset and `settings.patches_only` leave only patches.

    Further keywords say the form of the input: mean, std, scale, bgr, transform, resize, device, label_names,
    ignore_labels, features_layer; for paths also architecture, allow_code, skip_unreadable.

    Raises DataError, ModelError, SettingsError, and InputSanityError when the model cannot read the images.
    """
    expect_settings(settings, ScanSettings)
    expect_parts(trigger, inversion, plan, engine)
    baseline = None if baseline is None else as_result(baseline, "baseline")
    said = with_declared(model, parsed(form, "scan"))
    with torch.inference_mode(False), torch.enable_grad(), reporting(progress) as report:
        drawn = draw(data, said, settings.samples, settings.seed)
        suspect, images = opened(model, said, drawn)
        found = run_scan(
            suspect.classifier, images, settings, run_info=suspect.run_info, search=plan,
            inversion=_search(settings, trigger, inversion), engine=engine, baseline=baseline,
            progress=report,
        )  # fmt: skip
    made = replace(found.provenance, notes=notes_in_python(found.provenance.notes))
    return ScanResult.of(replace(found, provenance=made, reason=in_python(found.reason)))


def with_declared(model: Any, form: Form) -> Form:
    """The form with the centre crop that the module itself declares, where nothing was said of the size."""
    if form.crop is not None or form.resize is not None:
        return form
    declared = unwrap(model)
    return form if declared is None else replace(form, crop=declared.crop)


def _search(
    settings: ScanSettings, trigger: type[SearchedTrigger] | None, inversion: Inversion | None
) -> Inversion | None:
    """How one label is searched; None: as the settings' preset says."""
    if trigger is None:
        return inversion
    if inversion is not None:
        raise SettingsError("Both trigger= and inversion= say what is searched.", cure="Give Inversion(trigger=...).")
    return replace(preset(settings.preset, settings.loss, settings.restarts), trigger=trigger)
