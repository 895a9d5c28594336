"""Pictures that are in a data set more than once.

A test picture whose twin was trained on says little about new pictures. `twins` finds those that
are identical to the last pixel; `near_pairs` finds pictures that differ by brightness, contrast,
compression, a watermark or a slightly different cut, as they are or mirrored.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

THUMBNAIL = 32
# Chosen by eye on FER-2013 and CIFAR-10, test against train, looking at a sample of the pairs in
# each tenth of the detail's correlation: above 0.7 nearly all show one photograph, below 0.5 most
# pairs show two. The outline alone takes two ships on the sea, or two pale faces, for one.
OUTLINE = 0.93
DETAIL = 0.7


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
            f"train and test pictures must have one shape and type, got {ours} and {theirs}"
        )
    known = set(digests(train_pixels))
    return np.array([digest in known for digest in digests(test_pixels)], dtype=bool)


def thumbnails(pixels: Tensor) -> Tensor:
    """uint8 (n, C, h, w) -> grey float32 (n, 32, 32), each the mean of the area it covers."""
    grey = pixels.float().mean(dim=1, keepdim=True)
    return functional.interpolate(grey, size=(THUMBNAIL, THUMBNAIL), mode="area").squeeze(1)


@dataclass(frozen=True)
class NearPairs:
    """Pairs of pictures that show one photograph.

    Attributes:
        first, second: int64 (p,), places of the two pictures, first < second.
        mirrored: bool (p,), the second is the first's mirror image.
        detail: float32 (p,), correlation of the details, see `near_pairs`.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    detail: NDArray[np.float32]


@torch.inference_mode()
def near_pairs(
    pictures: Tensor, *, outline: float = OUTLINE, detail: float = DETAIL, chunk: int = 2048
) -> NearPairs:
    """All pairs among n pictures that are alike, by two normalised correlations.

    The outline is the thumbnail averaged to 16 x 16; the detail is the thumbnail without its local
    mean (5 x 5). Every pair is compared by outline, as one matrix product; those alike are
    compared by detail. Both ignore brightness and contrast.

    Args:
        pictures: float32 (n, 32, 32), from `thumbnails`.
        outline, detail: least correlations, in (0, 1].
        chunk: rows of the matrix of correlations that are in memory at a time.

    Raises:
        ValueError: no pictures.
    """
    if not len(pictures):
        raise ValueError("pictures must be at least 1, got 0")
    outlines, details = _outlines(pictures), _details(pictures)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for flip, others in ((False, pictures), (True, pictures.flip(-1))):
        other_outlines, other_details = _outlines(others), _details(others)
        for start in range(0, len(pictures), chunk):
            # Only pairs with first < second: (chunk, n - start)
            alike = outlines[start : start + chunk] @ other_outlines[start:].T
            places = torch.nonzero(torch.triu(alike, 1) >= outline) + start
            first, second = places.T
            correlation = (details[first] * other_details[second]).sum(dim=1)
            keep = correlation >= detail
            first, second, correlation = first[keep], second[keep], correlation[keep]
            found.append((first, second, torch.full_like(first, flip).bool(), correlation))
    first, second, mirrored, correlation = (torch.cat(part) for part in zip(*found, strict=True))
    # A symmetric pair is found twice: unique keeps the first of the two, which is not mirrored.
    _, kept = np.unique((first * len(pictures) + second).numpy(), return_index=True)
    return NearPairs(
        first.numpy()[kept],
        second.numpy()[kept],
        mirrored.numpy()[kept],
        correlation.numpy()[kept],
    )


def _outlines(pictures: Tensor) -> Tensor:
    """(n, 32, 32) -> unit vectors (n, 256) with mean 0."""
    small = functional.avg_pool2d(pictures.unsqueeze(1), 2).flatten(1)
    return _unit(small - small.mean(dim=1, keepdim=True))


def _details(pictures: Tensor) -> Tensor:
    """(n, 32, 32) -> unit vectors (n, 1024) with local mean 0."""
    channel = pictures.unsqueeze(1)
    local = functional.avg_pool2d(channel, 5, stride=1, padding=2, count_include_pad=False)
    return _unit((channel - local).flatten(1))


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors, dim=1)


__all__ = ["NearPairs", "digests", "near_pairs", "thumbnails", "twins"]
