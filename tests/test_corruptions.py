"""Corruptions against scipy, Pillow, closed forms and slow loops."""

import io
import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from torch import Tensor

from emosynthnet_hf import corruptions
from emosynthnet_hf.corruptions import CORRUPTIONS


def pictures(count: int = 3, channels: int = 1, size: int = 48) -> Tensor:
    """Smooth random pictures that use most of the range."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(count, channels, size, size))
    values = scipy.ndimage.gaussian_filter(values, (0, 0, 2, 2))
    low, high = values.min(), values.max()
    return torch.from_numpy(np.round(20 + 215 * (values - low) / (high - low)).astype(np.uint8))


def difference(ours: Tensor, theirs: np.ndarray) -> int:
    return int(np.abs(ours.numpy().astype(int) - theirs.astype(int)).max())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_is_a_pure_function_of_its_seed(name: str, channels: int) -> None:
    pixels = pictures(20, channels)
    before = pixels.clone()
    corruption = CORRUPTIONS[name]
    results = [corruption(pixels, strength, seed=3) for strength in corruption.strengths]
    assert torch.equal(pixels, before)
    for result in results:
        assert result.shape == pixels.shape and result.dtype == torch.uint8
    assert torch.equal(corruption(pixels, corruption.strengths[2], seed=3), results[2])
    other = corruption(pixels, corruption.strengths[2], seed=4)
    assert torch.equal(other, results[2]) is not corruption.is_random
    assert len(corruption.strengths) == 5


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_stronger_is_further_from_the_picture(name: str) -> None:
    pixels = pictures(20)
    corruption = CORRUPTIONS[name]
    distances = [
        float((corruption(pixels, strength).float() - pixels.float()).abs().mean())
        for strength in corruption.strengths
    ]
    assert distances == sorted(set(distances))


@pytest.mark.parametrize("sigma", CORRUPTIONS["blur"].strengths)
def test_blur_equals_scipy(sigma: float) -> None:
    pixels = pictures(channels=3)
    expected = scipy.ndimage.gaussian_filter(
        pixels.numpy().astype(float), (0, 0, sigma, sigma), mode="mirror", truncate=4
    )
    # A value on the edge between two grey levels may be rounded to either.
    assert difference(corruptions.gaussian_blur(pixels, sigma), expected.round()) <= 1


def test_noise_has_its_mean_and_deviation() -> None:
    pixels = torch.full((20, 1, 48, 48), 128, dtype=torch.uint8)
    noise = corruptions.gaussian_noise(pixels, 16).double() - 128
    # Rounding adds a variance of 1 / 12; four standard errors.
    assert float(noise.mean()) == pytest.approx(0, abs=4 * 16 / math.sqrt(noise.numel()))
    assert float(noise.std()) == pytest.approx(math.sqrt(16**2 + 1 / 12), rel=0.014)
    assert torch.equal(corruptions.gaussian_noise(pixels, 0), pixels)


def test_noise_is_clipped() -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).repeat(500).reshape(1, 1, 1, 1000)
    noisy = corruptions.gaussian_noise(pixels, 16)
    black, white = noisy[..., ::2].float(), noisy[..., 1::2].float()
    # Half of the noise is cut off, half of a normal has the mean sigma / sqrt(2 pi).
    expected = 16 / math.sqrt(2 * math.pi)
    assert float(black.mean()) == pytest.approx(expected, abs=2)
    assert float(white.mean()) == pytest.approx(255 - expected, abs=2)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_jpeg_equals_pillow(channels: int, mode: str) -> None:
    pixels = pictures(channels=channels)
    for picture, result in zip(pixels, corruptions.jpeg(pixels, 20), strict=True):
        rows = [
            bytes(int(value) for value in picture[:, row].T.flatten()) for row in range(48)
        ]  # row by row, channels last
        file = io.BytesIO()
        Image.frombytes(mode, (48, 48), b"".join(rows)).save(file, format="JPEG", quality=20)
        read = np.asarray(Image.open(file)).reshape(48, 48, channels)
        np.testing.assert_array_equal(result.numpy(), read.transpose(2, 0, 1))


def test_low_contrast_by_hand() -> None:
    pixels = torch.tensor([[0, 100], [200, 100]], dtype=torch.uint8)[None, None]
    expected = [[50, 100], [150, 100]]
    assert corruptions.low_contrast(pixels, 0.5)[0, 0].tolist() == expected


def test_occlusion_is_one_square_anywhere_inside() -> None:
    pixels = torch.full((400, 3, 10, 10), 7, dtype=torch.uint8)
    result = corruptions.occlude(pixels, 0.3)
    corners = set()
    for picture in result:
        assert all(torch.equal(picture[0], channel) for channel in picture)
        black = (picture[0] == 0).nonzero()
        (top, left), (bottom, right) = black.min(dim=0).values, black.max(dim=0).values
        assert len(black) == 9 and bottom - top == right - left == 2
        corners.add((int(top), int(left)))
    assert len(corners) > 0.95 * 64
    assert {row for row, _ in corners} == {column for _, column in corners} == set(range(8))


@pytest.mark.parametrize("angle", CORRUPTIONS["rotation"].strengths)
def test_rotation_equals_scipy(angle: float) -> None:
    pixels = pictures(8)
    turned = set()
    for picture, result in zip(pixels, corruptions.rotate(pixels, angle), strict=True):
        distances = [
            difference(
                result[0],
                scipy.ndimage.rotate(
                    picture[0].numpy().astype(float),
                    sign * angle,
                    reshape=False,
                    order=1,
                    mode="nearest",
                ).round(),
            )
            for sign in (1, -1)
        ]
        assert min(distances) <= 1 < max(distances)
        turned.add(distances.index(min(distances)))
    assert turned == {0, 1}


@pytest.mark.parametrize("side", CORRUPTIONS["small faces"].strengths)
def test_downscaling_equals_pillow(side: int) -> None:
    pixels = pictures()
    for picture, result in zip(pixels, corruptions.downscale(pixels, side), strict=True):
        small = Image.fromarray(picture[0].numpy()).resize((side, side), Image.Resampling.BILINEAR)
        back = small.resize((48, 48), Image.Resampling.BILINEAR)
        # Pillow computes in whole numbers and may round the small picture otherwise.
        assert difference(result[0], np.asarray(back)) <= 2


def test_downscaling_to_the_same_size_changes_nothing() -> None:
    pixels = pictures()
    assert torch.equal(corruptions.downscale(pixels, 48), pixels)
    with pytest.raises(ValueError, match="side_pixels must be at most 48, the picture's, got 49"):
        corruptions.downscale(pixels, 49)
