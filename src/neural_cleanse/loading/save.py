"""Write a changed network back into the container it came in, never over the original."""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from neural_cleanse.classifier import Classifier
from neural_cleanse.copies import copied
from neural_cleanse.errors import OutputError
from neural_cleanse.files import partial_of, write_whole
from neural_cleanse.loading.detect import container_of
from neural_cleanse.loading.files import read_file
from neural_cleanse.loading.formats import SUFFIXES, read_whole, rewrite_file
from neural_cleanse.loading.huggingface.files import MAX_JSON, Snapshot, read_directory
from neural_cleanse.loading.load import LoadedModel, Origin

# What goes along with a directory's weights. Anything else stays behind: it may be code, or the unrepaired weights.
ALONG = (".json", ".txt", ".md")
NUDGE = 0.01  # by which weights are changed to try a container: small, and more than half precision rounds away


def save_like(origin: Origin, state: Mapping[str, Tensor], output: Path) -> str:
    """Write `origin`'s file or directory to `output` with the weights of `state`; the sha256 of what was written.

    Names, kinds of number, nesting and everything else in the file stay. Raises OutputError when the original has
    changed since it was loaded, when `output` is the original, or when it cannot be written.
    """
    refuse_original(origin, output)
    if Path(origin.path).is_dir():
        return _save_directory(origin, state, output)
    content = read_whole(Path(origin.path))
    _refuse_changed(origin, hashlib.sha256(content).hexdigest())
    written = rewrite_file(
        content, state, Path(origin.path),
        trust=origin.trust, architecture=origin.architecture, input_shape=origin.input_shape,
        weights=origin.nested_under,
    )  # fmt: skip
    write_whole(output, written)
    return hashlib.sha256(written).hexdigest()


def as_written(origin: Origin, classifier: Classifier, load: Callable[[Path], LoadedModel]) -> Classifier:
    """The classifier as `origin`'s container holds it: written, and read back with `load`.

    Numbers are rounded to those of the file. Raises OutputError when it cannot be written into that container.
    """
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / Path(origin.path).name
        save_like(origin, classifier.module.state_dict(), path)
        read = load(path).classifier.to(classifier.device)
    if [*read.module.state_dict()] != [*classifier.module.state_dict()]:
        raise OutputError(
            f"{origin.path} cannot be written back: the layers of what was written have other names.",
            cure="Convert the model to .pt2 (torch.export.save) or .safetensors, and scan that.",
        )
    return classifier.changed(module=read.module)


def check_written_back(origin: Origin, classifier: Classifier, load: Callable[[Path], LoadedModel]) -> None:
    """Raise OutputError where changed weights cannot be written into `origin`'s container, and again once read back.

    Tried before a repair, which is long; what is not changed may stay as it is in the file, and would show nothing.
    """
    module = copied(classifier.module)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.is_floating_point():
                weight.mul_(1 - NUDGE).add_(NUDGE)
    changed = as_written(origin, classifier.changed(module=module), load)
    as_written(origin, changed, load)


def _save_directory(origin: Origin, state: Mapping[str, Tensor], output: Path) -> str:
    """The same directory with other weights, written beside and renamed."""
    from neural_cleanse.loading.huggingface import reader as huggingface

    original = Path(origin.path)
    if output.exists():
        raise OutputError(f"{output} is there already.", cure="Name a directory that is not.")
    before = read_directory(original)
    _refuse_changed(origin, before.sha256)
    after = Snapshot({**before.files, **huggingface.rewrite(before, state, origin.path)})
    partial = partial_of(output)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for path in original.iterdir():
            if path.suffix in ALONG and path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_JSON:
                shutil.copyfile(path, partial / path.name)
        for name, content in after.files.items():
            write_whole(partial / name, content)
        partial.rename(output)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}.", cure="Name another --output.") from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(partial)
    return after.sha256


def _refuse_changed(origin: Origin, sha256: str) -> None:
    if sha256 != origin.sha256:
        raise OutputError(f"{origin.path} has changed since it was loaded.", cure="Scan it again.")


def refuse_original(origin: Origin, output: Path) -> None:
    """Raise OutputError when `output` is what was loaded, by whatever name, or lies in it."""
    original = Path(origin.path).resolve()
    same = output.exists() and original.exists() and output.samefile(original)
    if same or original in (output.resolve(), *output.resolve().parents):
        raise OutputError(f"{output} is the model itself: the original is never overwritten.", cure="Name another.")


def refuse_suffix(origin: Origin, output: Path) -> None:
    """Raise OutputError when `output` is named like another container than the one that will be written.

    An ending of no container (model.v2) says nothing, and the original's own is always right.
    """
    original, suffix = Path(origin.path), output.suffix.lower()
    if not any(suffix in endings for endings in SUFFIXES.values()):
        return
    if original.is_dir():
        raise OutputError(
            f"{output} is named like a file, and {origin.path} is written back as it came: as a directory.",
            cure=f"Name it {output.with_suffix('')}.",
        )
    container = container_of(read_file(original))
    endings = SUFFIXES.get(container)  # none of a program, which is not written back at all
    if endings is not None and suffix not in (original.suffix.lower(), *endings):
        raise OutputError(
            f"{output} does not end in {', '.join(endings)}, and would hold {container.value}: a model is written back "
            "in the format that it came in.",
            cure=f"Name it {output.with_suffix(endings[0])}.",
        )
