"""Open what a visitor uploads: a picture as RGB pixels, anything else as a sentence why not."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from emosynthnet_hf.faces import Box, Picture
from emosynthnet_hf.image_processing_emosynthnet import to_grey_or_rgb, to_pil

# Only formats that Pillow decodes itself: EPS, for one, would start Ghostscript.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
READABLE = "JPEG, PNG, WebP, AVIF, GIF, BMP and TIFF pictures can be read."

Image.init()  # registers every format that this Pillow was built with
# A telephone's 48 megapixels pass. Checked in the header, before any pixel is decoded.
MAX_PIXELS = 50_000_000
MIN_SIDE_PIXELS = 16
# Pictures are shrunk to this side: a face that is too small then was too small for the detector.
MAX_SIDE_PIXELS = 2048
# Of the chosen box, as page.css has it.
CHOSEN = "#5eead4"


class PictureError(ValueError):
    """What is wrong with a file, as a sentence for the visitor."""


@dataclass(frozen=True)
class OpenedPicture:
    """A picture, ready for detection.

    Attributes:
        pixels: RGB, uint8 (height, width, 3), at most MAX_SIDE_PIXELS a side.
        size: (width, height) in the file, turned upright.
        notes: what was changed in reading it, as sentences for the visitor.
    """

    pixels: Picture
    size: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def scale(self) -> float:
        """Pixels of the file for each of `pixels`."""
        return self.size[0] / self.pixels.shape[1]


def open_picture(path: str | Path) -> OpenedPicture:
    """Read a picture file of any mode: the first frame, upright, in RGB.

    Raises:
        PictureError: not a picture, damaged, too large or too small.
    """
    try:
        image = Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large()) from error
    except (UnidentifiedImageError, OSError, SyntaxError, struct.error) as error:
        raise PictureError(
            f"This file is not a picture that can be read here. {READABLE}"
        ) from error
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise PictureError(_too_large(width, height))
        if min(width, height) < MIN_SIDE_PIXELS:
            raise PictureError(
                f"This picture is too small: {width} x {height} pixels. "
                f"Each side needs at least {MIN_SIDE_PIXELS}."
            )
        notes = _notes(image)
        # A JPEG decoder can shrink by 2, 4 or 8 as it reads.
        image.draft(None, (MAX_SIDE_PIXELS, MAX_SIDE_PIXELS))
        try:
            upright = to_grey_or_rgb(to_pil(image), 3)
        except (
            OSError,
            SyntaxError,
            ValueError,
            EOFError,
            IndexError,
            struct.error,
            zlib.error,
        ) as error:
            raise PictureError(
                "This picture cannot be read to its end: it is damaged, cut off or of a rare kind."
            ) from error
    turned = (upright.width > upright.height) != (width > height)
    size = (height, width) if turned else (width, height)
    upright.thumbnail(
        (MAX_SIDE_PIXELS, MAX_SIDE_PIXELS), Image.Resampling.BICUBIC, reducing_gap=2.0
    )
    return OpenedPicture(np.asarray(upright), size, notes)


def with_boxes(picture: Picture, boxes: Sequence[Box], chosen: int) -> Picture:
    """A copy of the picture with its boxes, numbered from 1, that of index `chosen` in colour."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    unit = max(image.size) / 640
    font = ImageFont.load_default(12 * unit)
    for number, (left, top, right, bottom) in enumerate(boxes, start=1):
        colour = CHOSEN if number == chosen + 1 else "white"
        draw.rectangle((left, top, right, bottom), outline=colour, width=max(1, round(1.5 * unit)))
        place = (max(left, 0), max(top, 0))
        draw.rectangle(draw.textbbox(place, f" {number} ", font=font), fill=colour)
        draw.text(place, f" {number} ", fill="black", font=font)
    return np.asarray(image)


def _too_large(width: int | None = None, height: int | None = None) -> str:
    got = f": {width:,} x {height:,} pixels" if width else ""
    return (
        f"This picture is too large{got}. At most {MAX_PIXELS // 1_000_000} megapixels can be read."
    )


def _notes(image: Image.Image) -> tuple[str, ...]:
    notes = []
    # An MPO's further frames are the other eye or a depth map.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        notes.append(f"The file has {frames} frames; this is the first.")
    if image.has_transparency_data:
        notes.append("Transparent parts are shown on white.")
    if image.mode == "CMYK":
        notes.append("A CMYK picture: its colours on screen are approximate.")
    if image.mode.startswith("I") or image.mode == "F":
        notes.append("A picture of more than 8 bits a channel, shown in 8.")
    return tuple(notes)


__all__ = [
    "MAX_PIXELS",
    "MAX_SIDE_PIXELS",
    "MIN_SIDE_PIXELS",
    "OpenedPicture",
    "PictureError",
    "open_picture",
    "with_boxes",
]
