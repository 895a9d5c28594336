"""Heat maps for the eye: a raw map -> colours -> laid over a crop, or over a face in its picture.

numpy and Pillow only; arrays in, arrays out. Maps are normalised here and nowhere before.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

Heatmap = NDArray[np.float32]
Picture = NDArray[np.uint8]

# From dark violet to pale yellow, lightness rising all the way (the anchors of "inferno").
COLOURS = np.array(
    [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float32
)


def normalize_map(heatmap: ArrayLike) -> Heatmap:
    """A raw map (h, w) in [0, 1]: negative values are cut, the rest divided by the largest.

    Each map is scaled by itself, so two maps side by side do not compare in strength. A map without
    a positive value is all 0.

    Raises:
        ValueError: another shape, or numbers that are not finite.
    """
    values = np.asarray(heatmap, dtype=np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"a map must have shape (h, w) and finite numbers, got {values.shape}")
    positive = np.maximum(values, 0)
    largest = positive.max()
    return positive / largest if largest > 0 else positive


def colourize(values: ArrayLike) -> Picture:
    """Values (h, w) in [0, 1] as colours, uint8 (h, w, 3)."""
    positions = np.linspace(0, 1, len(COLOURS))
    channels = [
        np.interp(np.asarray(values), positions, COLOURS[:, channel]) for channel in range(3)
    ]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def heat_picture(heatmap: ArrayLike, alpha: float = 0.75) -> Picture:
    """A raw map (h, w) as uint8 (h, w, 4), RGB and opacity, to be laid over a picture.

    Opacity grows with the map's value, from 0 to `alpha`, so that a picture stays visible where the
    map says nothing.

    Raises:
        ValueError: as in `normalize_map`, or alpha outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    values = normalize_map(heatmap)
    opacity = np.round(255 * alpha * values).astype(np.uint8)
    return np.concatenate([colourize(values), opacity[..., None]], axis=-1)


def overlay_heatmap(picture: ArrayLike, heatmap: ArrayLike, alpha: float = 0.75) -> Picture:
    """A raw map (h, w), resized bilinearly, over a picture of any size.

    Args:
        picture: uint8 (H, W, 3), or (H, W) grey.
        heatmap: (h, w).
        alpha: opacity where the map is largest, in [0, 1].

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: as in `heat_picture`, or another picture.
    """
    height, width = np.asarray(picture).shape[:2]
    return overlay_on_picture(picture, heatmap, (0.0, 0.0, float(width), float(height)), alpha)


def overlay_on_picture(
    picture: ArrayLike,
    heatmap: ArrayLike,
    box: tuple[float, float, float, float],
    alpha: float = 0.75,
) -> Picture:
    """The raw map of a crop (h, w) laid back on the picture that the crop was cut from.

    Args:
        picture: uint8 (H, W, 3), or (H, W) grey.
        heatmap: (h, w).
        box: of the crop, (left, top, right, bottom) in pixels; it may reach beyond the picture.
        alpha: opacity where the map is largest, in [0, 1].

    Returns:
        uint8 (H, W, 3), the picture itself outside the box.

    Raises:
        ValueError: as in `heat_picture`, another picture, or an empty box.
    """
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"a picture must be uint8 of shape (H, W) or (H, W, 3), "
            f"got {pixels.dtype} of shape {pixels.shape}"
        )
    left, top, right, bottom = (round(edge) for edge in box)
    if left >= right or top >= bottom:
        raise ValueError(f"box must be (left, top, right, bottom) with an area, got {box}")
    canvas = Image.fromarray(pixels).convert("RGB")
    heat = Image.fromarray(heat_picture(heatmap, alpha))
    heat = heat.resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    canvas.paste(heat, (left, top), heat)
    return np.asarray(canvas)


__all__ = [
    "Heatmap",
    "Picture",
    "colourize",
    "heat_picture",
    "normalize_map",
    "overlay_heatmap",
    "overlay_on_picture",
]
