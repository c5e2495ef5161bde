"""The network that stands in for the paper's transfer learning."""

import pytest
import torch

from faces import Convolution, efficientnet_lite0


@pytest.mark.parametrize(("side", "stride", "after"), [(112, 2, 56), (9, 2, 5), (8, 1, 8)])
def test_a_convolution_pads_as_tensorflow_does(side: int, stride: int, after: int) -> None:
    with torch.no_grad():
        values = Convolution(3, 4, 5, stride).eval()(torch.zeros(1, 3, side, side + 1))
    assert values.shape == (1, 4, after, -(-(side + 1) // stride))


def test_the_network_has_the_published_number_of_weights() -> None:
    """4.65 M parameters with 1,000 classes, as its authors say (4.7 M)."""
    torch.manual_seed(0)
    assert sum(one.numel() for one in efficientnet_lite0(1000).parameters()) == 4_652_008
    with torch.no_grad():
        assert efficientnet_lite0(5).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
