"""Heat maps on pictures, by hand."""

import numpy as np
import pytest

from emosynthnet_hf.overlay import (
    colourize,
    heat_picture,
    normalize_map,
    overlay_heatmap,
    overlay_on_picture,
)


def test_a_map_is_divided_by_its_largest_and_cut_at_zero() -> None:
    got = normalize_map([[-4.0, 0.0], [1.0, 2.0]])
    np.testing.assert_array_equal(got, [[0, 0], [0.5, 1]])


def test_a_map_without_a_positive_value_is_zero() -> None:
    np.testing.assert_array_equal(normalize_map([[-1.0, 0.0]]), [[0, 0]])


@pytest.mark.parametrize("heatmap", [[1.0, 2.0], [[np.nan]], [[np.inf]], np.zeros((0, 3))])
def test_a_map_that_is_none_is_refused(heatmap: object) -> None:
    with pytest.raises(ValueError, match=r"shape \(h, w\) and finite"):
        normalize_map(heatmap)  # type: ignore[arg-type]


def test_colours_between_two_anchors() -> None:
    # A quarter of the way lies on the second anchor, an eighth half-way between the first two.
    np.testing.assert_array_equal(colourize([[0.0, 0.125, 0.25, 1.0]])[0, 0], [0, 0, 4])
    np.testing.assert_array_equal(colourize([[0.125]])[0, 0], [44, 8, 57])
    np.testing.assert_array_equal(colourize([[0.25]])[0, 0], [87, 16, 110])
    np.testing.assert_array_equal(colourize([[1.0]])[0, 0], [252, 255, 164])


def test_lightness_rises_with_the_value() -> None:
    colours = colourize(np.linspace(0, 1, 256)[None])[0] / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]  # sRGB, IEC 61966-2-1
    assert np.all(np.diff(luminance) > -1e-3)
    assert luminance[-1] > 0.9 > 0.01 > luminance[0]


def test_opacity_follows_the_map() -> None:
    picture = heat_picture([[0.0, 5.0], [10.0, 10.0]], alpha=0.5)
    np.testing.assert_array_equal(picture[..., 3], [[0, 64], [128, 128]])


def test_the_map_covers_its_box_and_nothing_else() -> None:
    picture = np.full((20, 30, 3), 100, dtype=np.uint8)
    laid = overlay_on_picture(picture, np.ones((4, 4)), (5, 6, 15, 16), alpha=1.0)
    inside = np.zeros((20, 30), dtype=bool)
    inside[6:16, 5:15] = True
    np.testing.assert_array_equal(laid[inside], np.broadcast_to([252, 255, 164], (100, 3)))
    np.testing.assert_array_equal(laid[~inside], 100)
    np.testing.assert_array_equal(picture, 100)


def test_a_box_may_reach_beyond_the_picture() -> None:
    heatmap = np.zeros((2, 2))
    heatmap[1, 1] = 1  # the corner that lies in the picture
    laid = overlay_on_picture(np.zeros((8, 8), np.uint8), heatmap, (-8, -8, 8, 8), alpha=1.0)
    assert laid[7, 7].tolist() == [252, 255, 164]


def test_half_opaque_heat_is_half_of_each() -> None:
    laid = overlay_heatmap(np.full((3, 3), 100, np.uint8), np.ones((1, 1)), alpha=0.5)
    want = [100 + 0.5 * (colour - 100) for colour in (252, 255, 164)]
    np.testing.assert_allclose(laid[1, 1], want, atol=1)


@pytest.mark.parametrize(
    ("picture", "box", "alpha", "message"),
    [
        (np.zeros((4, 4, 3)), (0, 0, 4, 4), 0.5, "uint8.*got float64"),
        (np.zeros((4, 4, 4), np.uint8), (0, 0, 4, 4), 0.5, r"got uint8 of shape \(4, 4, 4\)"),
        (np.zeros((4, 4, 3), np.uint8), (4, 0, 4, 4), 0.5, "box must be"),
        (np.zeros((4, 4, 3), np.uint8), (0, 0, 4, 4), 1.5, r"alpha must be in \[0, 1\], got 1.5"),
    ],
)
def test_errors_say_what_was_got(
    picture: np.ndarray, box: tuple[float, float, float, float], alpha: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        overlay_on_picture(picture, np.ones((2, 2)), box, alpha)
