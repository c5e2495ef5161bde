"""What a scan has finished, on disk as it goes: so that one that was killed goes on where it was.

One safetensors file a record, its numbers in the header, each written whole or not at all. A finished trigger is read
from its file from then on, so that memory does not grow with the number of labels.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from neural_cleanse.errors import RIGHTS, OutputError
from neural_cleanse.files import make_directory, write_whole
from neural_cleanse.inversion.batching import Invert
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.regular_files import read_regular
from neural_cleanse.results.records import LabelPair, Outcome, Recovered
from neural_cleanse.triggers.base import Trigger

FOLDER = "unfinished"  # within the output directory
ABOUT_FILE = "scan.json"
RECORD = "record"  # in a file's header
PLAIN = ("size", "log_size_sd", "hits", "trials", "image_passes", "forward_passes", "fall", "last_size")


@dataclass(frozen=True)
class Checkpoint:
    """The records of one scan, in a directory of their own."""

    directory: Path

    @classmethod
    def within(cls, output: Path) -> "Checkpoint":
        """The one of a scan that writes to `output`."""
        return cls(output / FOLDER)

    def part(self, name: str) -> "Checkpoint":
        """The records of a part of the scan that searches the same labels in another network or space."""
        return Checkpoint(self.directory / name)

    def exists(self) -> bool:
        """Whether a scan was begun here and not finished."""
        return (self.directory / ABOUT_FILE).exists()

    def has_records(self) -> bool:
        """Whether anything was finished that a later scan need not do again."""
        return any(self.directory.glob("*.safetensors"))

    def begin(self, about: Mapping[str, Any]) -> None:
        """Say which scan this is; nothing where a budget ended it before that was known.

        Raises OutputError when what is there is of another one, with what differs.
        """
        ours = json.loads(json.dumps(about, default=str))
        path = self.directory / ABOUT_FILE
        theirs = _read_json(path) if self.exists() else {}
        if theirs:
            differing = _differences(theirs, ours) if ours else []
            if differing:
                raise OutputError(
                    f"The unfinished scan in {self.directory.parent} is another one: {'; '.join(differing)}.",
                    cure="Repeat its command with --resume, or start anew with --overwrite.",
                )
            return
        make_directory(self.directory)
        write_whole(path, json.dumps(ours, indent=2).encode())

    def wrap(self, invert: Invert, advance: Callable[[int], object] = lambda _: None) -> Invert:
        """The same, but records that are on disk are not made again, and new ones are written as they come.

        Suspended states (`resume`) are not written: they are large and cheap to repeat. `advance` is told the image
        passes of the records that are read: a budget counts them as if they had just been made.
        """
        counted: dict[LabelPair, int] = {}

        def remembering(
            inversion: Inversion, pairs: Sequence[LabelPair], resume: bool = False, record: bool = True
        ) -> Iterator[Recovered]:
            if not record:
                yield from invert(inversion, pairs, resume)
                return
            lacking = []
            for pair in pairs:
                found = self._read(inversion, pair)
                if found is None:
                    lacking.append(pair)
                else:
                    advance(found.image_passes - (counted.get(pair, 0) if resume else 0))
                    counted[pair] = found.image_passes
                    yield found
            if again := sum(counted.pop(pair, 0) for pair in lacking if resume):
                advance(-again)  # no state was kept of these: they are searched from the start
            for recovered in invert(inversion, lacking, resume):
                cut_off = recovered.outcome is Outcome.NOT_SEARCHED
                yield recovered if cut_off else self._write(inversion, recovered)

        return remembering

    def tensors(self, name: str) -> dict[str, torch.Tensor] | None:
        """Those kept under that name; None where there are none, or the file is damaged."""
        try:
            return safetensors.torch.load(read_regular(self.directory / f"{name}.safetensors"))
        except (OSError, ValueError, safetensors.SafetensorError):
            return None

    def keep(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write tensors under a name."""
        contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
        write_whole(self.directory / f"{name}.safetensors", safetensors.torch.save(contiguous))

    def remove(self) -> None:
        """The scan is finished and written elsewhere. Files that are in use (Windows) stay."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _path(self, inversion: Inversion, pair: LabelPair) -> Path:
        source = "" if pair.source is None else f".from.{pair.source}"
        return self.directory / f"{pair.target}{source}.{inversion.steps}x{inversion.restarts}.safetensors"

    def _read(self, inversion: Inversion, pair: LabelPair) -> Recovered | None:
        """None where there is no record, or a damaged one: power may fail between a write and the disk."""
        path = self._path(inversion, pair)
        try:
            with safetensors.safe_open(path, "pt") as file:
                values = json.loads(file.metadata()[RECORD])
                names = list(file.keys())
                tensors = {name: file.get_tensor(name) for name in names}
            plain = {name: values[name] for name in PLAIN}
            trigger = inversion.trigger.of(tensors) if tensors else None
            return Recovered(pair=pair, trigger=trigger, outcome=Outcome(values["outcome"]), **plain)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError):
            return None

    def _write(self, inversion: Inversion, recovered: Recovered) -> Recovered:
        """Write a record; the one that comes back holds its trigger on disk."""
        values = {name: getattr(recovered, name) for name in PLAIN} | {"outcome": recovered.outcome.value}
        tensors = _tensors(recovered.trigger)
        path = self._path(inversion, recovered.pair)
        path.parent.mkdir(exist_ok=True)
        write_whole(path, safetensors.torch.save(tensors, {RECORD: json.dumps(values)}))
        written = self._read(inversion, recovered.pair)
        return recovered if written is None else replace(recovered, trigger=written.trigger)


def _tensors(trigger: Trigger | None) -> dict[str, Any]:
    if trigger is None:
        return {}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in trigger.tensors().items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_regular(path))
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}.", cure=RIGHTS) from error
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{path} is damaged: {error}.", cure="Start anew with --overwrite.") from error
    return found if isinstance(found, dict) else {}


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What is not as it was, in words: the options that were given, or else all that differs."""
    old, new = _flat(theirs), _flat(ours)
    differing = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    # What an option brings with it (another draw of images, other steps) would only hide it.
    given = [name for name in differing if re.fullmatch(r"settings\.(\w+|plan\.name)", name)]
    return [f"{_named(name)} was {_short(old.get(name))} and is {_short(new.get(name))}" for name in given or differing]


def _named(name: str) -> str:
    """`settings.batch_images` as "batch images", `model.sha256` as "model sha256"."""
    return name.removeprefix("settings.").removesuffix(".name").replace(".", " ").replace("_", " ")


def _flat(values: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{under}{name}.") if isinstance(value, Mapping) else {f"{under}{name}": value}
    return found


def _short(value: Any) -> str:
    said = str(value)
    return said if len(said) <= 20 else f"{said[:12]}..."
