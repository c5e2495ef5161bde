"""Grey images and the model they are for: one channel or three equal ones, whichever the model takes."""

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import SettingsError, UnusableOutputs
from neural_cleanse.probe import wanted_channels


@runtime_checkable
class Channelled(Protocol):
    """Images that know how they look with another number of channels; None where colour would be lost."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""

    def in_channels(self, count: int) -> "Channelled | None":
        """Grey images with one channel or with three equal ones."""


@runtime_checkable
class HasClassifier(Protocol):
    """Whatever a model was read to."""

    @property
    def classifier(self) -> Classifier:
        """The model."""


ImagesT = TypeVar("ImagesT", bound=Channelled)
ReadT = TypeVar("ReadT", bound=HasClassifier)


def read_for(images: ImagesT, read: Callable[[ImagesT], ReadT]) -> tuple[ReadT, ImagesT, str | None]:
    """What `read` makes of a model for these images, or for the same grey ones with one channel or three.

    With it the images as the model takes them, and in words what was done to them. Raises what `read` raises.
    """
    other: ImagesT | None = images.in_channels(1 if images.shape[0] == 3 else 3)  # type: ignore[assignment]
    try:
        found = read(images)
    except (UnusableOutputs, SettingsError) as first:  # the second where a normalisation is for three channels
        if other is None:
            raise
        try:
            found = read(other)
        except (UnusableOutputs, SettingsError):
            if wanted_channels(first) == other.shape[0]:
                raise  # the channels are right here, so that this says what is wrong
            raise first from None
    if other is None or found.classifier.input_shape[0] != other.shape[0]:
        return found, images, None
    count = other.shape[0]
    return found, other, f"grey images with {count} channel{'s' if count > 1 else ''}, as the model takes them"
