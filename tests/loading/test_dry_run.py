"""A graph without memory: shapes as they will be, and a bound before anything is reserved."""

import pytest
import torch
from torch import nn

from neural_cleanse.loading.dry_run import DryRun, TooLarge, without_memory
from neural_cleanse.loading.graph import Value


def test_shapes_are_those_of_a_real_run() -> None:
    layer = nn.Conv2d(3, 5, 3)
    dry = DryRun(images=2)
    dry.take_images("image", (3, 8, 8))
    result = dry.call(without_memory(layer), (Value("image"),))
    assert result.is_meta
    assert result.shape == layer(torch.zeros(2, 3, 8, 8)).shape


def test_nothing_is_reserved() -> None:
    dry = DryRun(images=1)
    dry.take_images("image", (1, 2**20, 2**20))
    assert dry.call(torch.add, (Value("image"), 1)).numel() == 2**40


def test_one_result_and_all_of_them_have_a_bound_for_each_image() -> None:
    dry = DryRun(images=4, each=10, total=25)
    dry.keep(("a",), (torch.empty(4, 10, device="meta"),))
    with pytest.raises(TooLarge) as one:
        dry.keep(("b",), (torch.empty(4, 11, device="meta"),))
    assert (one.value.values, one.value.total) == (11, 21)
    with pytest.raises(TooLarge) as all_of_them:
        dry.keep(("c",), ([torch.empty(4, 5, device="meta")],))
    assert all_of_them.value.total == 26
    assert set(dry.values) == {"a"}


def test_a_layer_without_memory_leaves_the_layer_as_it_was() -> None:
    layer = nn.BatchNorm2d(3)
    assert all(tensor.is_meta for tensor in without_memory(layer).state_dict().values())
    assert layer.training
    assert not any(tensor.is_meta for tensor in layer.state_dict().values())
