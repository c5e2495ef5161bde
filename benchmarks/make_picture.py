"""The picture of the README: trigger sizes of all labels beside the trigger, an image before and the same after.

    make demo
    python benchmarks/make_picture.py out/demo/infected docs/demo.png

Everything in it comes from the files of that scan.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from neural_cleanse.report.pictures import on_grey, trigger_pictures
from neural_cleanse.report.text import Titles, bars
from neural_cleanse.results import storage
from neural_cleanse.results.records import ScanResult

WIDTH, HEIGHT, CHART = 1320, 380, 560  # pixels; CHART is the share of the bars
INK, SOFT, BAR, ALARM, PAPER = "#1c2024", "#555c63", "#4f6f92", "#b42323", "#ffffff"
SHOWN = 12  # labels, the smallest
TILE, GAP, TOP = 168, 22, 110


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def picture(result: ScanResult) -> Image.Image:
    """The whole picture of a scan that flagged a label. Raises ValueError where it flagged none."""
    if not result.evidence:
        raise ValueError("the scan flagged no label: there is no trigger to show")
    whole = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    _sizes(ImageDraw.Draw(whole), result)
    evidence = result.evidence[0]
    trigger, titles = dict(result.triggers[evidence.pair]), Titles(result)
    tiles = [
        ("mask", trigger_pictures(trigger)["mask"]),
        ("trigger on grey", on_grey(trigger)),
        (f"answered {titles.label(evidence.answers_before[0])}", evidence.before[0]),
        (f"answered {titles.label(evidence.answers_after[0])}", evidence.after[0]),
    ]
    _tiles(whole, tiles)
    return whole


def _sizes(draw: ImageDraw.ImageDraw, result: ScanResult) -> None:
    """A bar a label, smallest on top."""
    titles = Titles(result)
    rows = [bar for bar in bars(result) if bar.row.size is not None][:SHOWN]
    largest = max(bar.share for bar in rows)
    draw.text((24, 20), "Smallest patch that sends images to each label", INK, _font(20))
    step = (HEIGHT - 90) / len(rows)
    for number, bar in enumerate(rows):
        y, colour = 60 + number * step, ALARM if bar.flagged else BAR
        draw.text((24, y), f"label {titles.short(bar.row, 9)}", colour if bar.flagged else INK, _font(16))
        length = (CHART - 240) * bar.share / largest
        draw.rectangle((130, y + 2, 130 + max(2, length), y + step - 8), colour)
        remark = ", flagged" if bar.flagged else ""
        draw.text((140 + length, y), f"{bar.row.size:.0f} px{remark}", colour if bar.flagged else SOFT, _font(16))


def _tiles(whole: Image.Image, tiles: Sequence[tuple[str, UInt8[Tensor, "c h w"]]]) -> None:
    """Pictures in a row, enlarged without smoothing, each over its name."""
    draw = ImageDraw.Draw(whole)
    draw.text((CHART, 20), "What was found, and what it does", INK, _font(20))
    for number, (name, image) in enumerate(tiles):
        array = image.permute(1, 2, 0).contiguous().numpy()
        tile = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).convert("RGB")
        x = CHART + number * (TILE + GAP)
        whole.paste(tile.resize((TILE, TILE), Image.Resampling.NEAREST), (x, TOP))
        draw.rectangle((x - 1, TOP - 1, x + TILE, TOP + TILE), outline="#d9dde1")
        draw.text((x, TOP + TILE + 12), name, SOFT, _font(17))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    picture(storage.load_result(given.scan)).save(given.output, optimize=True)
