"""Augmentation of whole batches: tensors in, tensors out, on whatever device they are."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Ranges from which each picture of a batch draws its own change; all zero changes nothing.

    Attributes:
        flip: probability of mirroring left to right, in [0, 1].
        zoom: scale factors are drawn from [1 - zoom, 1 + zoom], in [0, 1).
        shear: horizontal shear factors are drawn from [-shear, shear], at least 0.
        rotation_degrees: angles are drawn from [-rotation_degrees, rotation_degrees], in [0, 180].
        shift: horizontal and vertical shifts, as fractions of the side, are drawn from
            [-shift, shift], in [0, 1].
        brightness: added to all pixels, drawn from [-brightness, brightness], in [0, 1].
        contrast: differences from the picture's mean are multiplied by a factor drawn from
            [1 - contrast, 1 + contrast], in [0, 1].
        noise: standard deviations of Gaussian noise are drawn from [0, noise], in [0, 1].
        erasing: probability of filling one rectangle with noise, in [0, 1] (Zhong et al., 2017).

    Raises:
        ValueError: a number out of range.
    """

    flip: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    rotation_degrees: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        highest = {"shear": math.inf, "rotation_degrees": 180.0}
        for name, value in vars(self).items():
            most = highest.get(name, 1.0)
            if not 0.0 <= value <= most or (name == "zoom" and value == most):
                closing = ")" if name == "zoom" else "]"
                raise ValueError(f"{name} must be in [0, {most:g}{closing}, got {value}")


def augment(
    images: Tensor, augmentation: Augmentation, generator: torch.Generator | None = None
) -> Tensor:
    """Flip, zoom, shear, rotate and shift by one bilinear resampling, then contrast and brightness,
    then noise, then random erasing.

    Pixels from beyond the picture repeat its edge, which leaves no black corners to learn from.

    Args:
        images: (N, C, H, W) float in [0, 1].
        augmentation: the ranges.
        generator: on the images' device, for reproducible draws.

    Returns:
        (N, C, H, W) float in [0, 1], each picture changed by its own draw.
    """

    def draw(low: float, high: float) -> Tensor:
        uniform = torch.rand(len(images), generator=generator, device=images.device)
        return low + (high - low) * uniform

    def around(middle: float, spread: float) -> Tensor:
        return draw(middle - spread, middle + spread)

    matrices = sampling_matrices(
        flip=draw(0, 1) < augmentation.flip,
        zoom=around(1, augmentation.zoom),
        shear=around(0, augmentation.shear),
        rotation_degrees=around(0, augmentation.rotation_degrees),
        # grid_sample's coordinates run from -1 to 1, so a side is 2 long.
        shift_x=2 * around(0, augmentation.shift),
        shift_y=2 * around(0, augmentation.shift),
    )
    grid = F.affine_grid(matrices.to(images.dtype), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    # (N,) -> (N, 1, 1, 1)
    contrast = around(1, augmentation.contrast).view(-1, 1, 1, 1)
    brightness = around(0, augmentation.brightness).view(-1, 1, 1, 1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = ((images - mean) * contrast + mean + brightness).clamp(0, 1)
    if augmentation.noise > 0:
        normal = torch.randn(images.shape, generator=generator, device=images.device)
        deviation = draw(0, augmentation.noise).view(-1, 1, 1, 1)
        images = (images + deviation * normal).to(images.dtype).clamp(0, 1)
    if augmentation.erasing == 0:
        return images

    # Zhong et al. (2017): 2 to 40 % of the picture, sides at most 1 to 3.3, uniform noise.
    area = draw(0.02, 0.4)
    root_ratio = torch.exp(around(0, math.log(3.3)) / 2)
    boxes = rectangles(
        center_x=draw(0, 1),
        center_y=draw(0, 1),
        width=area.sqrt() * root_ratio,
        height=area.sqrt() / root_ratio,
        size=(images.shape[2], images.shape[3]),
    )
    erased = boxes & (draw(0, 1) < augmentation.erasing).view(-1, 1, 1)
    noise = torch.rand(images.shape, generator=generator, device=images.device)
    return torch.where(erased.unsqueeze(1), noise.to(images.dtype), images)


def sampling_matrices(
    *,
    flip: Tensor,
    zoom: Tensor,
    shear: Tensor,
    rotation_degrees: Tensor,
    shift_x: Tensor,
    shift_y: Tensor,
) -> Tensor:
    """Matrices that lead from a pixel of the result to the place of the picture it is read from.

    Args:
        flip: (N,) bool; the others (N,) float, shifts in units of half a side.

    Returns:
        (N, 2, 3) float: rotation times shear times scale times flip, and the shift.
    """
    radians = torch.deg2rad(rotation_degrees)
    cos, sin = radians.cos(), radians.sin()
    scale_y = 1 / zoom
    scale_x = torch.where(flip, -scale_y, scale_y)
    # [[cos, -sin], [sin, cos]] @ [[1, shear], [0, 1]] @ diag(scale_x, scale_y)
    top = [cos * scale_x, (cos * shear - sin) * scale_y, shift_x]
    bottom = [sin * scale_x, (sin * shear + cos) * scale_y, shift_y]
    return torch.stack([torch.stack(top, dim=-1), torch.stack(bottom, dim=-1)], dim=1)


def rectangles(
    *, center_x: Tensor, center_y: Tensor, width: Tensor, height: Tensor, size: tuple[int, int]
) -> Tensor:
    """Masks of one rectangle a picture, cut off at the picture's edge.

    Args:
        center_x, center_y, width, height: (N,) float, as fractions of the picture's sides.
        size: (H, W) in pixels.

    Returns:
        (N, H, W) bool, true where a pixel's centre lies in the rectangle.
    """

    def within(pixels: int, center: Tensor, length: Tensor) -> Tensor:
        centers = (torch.arange(pixels, device=center.device) + 0.5) / pixels
        return (centers - center.unsqueeze(1)).abs() < length.unsqueeze(1) / 2  # (N, pixels)

    rows, columns = within(size[0], center_y, height), within(size[1], center_x, width)
    # (N, H, 1) & (N, 1, W) -> (N, H, W)
    return rows.unsqueeze(2) & columns.unsqueeze(1)


def mixup(
    images: Tensor, targets: Tensor, alpha: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Blend each picture and its target with another's: x = l x_i + (1 - l) x_j, t alike, with l
    from Beta(alpha, alpha) (Zhang et al., 2018, eq. 1).

    Args:
        images: (N, C, H, W) float.
        targets: (N, K) probabilities.
        alpha: above 0.
        generator: on the images' device, for reproducible draws.

    Returns:
        Blended images (N, C, H, W) and targets (N, K). Each picture draws its own share, and its
        partner is the one before it in a batch that is shuffled anyway.
    """
    concentration = torch.full((len(images), 2), alpha, device=images.device)
    share = torch._sample_dirichlet(concentration, generator)[:, 0]
    image_share, target_share = share.view(-1, 1, 1, 1), share.view(-1, 1)
    return (
        torch.lerp(images.roll(1, 0), images, image_share.to(images.dtype)),
        torch.lerp(targets.roll(1, 0), targets, target_share.to(targets.dtype)),
    )


__all__ = ["Augmentation", "augment", "mixup", "rectangles", "sampling_matrices"]
