"""What goes wrong with pictures in use, in five strengths each, for measuring how much is lost.

Each corruption is a pure function: pixels uint8 (N, C, m, m) in, the same shape and type out, the
input untouched. What is drawn at random comes from a seed, so that every model sees the same
pictures. Unlike `augmentation`, which teaches, nothing here is tuned to keep a picture readable.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def gaussian_blur(pixels: Tensor, sigma_pixels: float) -> Tensor:
    """Gaussian filter, cut at four standard deviations, the picture mirrored beyond its edge."""
    radius = int(4 * sigma_pixels + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma_pixels) ** 2)
    kernel = (kernel / kernel.sum()).float()
    # (N, C, m, m) -> (N * C, 1, m, m): every channel by itself
    planes = pixels.float().flatten(0, 1)[:, None]
    planes = F.pad(planes, (radius,) * 4, mode="reflect")
    planes = F.conv2d(F.conv2d(planes, kernel.reshape(1, 1, 1, -1)), kernel.reshape(1, 1, -1, 1))
    return _to_bytes(planes).reshape(pixels.shape)


def gaussian_noise(pixels: Tensor, standard_deviation: float, *, seed: int = 0) -> Tensor:
    """Add independent normal noise, its deviation in grey levels of 256, to every value."""
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))
    return _to_bytes(pixels + standard_deviation * noise)


def jpeg(pixels: Tensor, quality: int) -> Tensor:
    """Write and read each picture, grey or RGB, as JPEG at a quality of 1 to 95."""
    read = []
    # (N, C, m, m) -> (N, m, m, C), or (N, m, m) where grey
    for picture in pixels.permute(0, 2, 3, 1).squeeze(-1).numpy():
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(file, "JPEG", quality=quality)
        read.append(np.asarray(Image.open(file)))
    return (
        torch.from_numpy(np.stack(read))
        .reshape(len(pixels), *pixels.shape[2:], pixels.shape[1])
        .permute(0, 3, 1, 2)
    )


def low_contrast(pixels: Tensor, factor: float) -> Tensor:
    """Shrink each value's distance from its picture's mean to `factor` of it."""
    mean = pixels.float().mean(dim=(1, 2, 3), keepdim=True)
    return _to_bytes(mean + factor * (pixels - mean))


def occlude(pixels: Tensor, side_fraction: float, *, seed: int = 0) -> Tensor:
    """Blacken a square of `side_fraction` of the picture's side, somewhere inside it at random."""
    num_pictures, size = len(pixels), pixels.shape[-1]
    side = round(side_fraction * size)
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(size - side + 1, (2, num_pictures, 1), generator=generator)
    places = torch.arange(size)
    # (2, N, m): whether a row, a column is inside
    inside = (places >= corners) & (places < corners + side)
    square = inside[0, :, None, :, None] & inside[1, :, None, None, :]
    return pixels.masked_fill(square, 0)


def rotate(pixels: Tensor, angle_degrees: float, *, seed: int = 0) -> Tensor:
    """Turn about the centre, left or right at random, bilinear, the edge drawn out beyond it."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (len(pixels),), generator=generator) * 2 - 1
    angles = signs * math.radians(angle_degrees)
    sine, cosine, zero = torch.sin(angles), torch.cos(angles), torch.zeros_like(angles)
    # (2, 3, N) -> (N, 2, 3)
    matrix = torch.stack(
        [torch.stack([cosine, -sine, zero]), torch.stack([sine, cosine, zero])]
    ).permute(2, 0, 1)
    grid = F.affine_grid(matrix, list(pixels.shape), align_corners=False)
    return _to_bytes(
        F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    )


def downscale(pixels: Tensor, side_pixels: int) -> Tensor:
    """Make each picture `side_pixels` high and wide and then as large as it was, bilinear: a face
    that was that small in its photograph.

    Raises:
        ValueError: a side larger than the picture's.
    """
    size = pixels.shape[-1]
    if side_pixels > size:
        raise ValueError(f"side_pixels must be at most {size}, the picture's, got {side_pixels}")
    small = F.interpolate(pixels.float(), (side_pixels,) * 2, mode="bilinear", antialias=True)
    return _to_bytes(F.interpolate(_to_bytes(small).float(), (size,) * 2, mode="bilinear"))


def _to_bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Corruption:
    """A corruption, the name of its strength, and five strengths from weak to strong."""

    function: Callable[..., Tensor]
    parameter: str
    strengths: tuple[float, ...]
    is_random: bool = False

    def __call__(self, pixels: Tensor, strength: float, *, seed: int = 0) -> Tensor:
        """Corrupt uint8 pixels (N, C, m, m)."""
        return (
            self.function(pixels, strength, seed=seed)
            if self.is_random
            else self.function(pixels, strength)
        )


CORRUPTIONS = {
    "blur": Corruption(gaussian_blur, "sigma_pixels", (0.5, 1.0, 1.5, 2.0, 3.0)),
    "noise": Corruption(gaussian_noise, "standard_deviation", (8, 16, 24, 32, 48), is_random=True),
    "JPEG": Corruption(jpeg, "quality", (50, 30, 20, 10, 5)),
    "low contrast": Corruption(low_contrast, "factor", (0.7, 0.5, 0.3, 0.2, 0.1)),
    "occlusion": Corruption(occlude, "side_fraction", (0.2, 0.3, 0.4, 0.5, 0.6), is_random=True),
    "rotation": Corruption(rotate, "angle_degrees", (5, 10, 20, 30, 45), is_random=True),
    "small faces": Corruption(downscale, "side_pixels", (32, 28, 24, 16, 12)),
}


__all__ = [
    "CORRUPTIONS",
    "Corruption",
    "downscale",
    "gaussian_blur",
    "gaussian_noise",
    "jpeg",
    "low_contrast",
    "occlude",
    "rotate",
]
