"""Triggers and example images as PNG bytes, enlarged without smoothing. The only part here that needs Pillow."""

import base64
import io

import torch
from jaxtyping import UInt8
from torch import Tensor

from neural_cleanse.pixel_values import to_bytes

SHOWN_SIDE = 128  # pixels: small images are enlarged to about this side on the page


def png(image: UInt8[Tensor, "c h w"], enlarge: int = 1) -> bytes:
    """One image as PNG, every pixel repeated `enlarge` times."""
    from PIL import Image

    grown = image.repeat_interleave(enlarge, 1).repeat_interleave(enlarge, 2)
    array = grown.permute(1, 2, 0).contiguous().numpy()
    stream = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(stream, format="PNG")
    return stream.getvalue()


def enlargement(height: int) -> int:
    """How often to repeat each pixel so that an image is comfortable to look at."""
    return max(1, SHOWN_SIDE // height)


def trigger_pictures(trigger: dict[str, Tensor]) -> dict[str, UInt8[Tensor, "c h w"]]:
    """mask, pattern and their product of one stored trigger (k = 1)."""
    mask, pattern = trigger["mask"][0], trigger["pattern"][0]
    return {"mask": to_bytes(mask), "pattern": to_bytes(pattern), "trigger": to_bytes(mask * pattern)}


def on_grey(trigger: dict[str, Tensor]) -> UInt8[Tensor, "c h w"]:
    """One stored trigger (k = 1) as it looks on an image of middle grey: dark and bright ones are seen alike."""
    mask, pattern = trigger["mask"][0], trigger["pattern"][0]
    return to_bytes(mask * pattern + (1 - mask) * 0.5)


def reduced(image: UInt8[Tensor, "c h w"], side: int) -> UInt8[Tensor, "c h2 w2"]:
    """The image with no side longer than so many pixels: means over areas; a small image stays as it is."""
    longest = max(image.shape[1:])
    if longest <= side:
        return image
    height, width = (max(1, round(length * side / longest)) for length in image.shape[1:])
    small = torch.nn.functional.interpolate(image.float()[None], size=(height, width), mode="area")
    return small[0].round().to(torch.uint8)


def data_uri(image: UInt8[Tensor, "c h w"], enlarge: int = 1) -> str:
    """The picture as an address that holds it, for a page without files."""
    return "data:image/png;base64," + base64.b64encode(png(image, enlarge)).decode()
