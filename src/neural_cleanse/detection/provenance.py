"""All that is needed to repeat a scan, as plain values."""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from neural_cleanse.classifier import Classifier
from neural_cleanse.images import ImageSet
from neural_cleanse.results.provenance import Provenance


@dataclass(frozen=True)
class RunInfo:
    """What the caller knows of where model and data come from; it goes into the report as it is."""

    model: Mapping[str, Any] = field(default_factory=dict)
    label_names: tuple[str, ...] | None = None
    command: str | None = None
    notes: tuple[str, ...] = ()
    date: str | None = None


def now() -> str:
    """This second, in ISO 8601 and UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance_of(
    classifier: Classifier,
    data: ImageSet,
    settings: Mapping[str, Any],
    run_info: RunInfo,
    *,
    accuracy: float | None,
    notes: tuple[str, ...],
) -> Provenance:
    """The record; `settings` are plain values, `accuracy` the clean accuracy that was measured."""
    model = {
        **run_info.model,
        "input_shape": classifier.input_shape,
        "num_classes": classifier.num_classes,
        "pixel_range": [0.0, 1.0],
        "normalisation": str(classifier.normalize),
        "normalize": asdict(classifier.normalize),
        "outputs": classifier.outputs.value,
        "device": str(classifier.device),
    }
    return Provenance(
        settings=settings,
        seed=settings["seed"],
        versions={
            "neural-cleanse": version("neural-cleanse"),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": str(torch.get_num_threads()),
        },
        model=model,
        data={
            "origin": data.origin,
            "sha256": data.sha256(),
            "images_used": len(data),
            "labelled": data.labels is not None,
            "clean_accuracy": accuracy,
        },
        notes=notes,
        command=run_info.command,
        date=run_info.date,
    )


# Where things are, and how much may be spent on them, changes nothing of what a label's search finds.
FREE = {
    "model": ("path",),
    "data": ("origin",),
    "settings": ("max_seconds", "max_passes", "memory", "batch_images", "execution", "force"),
}


def identity(provenance: Provenance, classifier: Classifier) -> dict[str, Any]:
    """What must be the same for a search to be gone on with: plain values, by part."""
    parts = {name: dict(getattr(provenance, name)) for name in ("model", "data", "settings", "versions")}
    for name, free in FREE.items():
        parts[name] = {key: value for key, value in parts[name].items() if key not in free}
    if "sha256" not in parts["model"]:  # a network of the caller's own, not from a file
        parts["model"]["sha256"] = weights_sha256(classifier.module)
    return parts


def weights_sha256(module: nn.Module) -> str:
    """A hash of all weights and buffers, in their order."""
    digest = hashlib.sha256()
    values = (value for value in module.state_dict().values() if isinstance(value, Tensor))
    for tensor in values:
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
