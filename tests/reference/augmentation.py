"""Augmentation one picture and one pixel at a time, in plain Python and numpy."""

import math

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float64]


def warp(
    picture: Picture,
    *,
    flip: bool,
    zoom: float,
    shear: float,
    rotation_degrees: float,
    shift_x: float,
    shift_y: float,
) -> Picture:
    """(C, H, W) square, resampled bilinearly; the edge is repeated. Shifts in half sides."""
    _, height, width = picture.shape
    angle = math.radians(rotation_degrees)
    result = np.zeros_like(picture)
    for row in range(height):
        for column in range(width):
            # Pixel centres from -1 to 1; what is applied last to the picture is undone first.
            x = (2 * column + 1) / width - 1
            y = (2 * row + 1) / height - 1
            x, y = x / zoom * (-1 if flip else 1), y / zoom
            x, y = x + shear * y, y
            x, y = (
                math.cos(angle) * x - math.sin(angle) * y,
                math.sin(angle) * x + math.cos(angle) * y,
            )
            x, y = x + shift_x, y + shift_y
            result[:, row, column] = sample(
                picture, ((y + 1) * height - 1) / 2, ((x + 1) * width - 1) / 2
            )
    return result


def sample(picture: Picture, row: float, column: float) -> NDArray[np.float64]:
    """The picture between its pixels, (C,), places beyond the edge moved to the edge."""
    _, height, width = picture.shape
    row, column = min(max(row, 0.0), height - 1.0), min(max(column, 0.0), width - 1.0)
    top, left = math.floor(row), math.floor(column)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = row - top, column - left
    above = (1 - across) * picture[:, top, left] + across * picture[:, top, right]
    below = (1 - across) * picture[:, bottom, left] + across * picture[:, bottom, right]
    value: NDArray[np.float64] = (1 - down) * above + down * below
    return value
