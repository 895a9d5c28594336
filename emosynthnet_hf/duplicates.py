"""Pictures that are in a data set more than once.

A test picture whose twin was trained on says little about new pictures. `twins` finds those that
are identical to the last pixel.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def digests(pixels: Tensor) -> list[bytes]:
    """SHA-256 of each picture's pixels and shape: uint8 (n, ...) -> n digests."""
    header = repr(tuple(pixels.shape[1:])).encode()
    rows = pixels.contiguous().cpu().numpy()
    return [hashlib.sha256(header + row.tobytes()).digest() for row in rows]


def twins(train_pixels: Tensor, test_pixels: Tensor) -> NDArray[np.bool_]:
    """Which test pictures have a pixel-identical twin among the training pictures.

    Args:
        train_pixels: uint8 (n, C, m, m), as `PackedImages.pixels`.
        test_pixels: uint8 (N, C, m, m), packed by the same processor.

    Returns:
        (N,), true where the picture is in train as well.

    Raises:
        ValueError: pictures of two shapes or types, which cannot be identical.
    """
    ours, theirs = (
        (tuple(pixels.shape[1:]), pixels.dtype) for pixels in (train_pixels, test_pixels)
    )
    if ours != theirs:
        raise ValueError(
            f"train and test pictures must have one shape and type, got {ours}, {theirs}"
        )
    known = set(digests(train_pixels))
    return np.array([digest in known for digest in digests(test_pixels)], dtype=bool)


__all__ = ["digests", "twins"]
