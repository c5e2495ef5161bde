"""What the names of the arrays in a file say: images and labels, or the weights of a network."""

from collections.abc import Sequence

# Names of images and of their labels, images that a model was not trained on first; case does not count.
PAIRS = (
    ("images", "labels"), ("x_test", "y_test"), ("test_images", "test_labels"), ("test_x", "test_y"),
    ("test_set_x", "test_set_y"), ("x_val", "y_val"), ("val_images", "val_labels"), ("x_valid", "y_valid"),
    ("image", "label"), ("imgs", "labels"), ("x", "y"), ("features", "labels"), ("data", "labels"), ("data", "target"),
    ("x_train", "y_train"), ("train_images", "train_labels"), ("train_set_x", "train_set_y"), ("arr_0", "arr_1"),
)  # fmt: skip
OTHER_LABELS = ("label", "labels", "y", "target", "targets", "fine_labels")
ANY_LABELS = ("images", "image", "imgs", "data", "x", "features")  # names that say nothing of their labels' name
SUFFIX = ".npy"  # of an array's entry in an .npz
WEIGHTS = ("weight", "bias", "kernel")  # last parts of names that say so


def pair_of(files: Sequence[str]) -> tuple[str, str | None] | None:
    """What images and labels are called among these names; None where nothing has a name of images."""
    lower = {name.lower().removesuffix("_orig"): name for name in files}
    for images, labels in PAIRS:
        if images in lower:
            others = OTHER_LABELS if images in ANY_LABELS else ()
            return lower[images], next((lower[name] for name in (labels, *others) if name in lower), None)
    return None


def are_weights(names: Sequence[str]) -> bool:
    """Whether arrays of these names are weights, and no images."""
    return pair_of(names) is None and any(dotted(name).rpartition(".")[2] in WEIGHTS for name in names)


def dotted(name: str) -> str:
    """Some join the parts of a name with slashes."""
    return name.replace("/", ".")
