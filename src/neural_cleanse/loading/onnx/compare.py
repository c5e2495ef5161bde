"""What was built from an ONNX file against onnxruntime, where that is installed, on noise."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neural_cleanse.errors import ModelError
from neural_cleanse.loading.cures import OTHER_THAN_ONNX
from neural_cleanse.loading.onnx.file import BFLOAT16, DATA_TYPES, DOUBLE, FLOAT, FLOAT16, WHOLE_NUMBERS
from neural_cleanse.loading.onnx.input import FLAT, NHW, NHWC, ImageInput
from neural_cleanse.text import plain

TOLERANCE, TOLERANCE_16_BIT = 1e-4, 3e-2  # of onnxruntime's largest output, at least of 1
COMPARED_IMAGES, MAX_COMPARED = 2, 64  # batches of the size that the file was exported for, and that size
NUMPY_TYPES = {FLOAT: np.float32, FLOAT16: np.float16, DOUBLE: np.float64}


def compare(
    model: Any, name: str, image: ImageInput, network: nn.Module, shape: tuple[int, int, int], *, softmax: bool
) -> tuple[str, ...]:
    """Run the file in onnxruntime on noise and hold the network against it; what kept it from being compared.

    Raises ModelError when they differ.
    """
    if (image.batch or 1) > MAX_COMPARED:
        return (f"not compared with onnxruntime, since it was exported for {image.batch} images at once",)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(COMPARED_IMAGES * (image.batch or 1), *shape, generator=generator)
    if image.data_type in WHOLE_NUMBERS:
        images = torch.randint(256, images.shape, generator=generator).float()
    try:
        theirs = _run_elsewhere(model, image, images)
    except ImportError:
        return ("not compared with onnxruntime, which is not installed",)
    except Exception as error:  # onnxruntime's own kinds of error, and protobuf's for more than 2 GiB
        return (f"not compared with onnxruntime, which cannot run the file: {plain(error)}",)
    try:
        with torch.no_grad():
            ours = network(images)
    except Exception as error:  # whatever torch says of values that only real images bring
        raise ModelError(f"{name} fails on images of {list(shape)}: {plain(error)}.", cure=OTHER_THAN_ONNX) from error
    ours = ours.softmax(1) if softmax else ours
    narrow = any(tensor.data_type in (FLOAT16, BFLOAT16) for tensor in model.graph.initializer)
    room = TOLERANCE_16_BIT if narrow or image.data_type == FLOAT16 else TOLERANCE
    if theirs.shape != ours.shape:
        raise ModelError(
            f"{name} gives {list(theirs.shape)} in onnxruntime and {list(ours.shape)} as we read it.",
            cure=OTHER_THAN_ONNX,
        )
    if not torch.equal(ours.isnan(), theirs.isnan()):
        raise ModelError(f"{name} gives NaN in onnxruntime or as we read it, not in both.", cure=OTHER_THAN_ONNX)
    difference = float((ours.float() - theirs).abs().nan_to_num(0).max()) if ours.numel() else 0.0
    if difference > room * max(1.0, float(theirs.abs().nan_to_num(0).max())):
        raise ModelError(
            f"{name} gives other outputs in onnxruntime than as we read it, by up to {difference:.2g}.",
            cure="Export it again with another opset, and please report it.",
        )
    return ()


def _run_elsewhere(model: Any, image: ImageInput, images: Tensor) -> Tensor:
    """What onnxruntime makes of the images, in batches of the size that the file was exported for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it has to say, we say
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    del model.metadata_props[:]  # settings of the runtime may lie there
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = images.numpy()
    if image.layout == NHWC:
        values = values.transpose(0, 2, 3, 1)
    elif image.layout == NHW:
        values = values[:, 0]
    elif image.layout == FLAT:
        values = values.reshape(len(values), -1)
    values = np.ascontiguousarray(values).astype(NUMPY_TYPES.get(image.data_type) or DATA_TYPES[image.data_type][0])
    batches = np.split(values, COMPARED_IMAGES if image.batch else 1)
    return torch.from_numpy(np.concatenate([session.run(None, {image.name: batch})[0] for batch in batches])).float()
