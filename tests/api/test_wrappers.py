"""ART, foolbox, timm and Hugging Face wrap a module in their own ways: the same input reaches it through Normalize."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neural_cleanse.api.form import parsed
from neural_cleanse.api.scan import with_declared
from neural_cleanse.api.wrappers import unwrap
from neural_cleanse.classifier import Normalize
from neural_cleanse.errors import ModelError

MEAN, STD = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])


class Art:
    """The attributes of ART's PyTorchClassifier that are read."""

    def __init__(self, model: nn.Module, clip_values: Any, preprocessing: Any = None, operations: Any = None) -> None:
        self.model, self.clip_values = model, clip_values
        self.preprocessing, self.preprocessing_operations = preprocessing, operations


class Foolbox:
    """The attributes of foolbox's PyTorchModel that are read."""

    def __init__(self, model: nn.Module, bounds: tuple[float, float], args: tuple[Any, Any, Any]) -> None:
        self.model, self.bounds, self._preprocess_args = model, bounds, args


class Step:
    def __init__(self, mean: Any, std: Any) -> None:
        self.mean, self.std = mean, std


class Raw:
    """As eagerpy wraps a tensor."""

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw


def seen(wrapped: Any, pixels: Tensor) -> Tensor:
    """What the module inside gets for pixels in [0, 1]."""
    found = unwrap(wrapped)
    assert found is not None and isinstance(found.module, nn.Identity) and found.normalize is not None
    assert str(found.normalize) in found.notes[0]
    return found.normalize(pixels)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0), (np.zeros(3), np.ones(3))])
@pytest.mark.parametrize("how", ["pair", "step", "none"])
def test_an_art_classifier_sees_what_art_would_give_it(bounds: Any, how: str) -> None:
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    low, high = (float(np.max(bound)) for bound in bounds)
    inside = pixels * (high - low) + low
    mean, std = (torch.tensor(values).float().view(1, 3, 1, 1) for values in (MEAN, STD))
    if how == "none":
        assert torch.allclose(seen(Art(nn.Identity(), bounds), pixels), inside, atol=1e-6)
        return
    given = {"preprocessing": (MEAN, STD)} if how == "pair" else {"operations": [Step(MEAN, STD)]}
    assert torch.allclose(seen(Art(nn.Identity(), bounds, **given), pixels), (inside - mean) / std, atol=1e-4)


@pytest.mark.parametrize("flip", [None, -3])
def test_a_foolbox_model_sees_what_foolbox_would_give_it(flip: int | None) -> None:
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).float().view(3, 1, 1) for values in (MEAN, STD))
    wanted = (((pixels if flip is None else pixels.flip(1)) * 255) - mean) / std
    wrapped = Foolbox(nn.Identity(), (0, 255), (Raw(mean), Raw(std), flip))
    assert torch.allclose(seen(wrapped, pixels), wanted, atol=1e-3)


def test_preprocessing_that_is_no_normalisation_is_refused() -> None:
    with pytest.raises(ModelError, match=r"not a mean and a standard deviation: object\. Pass its \.model"):
        unwrap(Art(nn.Identity(), (0, 1), operations=[object()]))
    with pytest.raises(ModelError, match="differ from channel to channel"):
        unwrap(Art(nn.Identity(), (np.array([0, 0.1]), np.ones(2))))


def test_parallel_and_compiled_modules_are_taken_off() -> None:
    inner = nn.Linear(2, 2)
    compiled = nn.Identity()
    compiled._orig_mod = nn.DataParallel(inner)  # where torch.compile keeps the module
    found = unwrap(compiled)
    assert found is not None and found.module is inner


def test_a_timm_module_says_its_form_and_keywords_go_first() -> None:
    model = nn.Identity()
    model.pretrained_cfg = {"mean": MEAN, "std": STD, "input_size": (3, 8, 8), "crop_pct": 0.8}  # type: ignore[assignment]
    found = unwrap(model)
    assert found is not None and found.normalize == Normalize(tuple(MEAN), tuple(STD))
    crop = with_declared(model, parsed({}, "scan")).crop
    assert crop is not None and (crop.shorter, crop.size) == (10, (8, 8))
    assert with_declared(model, parsed({"resize": (9, 9)}, "scan")).crop is None


def test_names_of_a_configuration_count_unless_they_are_placeholders() -> None:
    class Config:
        def __init__(self, names: dict[int, str]) -> None:
            self.id2label = names

    cases: tuple[tuple[dict[int, str], tuple[str, ...] | None], ...] = (
        ({0: "ant", 1: "bee"}, ("ant", "bee")),
        ({0: "LABEL_0", 1: "LABEL_1"}, None),
        ({1: "x"}, None),
    )
    for names, expected in cases:
        model = nn.Identity()
        model.config = Config(names)  # type: ignore[assignment]
        found = unwrap(model)
        assert found is not None and found.label_names == expected


def test_anything_else_holds_no_model() -> None:
    assert unwrap(object()) is None and unwrap(Step(0, 1)) is None
