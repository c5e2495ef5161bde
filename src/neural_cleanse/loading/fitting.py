"""The tensors of a file find their places in a network by name, whatever tools have added to the names."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Size, Tensor, nn

from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import CheckpointMismatch, ModelError
from neural_cleanse.loading.byte_pixels import MAX_UNIT_MEAN
from neural_cleanse.loading.cures import NOT_FINITE, OTHER_WEIGHTS
from neural_cleanse.loading.reparametrised import PLAIN, Stored, stored_tensors, value_of
from neural_cleanse.pixel_values import PIXEL_MAX
from neural_cleanse.text import by

T = TypeVar("T")
MAX_NAME = 200  # characters of a name in a message
# Parts of a name that DataParallel, torch.compile, FSDP, activation checkpoints and Lightning add.
WRAPPERS = frozenset({
    "module", "_module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module",
})  # fmt: skip
# What training leaves beside the network: counters of profilers and averages, losses and metrics, unused heads.
COUNTERS = re.compile(r"total_(ops|params)|num_batches_tracked|n_averaged|(global_)?step|epoch|num_updates|decay")
TRAINING_ONLY = re.compile(r"criterion\w*|losses?|loss_\w+|\w+_loss|\w*metrics?|\w*_?acc(uracy)?|aux\w*", re.IGNORECASE)
# Parts of names that tell weights rounded for a fast runtime (torch.ao, bitsandbytes, GPTQ, AWQ), and adapters of peft.
ROUNDED = frozenset({
    "SCB", "_packed_params", "absmax", "quant_map", "qweight", "qzeros", "weight_format", "zero_point",
})  # fmt: skip
ADAPTERS = frozenset({"lora_A", "lora_B", "base_layer"})
CURE_ROUNDED = "Scan the network that they were made from, in float32 or float16."
MEAN, STD = re.compile(r"(pixel_|image_|img_|new_)?mean"), re.compile(r"(pixel_|image_|img_|new_)?std")


@dataclass(frozen=True)
class Fit:
    """Where a network's tensors lie in one set of weights: network's name -> how it is stored."""

    places: Mapping[str, Stored]
    prefix: str = ""
    dropped: tuple[str, ...] = ()
    normalize: Normalize | None = None
    notes: tuple[str, ...] = field(default=())


def fits(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> list[Fit]:
    """Every way in which a whole network lies in the tensors, one a prefix; shorter prefixes first.

    Raises CheckpointMismatch with the names and shapes that differ when there is none.
    """
    stored = cleaned(stored_tensors(tensors))
    ours = cleaned({key: key for key in expected})
    shapes = {key: _shape_of(one, tensors) for key, one in stored.items()}
    wanted = {key: expected[original].shape for key, original in ours.items()}
    best: list[str] = ["too few names in common"]
    for outer in _outer_prefixes(list(wanted)):
        inner = {key.removeprefix(outer): shape for key, shape in wanted.items()}
        prefixes = _prefixes(inner, shapes)
        whole = [prefix for prefix in prefixes if prefix and _is_whole(prefix, inner, shapes)]
        faults = {prefix: _faults(prefix, inner, shapes, whole) for prefix in prefixes}
        if good := [prefix for prefix in prefixes if not faults[prefix]]:
            return [
                _fit(_places(prefix, outer, wanted, stored), _said(prefix, outer), stored, ours, tensors, prefix)
                for prefix in good
            ]
        if outer == "":
            best = faults[prefixes[0]] if prefixes else best
    if places := by_their_ends(wanted, shapes):
        heads = sorted({place.removesuffix(key) for key, place in places.items()})
        said = f"names in the file begin with {some([repr(head) for head in heads])}, which were dropped"
        return [_fit(places, (said,), stored, ours, tensors)]
    raise mismatch(tensors, best, name)


def by_their_ends(wanted: Mapping[str, Size], shapes: Mapping[str, Size]) -> dict[str, str]:
    """Network's name -> name in the file, where every part of the network has a prefix of its own there.

    Empty unless each name ends one name of the file alone, and what is left over belongs to training.
    """
    ends: dict[str, list[str]] = {}
    for key in shapes:
        for start in (0, *(match.end() for match in re.finditer(r"\.", key))):
            if key[start:] in wanted:
                ends.setdefault(key[start:], []).append(key)
    places: dict[str, str] = {}
    for key, shape in wanted.items():
        found = [place for place in ends.get(key, []) if shapes[place] == shape]
        if len(found) == 1:
            places[key] = found[0]
        elif _is_needed(key):
            return {}
    used = set(places.values())
    left = [key for key in shapes if key not in used and not _may_be_dropped(key)]
    return {} if len(used) < len(places) or left else places


def mismatch(tensors: Mapping[str, Tensor], faults: list[str], name: str) -> CheckpointMismatch:
    """What is told where no network of the names fits: tensors of kinds that are known, or how the names differ."""
    parts = {part for key in tensors for part in key.split(".")}
    if parts & ROUNDED:
        return CheckpointMismatch(f"The weights in {name} are rounded for a fast runtime.", cure=CURE_ROUNDED)
    if parts & ADAPTERS:
        return CheckpointMismatch(
            f"{name} holds adapters (LoRA) beside the weights that they change.",
            cure="Merge them first (merge_and_unload in peft), and save the state_dict of that.",
        )
    return CheckpointMismatch(
        f"The weights in {name} do not fit the architecture ({'; '.join(faults)}).",
        cure="Name the network they were trained in with --architecture.",
    )


def _places(prefix: str, outer: str, names: Iterable[str], stored: Mapping[str, Stored]) -> dict[str, str]:
    places = {key: prefix + key.removeprefix(outer) for key in names}
    return {key: place for key, place in places.items() if place in stored}


def _said(prefix: str, outer: str) -> tuple[str, ...]:
    said = [f"names in the file begin with {prefix[:MAX_NAME]!r}, which was dropped"] if prefix else []
    if outer:
        said.append(f"names in the network begin with {outer[:MAX_NAME]!r}, which the file leaves out")
    return tuple(said)


def cleaned(named: Mapping[str, T]) -> dict[str, T]:
    """Without wrappers' parts in the names, unless two names became one."""
    cleaned = {".".join(part for part in key.split(".") if part not in WRAPPERS): one for key, one in named.items()}
    return cleaned if len(cleaned) == len(named) else dict(named)


def _shape_of(stored: Stored, tensors: Mapping[str, Tensor]) -> Size:
    return tensors[stored.parts[-1] if stored.kind != PLAIN and len(stored.parts) == 2 else stored.parts[0]].shape


def _outer_prefixes(names: list[str]) -> list[str]:
    """Nothing, and what all names of the network begin with: the file may hold what a wrapper of the user's wraps."""
    found, common = [""], ""
    while all("." in key[len(common) :] and key.startswith(common) for key in names):
        head = names[0][len(common) :].partition(".")[0]
        common += f"{head}."
        if not all(key.startswith(common) for key in names):
            break
        found.append(common)
    return found


def _is_needed(key: str) -> bool:
    """Batch norm's step counter takes no part in inference, and old checkpoints have none."""
    return not key.endswith("num_batches_tracked")


def _prefixes(inner: Mapping[str, Size], shapes: Mapping[str, Size]) -> list[str]:
    """What stands before the network's names in the file, by how many names it explains; a whole fit first."""
    needed = [key for key in inner if _is_needed(key)]
    counts: dict[str, int] = {"": 0}
    last_parts = {key.rpartition(".")[2] for key in needed}
    for key in shapes:
        if key.rpartition(".")[2] not in last_parts:
            continue
        for start in (0, *(match.end() for match in re.finditer(r"\.", key))):
            if key[start:] in inner and shapes[key] == inner[key[start:]] and _is_needed(key):
                counts[key[:start]] = counts.get(key[:start], 0) + 1
    return sorted(counts, key=lambda prefix: (-counts[prefix], len(prefix)))


def _is_whole(prefix: str, inner: Mapping[str, Size], shapes: Mapping[str, Size]) -> bool:
    return all(shapes.get(prefix + key) == shape for key, shape in inner.items() if _is_needed(key))


def _faults(prefix: str, inner: Mapping[str, Size], shapes: Mapping[str, Size], whole: list[str]) -> list[str]:
    """What is missing, unexpected or of another shape, in words; empty for a network that lies there whole.

    `whole` are prefixes under which it lies, perhaps once more: those names are not unexpected.
    """
    missing = sorted(key for key in inner if prefix + key not in shapes and _is_needed(key))
    others = tuple(other for other in whole if other != prefix and other.startswith(prefix))
    unexpected = sorted(
        key for key in shapes
        if key.startswith(prefix) and key[len(prefix) :] not in inner
        and not _may_be_dropped(key[len(prefix) :]) and not key.startswith(others)
        and not _may_normalize(key, shapes[key])
    )  # fmt: skip
    differing = sorted(
        f"{key[:MAX_NAME]} is {_by(shapes[prefix + key])} in the file and {_by(shape)} in the network"
        for key, shape in inner.items()
        if prefix + key in shapes and shapes[prefix + key] != shape
    )
    faults = [f"missing: {some(missing)}"] if missing else []
    faults += [f"unexpected: {some(unexpected)}"] if unexpected else []
    return faults + ([some(differing)] if differing else [])


def _may_normalize(key: str, shape: Size) -> bool:
    """Whether a tensor has the name and the size of a mean or deviation, one for the image or one a channel."""
    last = key.rpartition(".")[2]
    return shape.numel() in (1, 3) and any(pattern.fullmatch(last) for pattern in (MEAN, STD))


def _may_be_dropped(key: str) -> bool:
    first, last = key.partition(".")[0], key.rpartition(".")[2]
    return COUNTERS.fullmatch(last) is not None or ("." in key and TRAINING_ONLY.fullmatch(first) is not None)


def _fit(
    places: Mapping[str, str],
    notes: tuple[str, ...],
    stored: Mapping[str, Stored],
    ours: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    prefix: str = "",
) -> Fit:
    """The network's tensors at `places` (cleaned names of the network and of the file)."""
    found = {ours[key]: stored[place] for key, place in places.items()}
    used = {part for one in found.values() for part in one.parts}
    left = {key: one for key, one in stored.items() if not used & set(one.parts)}
    normalize, constants = _normalization(left, tensors)
    dropped = tuple(key for key in left if key not in constants and _is_needed(key))
    said = [*notes]
    if dropped:
        said.append(f"not part of the network and left out: {some(list(dropped))}")
    if normalize is not None:
        said.append(f"normalisation from the file's own {some(constants)}")
    kinds = sorted({one.kind for one in found.values()} - {PLAIN})
    said += [f"weights stored in parts were put together ({', '.join(kinds)})"] if kinds else []
    return Fit(found, prefix, dropped, normalize, tuple(said))


def _normalization(left: Mapping[str, Stored], tensors: Mapping[str, Tensor]) -> tuple[Normalize | None, list[str]]:
    """Mean and deviation of a normalising layer before the network, and their names."""
    found: dict[str, str] = {}
    for key in left:
        for what, pattern in (("mean", MEAN), ("std", STD)):
            if pattern.fullmatch(key.rpartition(".")[2]) and tensors[left[key].parts[0]].numel() in (1, 3):
                found.setdefault(what, key)
    if len(found) != 2:
        return None, []
    mean, std = (tensors[left[found[what]].parts[0]].float().flatten().tolist() for what in ("mean", "std"))
    if not all(0 < value < float("inf") for value in std) or not all(abs(value) < float("inf") for value in mean):
        raise ModelError(
            f"The normalisation in the file ({some(list(found.values()))}) is not usable.",
            cure="Ask for weights with deviations above 0, or with no normalisation.",
        )
    scale = PIXEL_MAX if max(*mean, *std) > MAX_UNIT_MEAN else 1.0
    return Normalize(tuple(mean), tuple(std), scale), list(found.values())


def fill(module: nn.Module, fit: Fit, tensors: Mapping[str, Tensor], name: str) -> None:
    """Load the tensors into the module, in its own kinds of number. Raises ModelError on what holds no values."""
    expected, values = module.state_dict(), dict[str, Tensor]()
    for key, stored in fit.places.items():
        odd = next((part for part in stored.parts if not _is_plain(tensors[part])), None)
        if odd is not None:
            raise ModelError(
                f"The weights in {name} are sparse, complex or without values, in {odd[:MAX_NAME]}: "
                "plain ones are needed.",
                cure=OTHER_WEIGHTS,
            )
        values[key] = value_of(stored, tensors)
        if expected[key].is_floating_point() and expected[key].dim() > 1 and not values[key].is_floating_point():
            raise ModelError(
                f"The weights in {name} are whole numbers, in {stored.parts[0][:MAX_NAME]}: rounded, and nothing says "
                "by what.",
                cure=CURE_ROUNDED,
            )
    broken = sorted(key for key, tensor in values.items() if not torch.isfinite(tensor.float()).all())
    if broken:
        raise ModelError(
            f"The weights in {name} hold NaN or Inf, in {some(broken)}: the network cannot be scanned.", cure=NOT_FINITE
        )
    module.load_state_dict(
        {key: tensor.to(expected[key].dtype) for key, tensor in values.items()},
        strict=False,  # only for num_batches_tracked: everything else was compared before
    )


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_complex()


def _by(shape: Size) -> str:
    return by(shape) or "a scalar"


def some(names: list[str], most: int = 6) -> str:
    """The first names, cut, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:MAX_NAME] for name in names[:most]) + more
