"""Batched augmentation against closed forms and a slow oracle."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emosynthnet_hf.augmentation import (
    Augmentation,
    augment,
    mixup,
    rectangles,
    sampling_matrices,
)
from tests.reference.augmentation import warp

NOTHING = {
    "flip": torch.tensor([False]),
    "zoom": torch.ones(1),
    "shear": torch.zeros(1),
    "rotation_degrees": torch.zeros(1),
    "shift_x": torch.zeros(1),
    "shift_y": torch.zeros(1),
}


def warped(images: Tensor, **changes: Tensor) -> Tensor:
    matrices = sampling_matrices(**(NOTHING | changes)).to(images.dtype)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def pictures(count: int = 1, side: int = 8, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, side, side, generator=generator, dtype=torch.float64)


def test_all_zero_changes_nothing() -> None:
    images = pictures(4, channels=3).float()
    torch.testing.assert_close(augment(images, Augmentation()), images, rtol=0, atol=2e-6)


def test_a_flip_is_exact() -> None:
    images = pictures(5)
    got = augment(images, Augmentation(flip=1.0))
    torch.testing.assert_close(got, images.flip(-1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns(quarters: int) -> None:
    images = pictures()
    got = warped(images, rotation_degrees=torch.tensor([90.0 * quarters]))
    torch.testing.assert_close(got, torch.rot90(images, quarters, (2, 3)), rtol=0, atol=1e-5)


def test_shifts_by_whole_pixels() -> None:
    images = pictures()
    got = warped(images, shift_x=torch.tensor([2 * 3 / 8]), shift_y=torch.tensor([-2 * 1 / 8]))
    torch.testing.assert_close(got[..., 1:, :5], images[..., :-1, 3:], rtol=0, atol=1e-6)
    # Beyond the picture its edge is repeated.
    torch.testing.assert_close(got[..., 1:, 5:], images[..., :-1, 7:].expand(-1, -1, -1, 3))


def test_zoom_by_two_halves_a_ramp() -> None:
    ramp = torch.arange(8, dtype=torch.float64).expand(1, 1, 8, 8)
    got = warped(ramp, zoom=torch.tensor([2.0]))
    # Centres at 3.5 stay; neighbours are half a pixel apart.
    want = 3.5 + (torch.arange(8, dtype=torch.float64) - 3.5) / 2
    torch.testing.assert_close(got[0, 0], want.expand(8, 8))


@pytest.mark.parametrize("seed", range(6))
def test_the_slow_oracle_agrees(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 2, 9, 9, generator=generator, dtype=torch.float64)
    numbers = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    changes = {
        "flip": torch.tensor([True, False, True]),
        "zoom": 0.7 + 0.6 * numbers[0],
        "shear": numbers[1] - 0.5,
        "rotation_degrees": 90 * (numbers[2] - 0.5),
        "shift_x": numbers[3] - 0.5,
        "shift_y": numbers[4] - 0.5,
    }
    got = warped(images, **changes)
    for number in range(3):
        one = {name: values[number].item() for name, values in changes.items()}
        want = torch.from_numpy(warp(images[number].numpy(), **one))  # type: ignore[arg-type]
        torch.testing.assert_close(got[number], want, rtol=0, atol=1e-9)


def test_brightness_and_contrast_by_hand() -> None:
    # Grey 0.5 has no contrast; what is added is the same for all its pixels and at most 0.2.
    grey = torch.full((200, 1, 4, 4), 0.5)
    added = augment(grey, Augmentation(brightness=0.2)) - 0.5
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added), rtol=0, atol=1e-6)
    assert added.abs().max() <= 0.2 + 1e-6
    assert added.min() < -0.15
    assert added.max() > 0.15
    # Black and white halves: the mean stays 0.5, the spread is multiplied by 0.7 to 1.3 and cut.
    halves = torch.zeros(200, 1, 4, 4)
    halves[..., 2:] = 1
    got = augment(halves, Augmentation(contrast=0.3))
    torch.testing.assert_close(got.mean(dim=(1, 2, 3)), torch.full((200,), 0.5))
    assert got.min() >= 0
    assert got.max() <= 1
    assert 0.7 - 1e-6 <= (got.amax(dim=(1, 2, 3)) - got.amin(dim=(1, 2, 3))).min() < 0.75


def test_noise_is_gaussian_with_a_deviation_of_its_own_for_each_picture() -> None:
    grey = torch.full((400, 1, 24, 24), 0.5)
    got = augment(grey, Augmentation(noise=0.1), torch.Generator().manual_seed(0)) - 0.5
    assert abs(got.mean().item()) < 0.001
    # Uniform on [0, 0.1], each known to 3 % from its 576 pixels: mean 0.05, deviation 0.1 / 12^0.5.
    deviations = got.std(dim=(1, 2, 3))
    assert deviations.max() < 0.112
    assert abs(deviations.mean().item() - 0.05) < 4 * (0.1 / 12**0.5) / 400**0.5
    assert abs(deviations.std().item() - 0.1 / 12**0.5) < 0.004
    # Of a normal distribution 68.27 % lie within one deviation, of a uniform one 57.7 %.
    within = (got.abs() < deviations.view(-1, 1, 1, 1)).float().mean().item()
    assert abs(within - 0.6827) < 0.005
    black = augment(torch.zeros(8, 1, 4, 4), Augmentation(noise=0.5))
    assert black.min() == 0
    assert 0 < black.max() <= 1


def test_half_of_the_pictures_are_flipped() -> None:
    images = pictures(1, 8).float().expand(2000, -1, -1, -1)
    got = augment(images, Augmentation(flip=0.5), torch.Generator().manual_seed(0))
    flipped = (got - images.flip(-1)).abs().amax(dim=(1, 2, 3)) < 1e-5
    straight = (got - images).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert bool((flipped ^ straight).all())
    assert abs(flipped.float().mean().item() - 0.5) < 4 * (0.25 / 2000) ** 0.5


def test_rectangles_by_hand() -> None:
    # Centres of 4 pixels lie at 1/8, 3/8, 5/8 and 7/8.
    masks = rectangles(
        center_x=torch.tensor([0.5, 0.0]),
        center_y=torch.tensor([0.25, 1.0]),
        width=torch.tensor([0.5, 0.8]),
        height=torch.tensor([0.3, 0.3]),
        size=(4, 4),
    )
    inside = [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    cut_off = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert masks.int().tolist() == [inside, cut_off]


def test_erasing_fills_one_rectangle_of_noise_in_its_share_of_the_pictures() -> None:
    images = torch.ones(2000, 1, 16, 16)  # which uniform noise in [0, 1) never is
    got = augment(images, Augmentation(erasing=0.5), torch.Generator().manual_seed(0))
    changed = (got != 1).squeeze(1)
    share = changed.any(dim=(1, 2)).float().mean().item()
    assert abs(share - 0.5) < 4 * (0.25 / 2000) ** 0.5
    # A set of pixels is a rectangle where it is as large as its bounding box.
    rows, columns = changed.any(dim=2).sum(dim=1), changed.any(dim=1).sum(dim=1)
    assert torch.equal(rows * columns, changed.sum(dim=(1, 2)))
    noise = got[changed.unsqueeze(1)]
    assert abs(noise.mean().item() - 0.5) < 0.01
    assert abs(noise.std().item() - 12**-0.5) < 0.01


def test_mixup_blends_pictures_and_targets_by_the_same_share() -> None:
    # Each picture holds its own number, each target is its own class: both must tell one story.
    images = torch.arange(400.0).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    blended, targets = mixup(images, torch.eye(400), 0.4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(400))
    want = (targets @ torch.arange(400.0)).view(-1, 1, 1, 1).expand_as(blended)
    torch.testing.assert_close(blended, want, rtol=1e-4, atol=1e-2)
    assert bool(((targets > 0).sum(dim=1) <= 2).all())
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    share = targets.diagonal().numpy()
    deviation = (1 / (4 * 1.8)) ** 0.5
    assert abs(share.mean() - 0.5) < 4 * deviation / 400**0.5
    assert abs(np.std(share) - deviation) < 0.04


def test_a_generator_repeats_its_draws() -> None:
    images = pictures(4).float()
    everything = Augmentation(0.5, 0.2, 0.2, 10.0, 0.1, 0.2, 0.2, 0.1, 0.5)
    first, second, third = (
        augment(images, everything, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert not torch.allclose(first[0] - images[0], first[1] - images[1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"flip": 1.5}, r"flip must be in \[0, 1\], got 1.5"),
        ({"zoom": 1.0}, r"zoom must be in \[0, 1\), got 1.0"),
        ({"shear": -0.1}, r"shear must be in \[0, inf\], got -0.1"),
        ({"rotation_degrees": 181.0}, r"rotation_degrees must be in \[0, 180\], got 181.0"),
        ({"contrast": float("nan")}, r"contrast must be in \[0, 1\], got nan"),
    ],
)
def test_ranges_are_checked(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**fields)
